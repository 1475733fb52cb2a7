SELECT id, state FROM {evaluations} WHERE id = ANY($1)
