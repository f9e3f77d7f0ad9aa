-- One row: the text-only requests of one process and one block of time (as in `interference_cells`, by their first token)
-- that have one time: sums of what they waited for, for a regression of their times on the work beside them.
-- instance, block    as there; what: ttft_ms (from hand-over to first token) or tpot_ms (from there to the end, per token)
-- requests           how many; weight: for how many they stand; value_ms: sum of weight x the time itself [ms]
-- y                  sum of weight x the time that work can explain [ns]
-- x1, x2, x3, x4, x5, x6  sums of weight x what ran meanwhile: iterations, decodes, context tokens, other prompt tokens (own
--                    ones too), visual prompt tokens, patches; per token where the time is
-- x*y                sums of weight x one of x1 to x6, by its digit, x the time y
-- x*                 sums of weight x the product of two of x1 to x6, by their digits
-- time_ns, known_ns  sums of the requests' time, all of it and that in recorded steps [ns]
CREATE TABLE interference_requests AS
WITH whole AS (
    SELECT min(start_ns) AS begin_ns, max(end_ns) AS until_ns FROM engine_work
), asked AS MATERIALIZED (
    SELECT q.request_number, k.instance,
           least(39, greatest(0, floor(40 * (q.arrival_ns + q.ttft_ns - w.begin_ns) / (w.until_ns - w.begin_ns))))::INT AS block,
           q.weight, q.ttft_ns, q.tpot_ns, b.queue_ns + b.prefill_ns AS early_ns, q.end_ns - q.arrival_ns - q.ttft_ns AS decode_ns,
           q.output_tokens / q.sequences - 1 AS tokens,
           coalesce(p.tokens, q.input_tokens - coalesce(q.cached_tokens, 0), 0) AS own_tokens
    FROM whole AS w, request_base AS q
    JOIN request_budget AS b USING (request_number)
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN phases AS p ON p.request_number = q.request_number AND p.phase = 'prefill'
    WHERE q.visual_tokens = 0
), ran AS (
    SELECT request_number, e.during <> 'decode' AS early, sum(e.iterations) AS iterations, sum(e.decodes) AS decodes,
           sum(e.context_tokens) AS context, sum(e.text_tokens) AS text_tokens, sum(e.visual_tokens) AS visual_tokens,
           sum(e.patches) AS patches, sum(e.own_ns) AS own_ns, sum(e.steps_ns) AS steps_ns
    FROM exposures AS e JOIN asked AS a USING (request_number)
    GROUP BY ALL
), told AS (
    SELECT a.instance, a.block, CASE WHEN r.early THEN 'ttft_ms' ELSE 'tpot_ms' END AS what, a.weight,
           CASE WHEN r.early THEN a.ttft_ns ELSE a.tpot_ns END / 1e6 AS value,
           CASE WHEN r.early THEN a.early_ns - r.own_ns ELSE a.decode_ns END AS time_ns,
           CASE WHEN r.early THEN 1 ELSE a.tokens END AS tokens, r.iterations, r.decodes, r.context,
           r.text_tokens + CASE WHEN r.early THEN a.own_tokens ELSE 0 END AS text_tokens, r.visual_tokens, r.patches, r.steps_ns
    FROM ran AS r JOIN asked AS a USING (request_number)
    WHERE r.early OR a.tpot_ns > 0
), scaled AS (
    SELECT instance, block, what, weight, value, time_ns, steps_ns, time_ns / tokens AS y, iterations / tokens AS x1, decodes / tokens AS x2,
           context / tokens AS x3, text_tokens / tokens AS x4, visual_tokens / tokens AS x5, patches / tokens AS x6
    FROM told
)
SELECT instance, block, what, count(*) AS requests, sum(weight) AS weight, sum(weight * value) AS value_ms,
       sum(weight * y) AS y, sum(weight * x1) AS x1, sum(weight * x2) AS x2, sum(weight * x3) AS x3,
       sum(weight * x4) AS x4, sum(weight * x5) AS x5, sum(weight * x6) AS x6,
       sum(weight * x1 * x1) AS x11, sum(weight * x1 * x2) AS x12, sum(weight * x1 * x3) AS x13,
       sum(weight * x1 * x4) AS x14, sum(weight * x1 * x5) AS x15, sum(weight * x1 * x6) AS x16,
       sum(weight * x2 * x2) AS x22, sum(weight * x2 * x3) AS x23, sum(weight * x2 * x4) AS x24,
       sum(weight * x2 * x5) AS x25, sum(weight * x2 * x6) AS x26, sum(weight * x3 * x3) AS x33,
       sum(weight * x3 * x4) AS x34, sum(weight * x3 * x5) AS x35, sum(weight * x3 * x6) AS x36,
       sum(weight * x4 * x4) AS x44, sum(weight * x4 * x5) AS x45, sum(weight * x4 * x6) AS x46,
       sum(weight * x5 * x5) AS x55, sum(weight * x5 * x6) AS x56, sum(weight * x6 * x6) AS x66,
       sum(weight * x1 * y) AS x1y, sum(weight * x2 * y) AS x2y, sum(weight * x3 * y) AS x3y,
       sum(weight * x4 * y) AS x4y, sum(weight * x5 * y) AS x5y, sum(weight * x6 * y) AS x6y,
       sum(time_ns) AS time_ns, sum(least(steps_ns, time_ns)) AS known_ns
FROM scaled
GROUP BY instance, block, what;
