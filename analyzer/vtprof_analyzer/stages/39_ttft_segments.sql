-- One row: one stretch of a request's time between arrival and first token that a phase claims. What none claims has no row.
-- request_number     row of `request_base`
-- phase              who claims it: of the phases open at an instant the first of preprocess, queue, encode, transfer, prefill
-- start_ns, end_ns   Unix time; the stretches of a request do not overlap
-- own_work           whether the request's own encoding or prefill ran meanwhile
CREATE TABLE ttft_segments AS
WITH clipped AS (
    -- Only what lies between arrival and first token is part of TTFT.
    SELECT r.request_number, i.phase,
           greatest(i.start_ns, r.arrival_ns) AS start_ns, least(i.end_ns, r.arrival_ns + r.ttft_ns) AS end_ns
    FROM phase_intervals AS i
    JOIN request_base AS r USING (request_number)
    WHERE r.ttft_ns IS NOT NULL AND i.phase <> 'decode'
), events AS (
    -- +1 where a stretch begins, -1 where it ends: the running sum says how many are open.
    SELECT request_number, phase, start_ns AS ts, 1 AS delta FROM clipped WHERE end_ns > start_ns
    UNION ALL
    SELECT request_number, phase, end_ns AS ts, -1 AS delta FROM clipped WHERE end_ns > start_ns
), moments AS (
    SELECT request_number, ts,
           sum(delta) FILTER (phase = 'preprocess') AS d_preprocess,
           sum(delta) FILTER (phase = 'queue') AS d_queue,
           sum(delta) FILTER (phase = 'encode') AS d_encode,
           sum(delta) FILTER (phase = 'transfer') AS d_transfer,
           sum(delta) FILTER (phase = 'prefill') AS d_prefill
    FROM events GROUP BY request_number, ts
), segments AS (
    SELECT request_number, ts AS start_ns, lead(ts) OVER request AS end_ns,
           sum(d_preprocess) OVER request AS n_preprocess, sum(d_queue) OVER request AS n_queue,
           sum(d_encode) OVER request AS n_encode, sum(d_transfer) OVER request AS n_transfer,
           sum(d_prefill) OVER request AS n_prefill
    FROM moments
    WINDOW request AS (PARTITION BY request_number ORDER BY ts)
)
SELECT request_number,
       CASE WHEN n_preprocess > 0 THEN 'preprocess' WHEN n_queue > 0 THEN 'queue' WHEN n_encode > 0 THEN 'encode'
            WHEN n_transfer > 0 THEN 'transfer' ELSE 'prefill' END AS phase,
       start_ns, end_ns, coalesce(n_encode > 0, false) OR coalesce(n_prefill > 0, false) AS own_work
FROM segments
WHERE end_ns IS NOT NULL AND greatest(n_preprocess, n_queue, n_encode, n_transfer, n_prefill) > 0;
