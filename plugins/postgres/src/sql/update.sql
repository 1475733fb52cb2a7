-- Evaluations that are locked. A body that stays is not sent: bit 1 of `flags` is the output, bit 2 the error; bits 4 and
-- 8 say that what is sent is not the whole one. A code that is null is taken from the JSON that is there.
UPDATE {evaluations} AS e SET
    status = r.status,
    code_hash = r.code_hash,
    created_at = r.created_at,
    queued_at = r.queued_at,
    started_at = r.started_at,
    completed_at = r.completed_at,
    engine = r.engine,
    runtime_ms = r.runtime_ms,
    memory_used_mb = r.memory_used_mb,
    exit_code = r.exit_code,
    language = r.language,
    output = CASE WHEN r.flags & 1 = 0 THEN r.output ELSE e.output END,
    output_size = r.output_size,
    output_truncated = CASE WHEN r.flags & 1 = 0 THEN r.flags & 4 <> 0 ELSE e.output_truncated END,
    error = CASE WHEN r.flags & 2 = 0 THEN r.error ELSE e.error END,
    error_size = r.error_size,
    error_truncated = CASE WHEN r.flags & 2 = 0 THEN r.flags & 8 <> 0 ELSE e.error_truncated END,
    metadata = ('{"code":' || coalesce(r.code, (e.metadata -> 'code')::text, 'null') || r.rest)::json,
    state = r.state
FROM (
    SELECT
        unnest($1) AS id, unnest($2) AS status, unnest($3) AS code_hash, unnest($4) AS created_at,
        unnest($5) AS queued_at, unnest($6) AS started_at, unnest($7) AS completed_at, unnest($8) AS engine,
        unnest($9) AS runtime_ms, unnest($10) AS memory_used_mb, unnest($11) AS exit_code, unnest($12) AS language,
        unnest($13) AS output, unnest($14) AS output_size, unnest($15) AS error, unnest($16) AS error_size,
        unnest($17) AS code, unnest($18) AS rest, unnest($19) AS state, unnest($20) AS flags
) AS r
WHERE e.id = r.id
