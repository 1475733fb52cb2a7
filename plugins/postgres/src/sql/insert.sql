-- New evaluations and their history. Answers the ids that were new indeed: whose row is another's gets no history of ours.
-- Bit 4 of `flags` says that the output is not the whole one, bit 8 that the error is not.
WITH created AS (
    INSERT INTO {evaluations} (
        id, status, code_hash, created_at, queued_at, started_at, completed_at, engine, runtime_ms, memory_used_mb,
        exit_code, language, output, output_size, output_truncated, error, error_size, error_truncated, metadata, state
    )
    SELECT
        id, status, code_hash, created_at, queued_at, started_at, completed_at, engine, runtime_ms, memory_used_mb,
        exit_code, language, output, output_size, flags & 4 <> 0,
        error, error_size, flags & 8 <> 0,
        ('{"code":' || coalesce(code, 'null') || rest)::json, state
    FROM (
        SELECT
            unnest($1) AS id, unnest($2) AS status, unnest($3) AS code_hash, unnest($4) AS created_at,
            unnest($5) AS queued_at, unnest($6) AS started_at, unnest($7) AS completed_at, unnest($8) AS engine,
            unnest($9) AS runtime_ms, unnest($10) AS memory_used_mb, unnest($11) AS exit_code,
            unnest($12) AS language, unnest($13) AS output, unnest($14) AS output_size, unnest($15) AS error,
            unnest($16) AS error_size, unnest($17) AS code, unnest($18) AS rest, unnest($19) AS state,
            unnest($20) AS flags
    ) AS r
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), history AS (
    INSERT INTO {events} (evaluation_id, event_id, timestamp, event_type, message, metadata)
    SELECT
        h.evaluation_id, h.event_id, h.timestamp, h.event_type, h.message,
        jsonb_build_object('new_status', h.new_status)
    FROM (
        SELECT
            unnest($21) AS evaluation_id, unnest($22) AS event_id, unnest($23) AS timestamp,
            unnest($24) AS event_type, unnest($25) AS message, unnest($26) AS new_status
    ) AS h
    WHERE h.evaluation_id IN (SELECT id FROM created)
)
SELECT id FROM created
