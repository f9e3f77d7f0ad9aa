-- One row: one request with a first token: what it waited for images, its own and its neighbours', by the steps of the
-- process that served it. No row where that process recorded no step with prefill or encode work.
-- request_key        row of `request_base`
-- encode_ns          time between arrival and first token in which the process ran the encoder [ns]
-- visual_share       visual part of the prompt work that ran during the request's prefill, 0..1: by time, in each
--                    step by FLOPs where its cost is known, else by tokens; NULL when no step held prefill meanwhile
-- A window of folded iterations does not tell when in it the encoder ran: it is left out of encode_ns.
CREATE TABLE visual_waits AS
WITH asked AS (
    SELECT q.request_key, k.instance, unnest([
               {during: 'whole', sign: -1, ts: q.arrival_ns}, {during: 'whole', sign: 1, ts: q.arrival_ns + q.ttft_ns},
               {during: 'prefill', sign: -1, ts: p.first_ns},
               {during: 'prefill', sign: 1, ts: greatest(p.first_ns, least(p.last_ns, q.arrival_ns + q.ttft_ns))}
           ], recursive := true)
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN phases AS p ON p.request_key = q.request_key AND p.phase = 'prefill'
    WHERE q.ttft_ns IS NOT NULL
), moments AS (
    FROM asked
    WHERE ts IS NOT NULL AND instance IN (SELECT instance FROM engine_work WHERE text_tokens + visual_tokens + encode > 0)
), work AS (
    SELECT request_key, during, encode, image, image + text AS prefill, visual_tokens, visual_tokens + text_tokens AS tokens
    FROM work_between('moments')
)
SELECT m.request_key, coalesce(w.encode, 0) AS encode_ns,
       -- Below half a token a difference of totals is rounding.
       CASE WHEN p.tokens >= 0.5 THEN least(1, greatest(0,
           CASE WHEN p.prefill >= 1 THEN p.image / p.prefill ELSE p.visual_tokens / p.tokens END)) END AS visual_share
FROM (SELECT DISTINCT request_key FROM moments) AS m
LEFT JOIN work AS w ON w.request_key = m.request_key AND w.during = 'whole'
LEFT JOIN work AS p ON p.request_key = m.request_key AND p.during = 'prefill';
