-- One row: the requests of one visual stratum that had a first token.
-- visual_stratum     label: visual tokens up to that many; position: its place in the order
-- requests           requests in it
-- ttft_ms_p50, ttft_ms_p95  linear interpolation [ms]
CREATE TABLE strata AS
SELECT v.label AS visual_stratum, any_value(v.position) AS position, count(*) AS requests,
       quantile_cont(r.ttft_ms, 0.50) AS ttft_ms_p50, quantile_cont(r.ttft_ms, 0.95) AS ttft_ms_p95
FROM requests AS r
JOIN visual_strata AS v ON r.visual_stratum = v.label
WHERE r.ttft_ms IS NOT NULL
GROUP BY v.label;
