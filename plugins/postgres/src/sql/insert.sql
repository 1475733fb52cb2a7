-- New evaluations and their history. Answers the ids that were new indeed: whose row is another's gets no history of ours.
WITH created AS (
    INSERT INTO {evaluations} (
        id, status, code_hash, created_at, queued_at, started_at, completed_at, engine, runtime_ms, memory_used_mb,
        exit_code, language, output, output_size, output_truncated, error, error_size, error_truncated, metadata, state
    )
    SELECT
        id, status, code_hash, created_at, queued_at, started_at, completed_at, engine, runtime_ms, memory_used_mb,
        exit_code, language, output, output_size, output IS NULL AND output_size IS NOT NULL,
        error, error_size, error IS NULL AND error_size IS NOT NULL,
        ('{"code":' || coalesce(code, 'null') || rest)::json, state
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) AS r (
        id, status, code_hash, created_at, queued_at, started_at, completed_at, engine, runtime_ms, memory_used_mb,
        exit_code, language, output, output_size, error, error_size, code, rest, state
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), history AS (
    INSERT INTO {events} (evaluation_id, event_id, timestamp, event_type, message, metadata)
    SELECT
        h.evaluation_id, h.event_id, h.timestamp, h.event_type, h.message,
        jsonb_build_object('new_status', h.new_status)
    FROM unnest($20, $21, $22, $23, $24, $25) AS h (evaluation_id, event_id, timestamp, event_type, message, new_status)
    WHERE h.evaluation_id IN (SELECT id FROM created)
)
SELECT id FROM created
