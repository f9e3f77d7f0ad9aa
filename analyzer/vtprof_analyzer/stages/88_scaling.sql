-- One row: one number of nodes that served at once, over all the time in which so many did.
-- nodes              machines with a process between its first and its last span; processes that name none share one
-- seconds            how long
-- rate               requests that arrived by the second, weighted
-- attainment         share of them that met every objective, 0..1 (or completed, where none was given)
-- goodput_per_s      of those, by the second
-- efficiency         goodput of one node / that of one node at the smallest number of nodes: 1 is linear; NULL where the
--                    run had one number only. Below the knee, where all requests meet the objectives, it tells the load
--                    that was offered, not what nodes can do
-- Numbers that held for less than the settings' share of the time are left out: machines start and end a little apart.
CREATE TABLE scaling AS
WITH processes AS (
    SELECT resource_id, min(start_ns) AS start_ns, max(greatest(start_ns, end_ns)) AS end_ns
    FROM spans WHERE dialect IS NOT NULL GROUP BY resource_id
), ordered AS (
    SELECT p.start_ns, p.end_ns, max(p.end_ns) OVER (
        PARTITION BY CASE WHEN h.named THEN h.host_name END ORDER BY p.start_ns, p.end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached_ns
    FROM processes AS p JOIN hosts AS h USING (resource_id)
), fresh AS (
    -- A machine with several processes counts once: of each what earlier ones leave of its time.
    SELECT greatest(start_ns, coalesce(reached_ns, start_ns)) AS start_ns, end_ns FROM ordered
    WHERE end_ns > coalesce(reached_ns, start_ns)
), edges AS (
    SELECT start_ns AS ts, 1 AS delta FROM fresh
    UNION ALL
    SELECT end_ns, -1 FROM fresh
), moments AS (
    SELECT ts, sum(delta) AS delta FROM edges GROUP BY ts
), stretches AS (
    SELECT ts, sum(delta) OVER (ORDER BY ts) AS nodes, lead(ts) OVER (ORDER BY ts) - ts AS length_ns FROM moments
), times AS (
    SELECT nodes, sum(length_ns) / 1e9 AS seconds FROM stretches WHERE nodes > 0 GROUP BY nodes
    HAVING sum(length_ns) > 0
), arrived AS (
    SELECT s.nodes, sum(q.weight) AS whole, sum(q.weight) FILTER (q.kept) AS kept
    FROM judged_requests AS q ASOF JOIN stretches AS s ON q.arrival_ns >= s.ts
    GROUP BY s.nodes
), reached AS (
    SELECT t.nodes::BIGINT AS nodes, t.seconds, a.whole / 1e9 / t.seconds AS rate,
           coalesce(a.kept, 0) / a.whole AS attainment, coalesce(a.kept, 0) / 1e9 / t.seconds AS goodput_per_s
    FROM times AS t JOIN arrived AS a USING (nodes), settings
    WHERE t.seconds >= settings.scaling_time_ratio * (SELECT sum(seconds) FROM times)
)
SELECT *,
       CASE WHEN count(*) OVER () > 1
            THEN goodput_per_s / nodes / nullif(first_value(goodput_per_s / nodes) OVER (ORDER BY nodes), 0) END AS efficiency
FROM reached;
