SELECT evaluation_id, name, body FROM {bodies} WHERE evaluation_id = ANY($1)
