-- One row: one stretch of time in which some request of a scope was being served: from an arrival on, to the last end.
-- scope              as in `fact_scopes`
-- start_ns, end_ns   Unix time; the stretches of a scope do not touch
CREATE TABLE served_times AS
WITH served AS (
    -- Times of a later scope are the later ones: the latest end so far is one of the scope from its first request on.
    SELECT m.scope, q.arrival_ns, q.end_ns, m.scope * 18_446_744_073_709_551_616::HUGEINT AS shift
    FROM request_base AS q
    JOIN fact_members AS m ON m.resource_id = q.resource_id AND m.model IS NOT DISTINCT FROM q.model
    WHERE q.end_ns > q.arrival_ns
), reached AS (
    -- Sorted first and then gone through: a window that sorts does so at several times the cost.
    SELECT *, max(shift + end_ns) OVER (ROWS UNBOUNDED PRECEDING) AS latest FROM (FROM served ORDER BY scope, arrival_ns, end_ns)
), followed AS (
    SELECT *, lag(latest) OVER () AS before FROM reached
), begun AS (
    SELECT *, sum((before IS NULL OR shift + arrival_ns > before)::INT) OVER (ROWS UNBOUNDED PRECEDING) AS stretch FROM followed
)
SELECT scope, min(arrival_ns) AS start_ns, max(end_ns) AS end_ns FROM begun GROUP BY scope, stretch;
