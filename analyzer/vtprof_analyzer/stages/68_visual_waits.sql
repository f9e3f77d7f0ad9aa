-- One row: one request with a first token: what it waited for images, its own and its neighbours', by the steps of the
-- process that served it. No row where that process recorded no step with prefill or encode work.
-- request_key        row of `request_base`
-- encode_ns          time between arrival and first token in which the process ran the encoder [ns]
-- visual_share       visual part of the prompt work that ran during the request's prefill, 0..1: by FLOPs where the
--                    step's cost is known, else by tokens; NULL when no step held prefill meanwhile
-- A window of folded iterations does not tell when in it the encoder ran: it is left out.
-- Each step is cut in two: the encoder first, then the rest, whose work is spread evenly. Running totals over time
-- make the work between any two moments a difference of two look-ups; joining steps to requests by range would not end.
CREATE TABLE visual_waits AS
WITH work AS (
    SELECT k.instance, s.start_ns, s.end_ns,
           s.start_ns + least(s.duration_ns, greatest(s.encode_ns, s.encode_gpu_time_ns, 0)) AS encoded_ns,
           s.prefill_tokens, s.prefill_visual_tokens, coalesce(c.flops, 0) AS flops, coalesce(c.visual_flops, 0) AS visual_flops
    FROM steps AS s
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN (SELECT step_id, flops, visual_flops FROM step_cost WHERE phase = 'prefill') AS c USING (step_id)
    WHERE NOT s.folded AND s.duration_ns > 0 AND (s.prefill_tokens > 0 OR s.encode_ns > 0 OR s.encode_gpu_time_ns > 0)
), pieces AS (
    SELECT instance, start_ns, encoded_ns AS end_ns, 1.0::DOUBLE AS encoding, 0.0::DOUBLE AS tokens,
           0.0::DOUBLE AS visual_tokens, 0.0::DOUBLE AS flops, 0.0::DOUBLE AS visual_flops
    FROM work WHERE encoded_ns > start_ns
    UNION ALL
    -- The rates of work, per nanosecond.
    SELECT instance, begin_ns, end_ns, 0.0, prefill_tokens / length_ns, prefill_visual_tokens / length_ns,
           flops / length_ns, visual_flops / length_ns
    FROM (SELECT *, CASE WHEN encoded_ns < end_ns THEN encoded_ns ELSE start_ns END AS begin_ns,
                 end_ns - begin_ns AS length_ns FROM work)
    WHERE prefill_tokens > 0
), edges AS (
    SELECT *, start_ns AS ts, 1 AS sign FROM pieces
    UNION ALL
    SELECT *, end_ns AS ts, -1 AS sign FROM pieces
), moments AS (
    SELECT instance, ts, sum(sign * encoding) AS encoding, sum(sign * tokens) AS tokens,
           sum(sign * visual_tokens) AS visual_tokens, sum(sign * flops) AS flops, sum(sign * visual_flops) AS visual_flops
    FROM edges GROUP BY ALL
), rates AS (
    SELECT instance, ts, lead(ts) OVER time - ts AS length_ns,
           -- Two encoders at once still take the time once.
           least(1, round(sum(encoding) OVER time)) AS encoding, sum(tokens) OVER time AS tokens,
           sum(visual_tokens) OVER time AS visual_tokens, sum(flops) OVER time AS flops,
           sum(visual_flops) OVER time AS visual_flops
    FROM moments
    WINDOW time AS (PARTITION BY instance ORDER BY ts)
), totals AS (
    SELECT *,
           coalesce(sum(encoding * length_ns) OVER before, 0) AS encoding_total,
           coalesce(sum(tokens * length_ns) OVER before, 0) AS tokens_total,
           coalesce(sum(visual_tokens * length_ns) OVER before, 0) AS visual_tokens_total,
           coalesce(sum(flops * length_ns) OVER before, 0) AS flops_total,
           coalesce(sum(visual_flops * length_ns) OVER before, 0) AS visual_flops_total
    FROM rates
    WINDOW before AS (PARTITION BY instance ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), asked AS (
    SELECT q.request_key, k.instance, unnest([
               {sign: -1, ts: q.arrival_ns, whole: true}, {sign: 1, ts: q.arrival_ns + q.ttft_ns, whole: true},
               {sign: -1, ts: p.first_ns, whole: false},
               {sign: 1, ts: greatest(p.first_ns, least(p.last_ns, q.arrival_ns + q.ttft_ns)), whole: false}
           ], recursive := true)
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN phases AS p ON p.request_key = q.request_key AND p.phase = 'prefill'
    WHERE q.ttft_ns IS NOT NULL AND k.instance IN (SELECT instance FROM work)
), answered AS (
    SELECT a.request_key, a.sign, a.whole,
           coalesce(t.encoding_total + t.encoding * (a.ts - t.ts), 0) AS encoding,
           coalesce(t.tokens_total + t.tokens * (a.ts - t.ts), 0) AS tokens,
           coalesce(t.visual_tokens_total + t.visual_tokens * (a.ts - t.ts), 0) AS visual_tokens,
           coalesce(t.flops_total + t.flops * (a.ts - t.ts), 0) AS flops,
           coalesce(t.visual_flops_total + t.visual_flops * (a.ts - t.ts), 0) AS visual_flops
    FROM (FROM asked WHERE ts IS NOT NULL) AS a
    ASOF LEFT JOIN totals AS t ON a.instance = t.instance AND a.ts >= t.ts
), between_moments AS (
    SELECT request_key, sum(sign * encoding) FILTER (whole) AS encode_ns,
           sum(sign * tokens) FILTER (NOT whole) AS tokens, sum(sign * visual_tokens) FILTER (NOT whole) AS visual_tokens,
           sum(sign * flops) FILTER (NOT whole) AS flops, sum(sign * visual_flops) FILTER (NOT whole) AS visual_flops
    FROM answered GROUP BY request_key
)
SELECT request_key, encode_ns,
       -- Below half a token a difference of totals is rounding.
       CASE WHEN tokens >= 0.5 THEN least(1, greatest(0,
           CASE WHEN flops > 0 THEN visual_flops / flops ELSE visual_tokens / tokens END)) END AS visual_share
FROM between_moments;
