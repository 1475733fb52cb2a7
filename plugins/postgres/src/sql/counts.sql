SELECT status::text, count(*) FROM {evaluations} GROUP BY status
