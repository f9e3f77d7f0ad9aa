-- One row: one request with a first token: its TTFT, cut into phases that add up to it exactly.
-- request_key        row of `request_base`
-- ttft_ns            arrival to first token
-- preprocess_ns, queue_ns, encode_ns, transfer_ns, prefill_ns  time before the first token in that phase; an
--                    instant that two phases claim goes to the earlier one in this order; NULL where the spans of the
--                    request's dialect cannot tell the phase: its time is then in others, or unexplained
-- unexplained_ns     what no phase claims; never negative
-- has_phases         whether any phase was recorded for the request
CREATE TABLE request_budget AS
WITH clipped AS (
    -- Only what lies between arrival and first token is part of TTFT.
    SELECT r.request_key, i.phase,
           greatest(i.start_ns, r.arrival_ns) AS start_ns, least(i.end_ns, r.arrival_ns + r.ttft_ns) AS end_ns
    FROM phase_intervals AS i
    JOIN request_base AS r USING (request_key)
    WHERE r.ttft_ns IS NOT NULL AND i.phase <> 'decode'
), events AS (
    -- +1 where a stretch begins, -1 where it ends: the running sum says how many are open.
    SELECT request_key, phase, start_ns AS ts, 1 AS delta FROM clipped WHERE end_ns > start_ns
    UNION ALL
    SELECT request_key, phase, end_ns AS ts, -1 AS delta FROM clipped WHERE end_ns > start_ns
), moments AS (
    SELECT request_key, ts,
           sum(delta) FILTER (phase = 'preprocess') AS d_preprocess,
           sum(delta) FILTER (phase = 'queue') AS d_queue,
           sum(delta) FILTER (phase = 'encode') AS d_encode,
           sum(delta) FILTER (phase = 'transfer') AS d_transfer,
           sum(delta) FILTER (phase = 'prefill') AS d_prefill
    FROM events GROUP BY request_key, ts
), segments AS (
    SELECT request_key, lead(ts) OVER request - ts AS length_ns,
           sum(d_preprocess) OVER request AS n_preprocess, sum(d_queue) OVER request AS n_queue,
           sum(d_encode) OVER request AS n_encode, sum(d_transfer) OVER request AS n_transfer,
           sum(d_prefill) OVER request AS n_prefill
    FROM moments
    WINDOW request AS (PARTITION BY request_key ORDER BY ts)
), claimed AS (
    SELECT request_key, length_ns,
           CASE WHEN n_preprocess > 0 THEN 'preprocess' WHEN n_queue > 0 THEN 'queue'
                WHEN n_encode > 0 THEN 'encode' WHEN n_transfer > 0 THEN 'transfer'
                WHEN n_prefill > 0 THEN 'prefill' END AS phase
    FROM segments WHERE length_ns IS NOT NULL
), summed AS (
    SELECT request_key,
           coalesce(sum(length_ns) FILTER (phase = 'preprocess'), 0)::BIGINT AS preprocess_ns,
           coalesce(sum(length_ns) FILTER (phase = 'queue'), 0)::BIGINT AS queue_ns,
           coalesce(sum(length_ns) FILTER (phase = 'encode'), 0)::BIGINT AS encode_ns,
           coalesce(sum(length_ns) FILTER (phase = 'transfer'), 0)::BIGINT AS transfer_ns,
           coalesce(sum(length_ns) FILTER (phase = 'prefill'), 0)::BIGINT AS prefill_ns
    FROM claimed GROUP BY request_key
)
SELECT
    r.request_key, r.ttft_ns,
    CASE WHEN r.dialect IN ('vtprof', 'sglang') THEN coalesce(s.preprocess_ns, 0) END AS preprocess_ns,
    coalesce(s.queue_ns, 0) AS queue_ns,
    CASE WHEN r.dialect = 'vtprof' THEN coalesce(s.encode_ns, 0) END AS encode_ns,
    CASE WHEN r.dialect = 'vtprof' THEN coalesce(s.transfer_ns, 0) END AS transfer_ns,
    coalesce(s.prefill_ns, 0) AS prefill_ns,
    r.ttft_ns - coalesce(s.preprocess_ns + s.queue_ns + s.encode_ns + s.transfer_ns + s.prefill_ns, 0) AS unexplained_ns,
    r.request_key IN (SELECT request_key FROM phase_intervals) AS has_phases
FROM request_base AS r
LEFT JOIN summed AS s USING (request_key)
WHERE r.ttft_ns IS NOT NULL;
