DELETE FROM {evaluations} WHERE id = ANY($1)
