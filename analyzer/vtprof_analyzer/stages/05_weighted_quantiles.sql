-- weighted_quantiles(source): one row: one quantile of one group, over the values of a table of that name.
-- Reads what (group), value, weight (>= 1: how many like it one stands for); a NULL value is left out.
-- what, quantile     0.5, 0.95 or 0.99
-- value              linear interpolation over the values, each repeated `weight` times: `quantile_cont` of all requests
--                    where the weights are whole, and of the values themselves where all are 1
CREATE MACRO weighted_quantiles(source) AS TABLE
WITH weighted AS (
    SELECT what FROM query_table(source) GROUP BY what HAVING max(weight) > 1
), binned AS (
    -- Bins that grow with the value, by 3 % from a millionth on: sorting the one that a quantile lies in does for all.
    SELECT what, value::DOUBLE AS value, weight, floor(32 * asinh(1e6 * value::DOUBLE)) AS bin
    FROM query_table(source) SEMI JOIN weighted USING (what)
    WHERE value IS NOT NULL
), bins AS (
    SELECT what, bin, sum(weight) AS weight, min(value) AS least FROM binned GROUP BY what, bin
), laid_out AS (
    SELECT what, bin, weight, sum(weight) OVER ordered - weight AS begins, sum(weight) OVER (PARTITION BY what) AS total,
           lead(least) OVER (PARTITION BY what ORDER BY bin) AS following
    FROM bins
    WINDOW ordered AS (PARTITION BY what ORDER BY bin ROWS UNBOUNDED PRECEDING)
), asked AS (
    -- Places 0 to total - 1.
    SELECT what, quantile, any_value(quantile * (total - 1)) AS place, max(begins) AS begins, arg_max(bin, begins) AS bin,
           arg_max(following, begins) AS following
    FROM laid_out, (SELECT unnest([0.50, 0.95, 0.99])::DOUBLE AS quantile)
    WHERE begins <= quantile * (total - 1)
    GROUP BY what, quantile
), placed AS (
    SELECT what, quantile, place, value, weight, begins + sum(weight) OVER ordered - weight AS begins,
           coalesce(lead(value) OVER (PARTITION BY what, quantile ORDER BY value, weight), following) AS following
    FROM binned JOIN asked USING (what, bin)
    WINDOW ordered AS (PARTITION BY what, quantile ORDER BY value, weight ROWS UNBOUNDED PRECEDING)
)
-- Past the last repetition of a value the line to the following one begins.
SELECT what, quantile,
       arg_max(value + greatest(0, least(1, place - (begins + weight - 1))) * (coalesce(following, value) - value), begins)
           AS value
FROM placed
WHERE begins <= place
GROUP BY what, quantile
UNION ALL
-- The same without weights, in a tenth of the time.
SELECT what, unnest([0.50, 0.95, 0.99])::DOUBLE AS quantile,
       unnest(quantile_cont(value::DOUBLE, [0.50, 0.95, 0.99])) AS value
FROM query_table(source) ANTI JOIN weighted USING (what)
WHERE value IS NOT NULL
GROUP BY what;
