-- One row: a cell of the roofline plot: steps of one phase with like intensity and rate.
-- phase              encode, prefill, decode, or mixed (prefill and decode in one step)
-- intensity          FLOP/B, mean of the cell weighed by time; flops_per_s: achieved rate, likewise
-- steps, seconds     iterations in the cell and their time [s]
-- The plane is cut into `settings.roof_columns` x `settings.roof_rows` cells, equal in the logarithm. Sums are taken of whole
-- numbers: in another order sums of doubles differ in the last digit, and so would the report from run to run.
CREATE TABLE roofline_points AS
WITH placed AS (
    SELECT phase, steps, time_s, intensity, flops, ln(intensity) AS x, ln(flops / time_s) AS y
    FROM roofline WHERE NOT shared AND phase <> 'step' AND flops > 0 AND bytes > 0 AND time_s > 0
), bounds AS (
    SELECT min(x) AS x0, max(x) AS x1, min(y) AS y0, max(y) AS y1 FROM placed
)
SELECT phase,
       sum(TRY_CAST(intensity * time_s * 1e15 AS HUGEINT)) / 1e15 / (sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15) AS intensity,
       sum(TRY_CAST(flops AS HUGEINT)) / (sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15) AS flops_per_s,
       sum(steps)::BIGINT AS steps, sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15 AS seconds
FROM placed, bounds, settings
GROUP BY phase,
         least(roof_columns - 1, floor((x - x0) / nullif(x1 - x0, 0) * roof_columns)),
         least(roof_rows - 1, floor((y - y0) / nullif(y1 - y0, 0) * roof_rows));
