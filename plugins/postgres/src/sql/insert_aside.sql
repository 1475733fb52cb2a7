INSERT INTO {bodies} (evaluation_id, name, body)
SELECT m.id, m.name, m.body FROM unnest($1, $2, $3) AS m (id, name, body)
ON CONFLICT (evaluation_id, name) DO UPDATE SET body = excluded.body
