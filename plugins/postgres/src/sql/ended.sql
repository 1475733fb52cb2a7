-- Evaluations that ended before a time, longest ago first.
SELECT id FROM {evaluations} WHERE completed_at < $1 AND state IS NOT NULL ORDER BY completed_at LIMIT $2
