-- Of rows that another program wrote what may tell when they ended; as in `get_adopted.sql`, without what may be long.
SELECT
    id, status, code_hash, created_at, NULL::text AS engine, NULL::text AS worker_id, NULL::integer AS runtime_ms,
    NULL::integer AS memory_used_mb, NULL::integer AS exit_code, NULL::text AS output, NULL::text AS error,
    NULL::bigint AS output_size, NULL::bigint AS error_size, NULL::boolean AS output_truncated,
    NULL::boolean AS error_truncated, NULL::text AS code_location, NULL::text AS output_location,
    NULL::text AS error_location, metadata::text AS metadata
FROM {evaluations} WHERE id = ANY($1)
