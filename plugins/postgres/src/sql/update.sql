-- Evaluations that are locked. A body that stays is not sent: bit 1 of `keep` is the output, bit 2 the error, and a code
-- that is null is taken from the JSON that is there.
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
    output = CASE WHEN r.keep & 1 = 0 THEN r.output ELSE e.output END,
    output_size = r.output_size,
    output_truncated =
        CASE WHEN r.keep & 1 = 0 THEN r.output IS NULL AND r.output_size IS NOT NULL ELSE e.output_truncated END,
    error = CASE WHEN r.keep & 2 = 0 THEN r.error ELSE e.error END,
    error_size = r.error_size,
    error_truncated =
        CASE WHEN r.keep & 2 = 0 THEN r.error IS NULL AND r.error_size IS NOT NULL ELSE e.error_truncated END,
    metadata = ('{"code":' || coalesce(r.code, (e.metadata -> 'code')::text, 'null') || r.rest)::json,
    state = r.state
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) AS r (
    id, status, code_hash, created_at, queued_at, started_at, completed_at, engine, runtime_ms, memory_used_mb,
    exit_code, language, output, output_size, error, error_size, code, rest, state, keep
)
WHERE e.id = r.id
