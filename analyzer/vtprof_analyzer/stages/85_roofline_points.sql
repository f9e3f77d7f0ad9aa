-- One row: a cell of the roofline plot: steps of one phase with like intensity and rate.
-- phase              encode, prefill, decode, or mixed (prefill and decode in one step)
-- intensity          FLOP/B, mean of the cell weighed by time; flops_per_s: achieved rate, likewise
-- steps, seconds     iterations in the cell and their time [s]
-- Sums of doubles are taken in one order: in another their last digit, and so the report, would differ from run to run.
-- The plane is cut into `settings.roof_columns` x `settings.roof_rows` cells, equal in the logarithm.
CREATE TABLE roofline_points AS
WITH points AS (
    SELECT CASE WHEN phase <> 'encode' AND mixed THEN 'mixed' ELSE phase END AS phase,
           step_id, sum(flops ORDER BY phase) AS flops, sum(bytes ORDER BY phase) AS bytes,
           sum(time_s ORDER BY phase) AS time_s, any_value(steps) AS steps
    FROM step_cost
    GROUP BY ALL
), placed AS (
    SELECT *, ln(flops / bytes) AS x, ln(flops / time_s) AS y FROM points WHERE flops > 0 AND bytes > 0 AND time_s > 0
), bounds AS (
    SELECT min(x) AS x0, max(x) AS x1, min(y) AS y0, max(y) AS y1 FROM placed
)
SELECT phase, sum(exp(x) * time_s ORDER BY step_id) / sum(time_s ORDER BY step_id) AS intensity,
       sum(exp(y) * time_s ORDER BY step_id) / sum(time_s ORDER BY step_id) AS flops_per_s,
       sum(steps)::BIGINT AS steps, sum(time_s ORDER BY step_id) AS seconds
FROM placed, bounds, settings
GROUP BY phase,
         least(roof_columns - 1, floor((x - x0) / nullif(x1 - x0, 0) * roof_columns)),
         least(roof_rows - 1, floor((y - y0) / nullif(y1 - y0, 0) * roof_rows));
