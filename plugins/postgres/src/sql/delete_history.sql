DELETE FROM {events} AS e
USING unnest($1, $2) AS h (evaluation_id, event_id)
WHERE e.evaluation_id = h.evaluation_id AND e.event_id = h.event_id
