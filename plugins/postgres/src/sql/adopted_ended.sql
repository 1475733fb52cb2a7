-- Rows that another program wrote may have ended before a time; no column of theirs says when.
SELECT id FROM {evaluations}
WHERE state IS NULL AND created_at < $1 AND status IN ('completed', 'failed', 'cancelled', 'timeout')
ORDER BY created_at LIMIT $2
