-- One row: one time over all requests that have it, each counted as often as its sampling says that there were of its like.
-- what               ttft_ms, tpot_ms, e2e_ms or ttft_without_visual_ms
-- p50, p95, p99      weighted, linear interpolation [ms]
CREATE TABLE percentiles AS
WITH times AS (
    SELECT weight, unnest([
               {what: 'ttft_ms', value: ttft_ms}, {what: 'tpot_ms', value: tpot_ms}, {what: 'e2e_ms', value: e2e_ms},
               {what: 'ttft_without_visual_ms', value: CASE WHEN ttft_ms IS NOT NULL THEN ttft_without_visual_ms END}
           ], recursive := true)
    FROM requests
)
SELECT what, max(value) FILTER (quantile = 0.50) AS p50, max(value) FILTER (quantile = 0.95) AS p95,
       max(value) FILTER (quantile = 0.99) AS p99
FROM weighted_quantiles('times')
GROUP BY what;
