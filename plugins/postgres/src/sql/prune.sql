-- Whoever is being merged into is left for the next time.
DELETE FROM {evaluations} WHERE id IN (
    SELECT id FROM {evaluations} WHERE id = ANY($1) AND (completed_at < $2 OR state IS NULL)
    ORDER BY {id} FOR UPDATE SKIP LOCKED
)
RETURNING id
