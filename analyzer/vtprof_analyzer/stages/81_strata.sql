-- One row: the requests of one visual stratum that had a first token.
-- visual_stratum     label: visual tokens up to that many; position: its place in the order
-- requests           requests in it
-- ttft_ms_p50, ttft_ms_p95  weighted by sampling, linear interpolation [ms]
CREATE TABLE strata AS
WITH told AS (
    SELECT visual_stratum AS what, ttft_ms AS value, weight FROM requests
    WHERE ttft_ms IS NOT NULL AND visual_stratum IS NOT NULL
), counted AS (
    SELECT what, count(*) AS requests FROM told GROUP BY what
)
SELECT v.label AS visual_stratum, any_value(v.position) AS position, any_value(c.requests) AS requests,
       max(q.value) FILTER (q.quantile = 0.50) AS ttft_ms_p50, max(q.value) FILTER (q.quantile = 0.95) AS ttft_ms_p95
FROM weighted_quantiles('told') AS q
JOIN counted AS c USING (what)
JOIN visual_strata AS v ON q.what = v.label
GROUP BY v.label;
