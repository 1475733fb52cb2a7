INSERT INTO {events} (evaluation_id, event_id, timestamp, event_type, message, metadata)
SELECT
    h.evaluation_id, h.event_id, h.timestamp, h.event_type, h.message, jsonb_build_object('new_status', h.new_status)
FROM unnest($1, $2, $3, $4, $5, $6) AS h (evaluation_id, event_id, timestamp, event_type, message, new_status)
