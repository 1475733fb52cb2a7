SELECT id FROM {evaluations} WHERE id = ANY($1) ORDER BY {id} FOR UPDATE
