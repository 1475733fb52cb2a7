DELETE FROM {bodies} AS b
USING unnest($1, $2) AS m (id, name)
WHERE b.evaluation_id = m.id AND b.name = m.name
