-- One row: two machines of which one ran work for requests, or for callers, of the other: how far apart their clocks are.
-- host_name          the machine of the child spans: `phase_intervals` takes the offset off their times
-- against            the machine of their parents, whose clock is taken as right
-- offset_ns          what the first clock is ahead: the middle of its bounds, or the one bound there is; 0 where the bounds
--                    allow that the clocks agree; NULL where they contradict each other: no one offset explains the times
-- low_ns, high_ns    bounds; NULL where nothing gives one
-- pairs              spans with their parent on the other machine, in both directions
--
--   parent   |--------------------|        a child begins no earlier than its parent:  offset <= begin - begin
--   child       |-----------|              a phase ends no later than its request:     offset >= end - end
--
-- The same between the two the other way round bounds the negative. One pair in a hundred may be wrong: a bound is the
-- first or last percentile. Where `low` exceeds `high` by no more than the settings' slack the clocks drifted.
CREATE TABLE clock_offsets AS
WITH several AS (
    SELECT resource_id, host_name FROM hosts WHERE (SELECT count(DISTINCT host_name) > 1 FROM hosts)
), children AS (
    SELECT s.trace_id, s.parent_span_id, s.name, s.start_ns, CASE WHEN s.end_ns >= s.start_ns THEN s.end_ns END AS end_ns,
           h.host_name
    FROM spans AS s JOIN several AS h USING (resource_id)
    WHERE s.parent_span_id IS NOT NULL
), pairs AS (
    SELECT c.host_name, h.host_name AS against, c.start_ns - p.start_ns AS high_ns,
           -- A caller need not wait for its answer; a request contains its phases.
           CASE WHEN p.name = 'vtprof.request' AND starts_with(c.name, 'vtprof.') AND p.end_ns >= p.start_ns
                THEN c.end_ns - p.end_ns END AS low_ns
    FROM children AS c
    JOIN spans AS p ON p.trace_id = c.trace_id AND p.span_id = c.parent_span_id
    JOIN several AS h ON h.resource_id = p.resource_id
    WHERE c.host_name <> h.host_name
), both_ways AS (
    SELECT host_name, against, low_ns, high_ns, true AS asked FROM pairs
    UNION ALL
    SELECT against, host_name, -high_ns, -low_ns, false FROM pairs
), bounds AS (
    SELECT host_name, against, quantile_disc(low_ns, 0.99) AS low_ns, quantile_disc(high_ns, 0.01) AS high_ns,
           count(*) AS pairs
    FROM both_ways GROUP BY ALL HAVING bool_or(asked)
)
SELECT host_name, against,
       CASE WHEN low_ns - high_ns > settings.clock_slack_ns THEN NULL
            WHEN coalesce(least(low_ns, high_ns) <= 0 AND greatest(low_ns, high_ns) >= 0, false)
                 OR (low_ns IS NULL AND high_ns >= 0) OR (high_ns IS NULL AND low_ns <= 0) THEN 0
            ELSE coalesce(low_ns + (high_ns - low_ns) // 2, low_ns, high_ns) END AS offset_ns,
       low_ns, high_ns, pairs
FROM bounds, settings;
