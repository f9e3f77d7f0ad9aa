-- One row: like steps of one process in one block of time, summed up: what the visual work of steps is estimated from.
-- instance           the process; block: one of 40 equal stretches of the run's time
-- what               NULL for steps without visual work, the controls; ttft_ms or tpot_ms for steps with it, weighed by the
--                    text-only requests that they held up: before their first token, or after it
-- mixed              whether the steps hold prompt tokens other than visual ones, too
-- d_bin, c_bin, t_bin  steps are alike in these: decoding requests, cached tokens that each of them reads, and other prompt
--                    tokens, each of an iteration, within a factor of 1.41 (context, tokens: 2); NULL where a step held
--                    visual work alone: without it there would have been no step
-- steps              how many; n: controls: iterations; else requests x the part of the step, behind its encoder, in which
--                    they waited; for tpot_ms over their tokens
-- y                  sum of n x the step's time and the gap behind it, and what they waited for its encoder [ns]; d, c, t: of n x decoding requests, context tokens
--                    and other prompt tokens
-- dd, dc, dt, cc, ct, tt, dy, cy, ty, yy  sums of n x products of these; nn: of n squared
CREATE TABLE interference_cells AS
WITH whole AS (
    SELECT min(start_ns) AS begin_ns, max(end_ns) AS until_ns FROM engine_work
), gaps AS (
    -- What lies between two steps of a busy process: the lower quartile, as the others hold idle time.
    SELECT instance, quantile_cont(gap_ns, 0.25) AS gap_ns
    FROM (SELECT instance, lead(start_ns) OVER (PARTITION BY instance ORDER BY start_ns) - end_ns AS gap_ns FROM engine_work)
    GROUP BY instance
), audio AS (
    SELECT coalesce(sum(audio_tokens), 0) > 0 AS heard FROM request_base
), likened AS (
    SELECT w.instance, w.start_ns, w.rest_ns, w.end_ns, w.iterations, w.end_ns - w.rest_ns AS rest,
           rest + coalesce(g.gap_ns, 0) AS pitch,
           least(39, floor(40 * (w.start_ns - begin_ns) / (until_ns - begin_ns)))::INT AS block,
           w.visual_tokens > 0 OR w.patches > 0 OR w.encode > 0 AS visual,
           w.decodes / w.iterations AS d, w.context / w.iterations AS c, w.text_tokens / w.iterations AS t
    FROM whole, audio, engine_work AS w JOIN gaps AS g USING (instance)
    -- Folded iterations tell no time of their own. Where there is audio, an encoder alone may have been its.
    WHERE NOT w.folded AND NOT (heard AND w.visual_tokens = 0 AND (w.patches > 0 OR w.encode > 0))
), binned AS (
    SELECT *, t > 0 AS mixed,
           -- Steps with prompts are few: their context is left to the correction within a bin.
           CASE WHEN t > 0 THEN floor(log2(d + 1)) WHEN d > 0 THEN floor(2 * log2(d + 1)) END AS d_bin,
           CASE WHEN t > 0 THEN 0 WHEN d > 0 THEN floor(log2(c / d + 1)) END AS c_bin,
           CASE WHEN d + t > 0 THEN floor(log2(t + 1)) END AS t_bin
    FROM likened
), texts AS (
    SELECT k.instance, q.weight, q.arrival_ns + coalesce(b.preprocess_ns, 0) AS begin_ns,
           q.arrival_ns + q.ttft_ns AS first_token_ns, q.end_ns, q.tpot_ns,
           q.weight / (q.output_tokens / q.sequences - 1) AS per_token
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    JOIN request_budget AS b USING (request_key)
    WHERE q.visual_tokens = 0
), edges AS (
    SELECT instance, 'ttft_ms' AS what, begin_ns AS ts, weight AS delta FROM texts WHERE first_token_ns > begin_ns
    UNION ALL
    SELECT instance, 'ttft_ms', first_token_ns, -weight FROM texts WHERE first_token_ns > begin_ns
    UNION ALL
    SELECT instance, 'tpot_ms', first_token_ns, per_token FROM texts WHERE tpot_ns > 0 AND end_ns > first_token_ns
    UNION ALL
    SELECT instance, 'tpot_ms', end_ns, -per_token FROM texts WHERE tpot_ns > 0 AND end_ns > first_token_ns
), rates AS (
    SELECT instance, what, ts, lead(ts) OVER time - ts AS length_ns, greatest(0, sum(delta) OVER time) AS waiting
    FROM (SELECT instance, what, ts, sum(delta) AS delta FROM edges GROUP BY ALL)
    WINDOW time AS (PARTITION BY instance, what ORDER BY ts ROWS UNBOUNDED PRECEDING)
), totals AS (
    SELECT *, coalesce(sum(waiting * length_ns) OVER (
        PARTITION BY instance, what ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
    FROM rates
), asked AS (
    -- The encoder comes first: who arrives later does not wait for it.
    SELECT b.instance, b.start_ns, w.what, unnest([
               {early: true, sign: -1, ts: b.start_ns}, {early: true, sign: 1, ts: b.rest_ns},
               {early: false, sign: -1, ts: b.rest_ns}, {early: false, sign: 1, ts: b.end_ns}
           ], recursive := true)
    FROM binned AS b, (VALUES ('ttft_ms'), ('tpot_ms')) AS w (what) WHERE b.visual
), exposed AS (
    SELECT a.instance, a.start_ns, a.what,
           coalesce(sum(a.sign * (t.before + t.waiting * (a.ts - t.ts))) FILTER (a.early), 0) AS encoder_ns,
           coalesce(sum(a.sign * (t.before + t.waiting * (a.ts - t.ts))) FILTER (NOT a.early), 0) AS waited_ns
    FROM asked AS a
    ASOF JOIN totals AS t ON a.instance = t.instance AND a.what = t.what AND a.ts >= t.ts
    GROUP BY a.instance, a.start_ns, a.what
), weighed AS (
    SELECT b.* EXCLUDE (iterations), NULL AS what, iterations AS n, pitch / iterations AS y FROM binned AS b WHERE NOT visual
    UNION ALL BY NAME
    SELECT b.* EXCLUDE (iterations), e.what, e.waited_ns / b.rest AS n, b.pitch + greatest(0, e.encoder_ns) / n AS y
    FROM binned AS b JOIN exposed AS e USING (instance, start_ns)
    -- A difference of totals of less than a nanosecond is rounding.
    WHERE e.waited_ns > 1
)
SELECT instance, block, what, mixed, d_bin, c_bin, t_bin, count(*) AS steps, sum(n) AS n, sum(n * y) AS y,
       sum(n * d) AS d, sum(n * c) AS c, sum(n * t) AS t,
       sum(n * d * d) AS dd, sum(n * d * c) AS dc, sum(n * d * t) AS dt, sum(n * c * c) AS cc, sum(n * c * t) AS ct,
       sum(n * t * t) AS tt, sum(n * d * y) AS dy, sum(n * c * y) AS cy, sum(n * t * y) AS ty, sum(n * y * y) AS yy,
       sum(n * n) AS nn
FROM weighed
GROUP BY ALL;
