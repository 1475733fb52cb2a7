-- Rows that another program wrote and that may have ended before a time, behind a place; no column of theirs says when.
SELECT id, created_at FROM {evaluations}
WHERE state IS NULL AND created_at < $1 AND (created_at, {id}) > ($2, $3)
    AND status IN ('completed', 'failed', 'cancelled', 'timeout')
ORDER BY created_at, {id} LIMIT $4
