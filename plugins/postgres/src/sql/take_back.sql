-- Bodies that are shown again go from the table of bodies to the column named by the third parameter.
UPDATE {evaluations} AS e SET
    output = CASE $3 WHEN 'output' THEN b.body ELSE e.output END,
    output_truncated = CASE $3 WHEN 'output' THEN false ELSE e.output_truncated END,
    error = CASE $3 WHEN 'output' THEN e.error ELSE b.body END,
    error_truncated = CASE $3 WHEN 'output' THEN e.error_truncated ELSE false END
FROM unnest($1, $2) AS m (id, name)
JOIN {bodies} AS b ON b.evaluation_id = m.id AND b.name = m.name
WHERE e.id = m.id
