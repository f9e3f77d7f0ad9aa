-- One row: one request with a first token: what it waited for images, its own and its neighbours', by the steps of the
-- process that served it. No row where that process recorded no step with prefill or encode work.
-- request_number     row of `request_base`
-- encode_ns          time between arrival and first token in which the process ran the encoder [ns]
-- visual_share       visual part of the prompt work that ran during the request's prefill, 0..1: by time, in each
--                    step by FLOPs where its cost is known, else by tokens; NULL when no step held prefill meanwhile
-- A window of folded iterations does not tell when in it the encoder ran: it is left out of encode_ns.
CREATE TABLE visual_waits AS
WITH requests AS MATERIALIZED (
    SELECT q.request_number, q.resource_id, q.arrival_ns, q.arrival_ns + q.ttft_ns AS first_token_ns,
           p.first_ns, p.last_ns
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN phases AS p ON p.request_number = q.request_number AND p.phase = 'prefill'
    WHERE q.ttft_ns IS NOT NULL
      AND k.instance IN (SELECT instance FROM engine_work WHERE text_tokens + visual_tokens + encode > 0)
), moments AS (
    -- Even numbers ask for the whole way to the first token, odd ones for prefill.
    SELECT resource_id, unnest([0, 0, 1, 1]) + 2 * request_number AS asked,
           unnest([-1, 1, -1, 1]) AS sign,
           unnest([arrival_ns, first_token_ns, first_ns, greatest(first_ns, least(last_ns, first_token_ns))]) AS ts
    FROM requests
), work AS MATERIALIZED (
    SELECT asked, encode, image, image + text AS prefill, visual_tokens, visual_tokens + text_tokens AS tokens
    FROM work_between('moments')
)
SELECT q.request_number, coalesce(w.encode, 0) AS encode_ns,
       -- Below half a token a difference of totals is rounding.
       CASE WHEN p.tokens >= 0.5 THEN least(1, greatest(0,
           CASE WHEN p.prefill >= 1 THEN p.image / p.prefill ELSE p.visual_tokens / p.tokens END)) END AS visual_share
FROM requests AS q
LEFT JOIN work AS w ON w.asked = 2 * q.request_number
LEFT JOIN work AS p ON p.asked = 2 * q.request_number + 1;
