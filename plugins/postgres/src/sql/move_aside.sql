-- Bodies that are shown no more go from their columns to the table of bodies, without coming to us.
INSERT INTO {bodies} (evaluation_id, name, body)
SELECT e.id, m.name, CASE m.source WHEN 'output' THEN e.output ELSE e.error END
FROM unnest($1, $2, $3) AS m (id, name, source)
JOIN {evaluations} AS e ON e.id = m.id
WHERE CASE m.source WHEN 'output' THEN e.output ELSE e.error END IS NOT NULL
ON CONFLICT (evaluation_id, name) DO UPDATE SET body = excluded.body
