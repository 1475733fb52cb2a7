SELECT evaluation_id, timestamp, event_type, message, metadata::text AS metadata
FROM {events} WHERE evaluation_id = ANY($1) AND event_id IS NULL
ORDER BY evaluation_id, timestamp, id
