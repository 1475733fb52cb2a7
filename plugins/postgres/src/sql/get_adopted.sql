-- Rows that another program wrote; the JSON as text, since it may have what PostgreSQL cannot look into.
SELECT
    id, status, code_hash, created_at, engine, worker_id, runtime_ms, memory_used_mb, exit_code, output, error,
    output_size, error_size, output_truncated, error_truncated, code_location, output_location, error_location,
    metadata::text AS metadata
FROM {evaluations} WHERE id = ANY($1)
