SELECT id, state, CASE WHEN state IS NOT NULL THEN metadata ->> 'code' END, output, error
FROM {evaluations} WHERE id = ANY($1)
