-- One row: one stretch of time in which some request of a scope was being served: from an arrival on, to the last end.
-- scope              as in `fact_scopes`
-- start_ns, end_ns   Unix time; the stretches of a scope do not touch
CREATE TABLE served_times AS
WITH reached AS (
    SELECT m.scope, q.arrival_ns, q.end_ns, max(q.end_ns) OVER (
        PARTITION BY m.scope ORDER BY q.arrival_ns, q.end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached_ns
    FROM request_base AS q
    JOIN fact_members AS m ON m.resource_id = q.resource_id AND m.model IS NOT DISTINCT FROM q.model
    WHERE q.end_ns > q.arrival_ns
), begun AS (
    SELECT *, sum((reached_ns IS NULL OR arrival_ns > reached_ns)::INT) OVER (
        PARTITION BY scope ORDER BY arrival_ns, end_ns ROWS UNBOUNDED PRECEDING) AS stretch
    FROM reached
)
SELECT scope, min(arrival_ns) AS start_ns, max(end_ns) AS end_ns FROM begun GROUP BY scope, stretch;
