INSERT INTO {events} (evaluation_id, event_id, timestamp, event_type, message, metadata)
SELECT
    h.evaluation_id, h.event_id, h.timestamp, h.event_type, h.message, jsonb_build_object('new_status', h.new_status)
FROM (
    SELECT
        unnest($1) AS evaluation_id, unnest($2) AS event_id, unnest($3) AS timestamp, unnest($4) AS event_type,
        unnest($5) AS message, unnest($6) AS new_status
) AS h
