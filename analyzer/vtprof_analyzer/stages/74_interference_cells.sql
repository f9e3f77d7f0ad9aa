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
), processes AS MATERIALIZED (
    -- Numbers are cheaper to sort and to group by, and to look up, than texts.
    SELECT resource_id, instance, dense_rank() OVER (ORDER BY instance) AS process FROM kv_sizes
), steps_of AS (
    SELECT p.process, w.* EXCLUDE (instance)
    FROM engine_work AS w JOIN (SELECT DISTINCT instance, process FROM processes) AS p USING (instance)
), gaps AS (
    -- What lies between two steps of a busy process: the lower quartile, as the others hold idle time. Sorted rows stream
    -- through the window, which costs less than one by process.
    SELECT process, quantile_cont(gap_ns, 0.25) AS gap_ns
    FROM (SELECT process, CASE WHEN lead(process) OVER () = process THEN lead(start_ns) OVER () - end_ns END AS gap_ns
          FROM (SELECT process, start_ns, end_ns FROM steps_of ORDER BY process, start_ns))
    GROUP BY process
), audio AS (
    SELECT coalesce(sum(audio_tokens), 0) > 0 AS heard FROM request_base
), likened AS (
    SELECT w.process, w.start_ns, w.rest_ns, w.end_ns, w.iterations, w.end_ns - w.rest_ns AS rest,
           rest + coalesce(g.gap_ns, 0) AS pitch,
           least(39, floor(40 * (w.start_ns - begin_ns) / (until_ns - begin_ns)))::INT AS block,
           w.visual_tokens > 0 OR w.patches > 0 OR w.encode > 0 AS visual,
           w.decodes / w.iterations AS d, w.context / w.iterations AS c, w.text_tokens / w.iterations AS t
    FROM whole, audio, steps_of AS w JOIN gaps AS g USING (process)
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
    SELECT p.process, q.weight, q.arrival_ns + coalesce(b.preprocess_ns, 0) AS begin_ns,
           q.arrival_ns + q.ttft_ns AS first_token_ns, q.end_ns, q.tpot_ns,
           q.weight / (q.output_tokens / q.sequences - 1) AS per_token
    FROM request_base AS q
    JOIN processes AS p USING (resource_id)
    JOIN request_budget AS b USING (request_number)
    WHERE q.visual_tokens = 0
), edges AS (
    -- Of each process 2 n holds those who wait for their first token, 2 n + 1 those who wait for further ones.
    SELECT 2 * process AS who, unnest([begin_ns, first_token_ns]) AS ts, unnest([weight, -weight]) AS delta
    FROM texts WHERE first_token_ns > begin_ns
    UNION ALL
    SELECT 2 * process + 1, unnest([first_token_ns, end_ns]), unnest([per_token, -per_token])
    FROM texts WHERE tpot_ns > 0 AND end_ns > first_token_ns
), rates AS (
    -- All whose time began have ended where the next process begins: one sum does for all of them.
    SELECT who, ts, CASE WHEN lead(who) OVER () = who THEN lead(ts) OVER () - ts END AS length_ns,
           greatest(0, sum(delta) OVER (ROWS UNBOUNDED PRECEDING)) AS waiting
    FROM (SELECT who, ts, sum(delta) AS delta FROM edges GROUP BY who, ts ORDER BY who, ts)
), totals AS (
    SELECT *, coalesce(sum(waiting * length_ns) OVER (
        PARTITION BY who ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
    FROM rates
), asked AS (
    SELECT process, start_ns, 2 * process + what AS who, unnest(['start', 'rest', 'end']) AS moment,
           unnest([start_ns, rest_ns, end_ns]) AS ts
    FROM binned, (VALUES (0), (1)) AS w (what) WHERE visual
), waited AS (
    SELECT a.process, a.start_ns, a.who,
           sum(t.before + t.waiting * (a.ts - t.ts)) FILTER (moment = 'start') AS at_start,
           sum(t.before + t.waiting * (a.ts - t.ts)) FILTER (moment = 'rest') AS at_rest,
           sum(t.before + t.waiting * (a.ts - t.ts)) FILTER (moment = 'end') AS at_end
    FROM asked AS a ASOF JOIN totals AS t ON a.who = t.who AND a.ts >= t.ts
    GROUP BY a.process, a.start_ns, a.who
), exposed AS (
    -- The encoder comes first: who arrives later does not wait for it.
    SELECT process, start_ns, CASE who % 2 WHEN 0 THEN 'ttft_ms' ELSE 'tpot_ms' END AS what,
           coalesce(at_rest, 0) - coalesce(at_start, 0) AS encoder_ns, coalesce(at_end, 0) - coalesce(at_rest, 0) AS waited_ns
    FROM waited
), weighed AS (
    SELECT b.* EXCLUDE (iterations), NULL AS what, iterations AS n, pitch / iterations AS y FROM binned AS b WHERE NOT visual
    UNION ALL BY NAME
    SELECT b.* EXCLUDE (iterations), e.what, e.waited_ns / b.rest AS n, b.pitch + greatest(0, e.encoder_ns) / n AS y
    FROM binned AS b JOIN exposed AS e USING (process, start_ns)
    -- A difference of totals of less than a nanosecond is rounding.
    WHERE e.waited_ns > 1
), cells AS (
    SELECT process, block, what, mixed, d_bin, c_bin, t_bin, count(*) AS steps, sum(n) AS n, sum(n * y) AS y,
           sum(n * d) AS d, sum(n * c) AS c, sum(n * t) AS t,
           sum(n * d * d) AS dd, sum(n * d * c) AS dc, sum(n * d * t) AS dt, sum(n * c * c) AS cc, sum(n * c * t) AS ct,
           sum(n * t * t) AS tt, sum(n * d * y) AS dy, sum(n * c * y) AS cy, sum(n * t * y) AS ty, sum(n * y * y) AS yy,
           sum(n * n) AS nn
    FROM weighed
    GROUP BY ALL
)
SELECT p.instance, c.* EXCLUDE (process)
FROM cells AS c JOIN (SELECT DISTINCT instance, process FROM processes) AS p USING (process);
