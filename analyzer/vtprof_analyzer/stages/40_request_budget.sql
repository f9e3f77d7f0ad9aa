-- One row: one request with a first token: its TTFT, cut into phases that add up to it exactly.
-- request_number     row of `request_base`
-- ttft_ns            arrival to first token
-- preprocess_ns, queue_ns, encode_ns, transfer_ns, prefill_ns  time before the first token in that phase; an
--                    instant that two phases claim goes to the earlier one in this order; NULL where the spans of the
--                    request's dialect cannot tell the phase: its time is then in others, or unexplained
-- unexplained_ns     what no phase claims; never negative
-- has_phases         whether any phase was recorded for the request
CREATE TABLE request_budget AS
WITH summed AS (
    SELECT request_number,
           coalesce(sum(end_ns - start_ns) FILTER (phase = 'preprocess'), 0)::BIGINT AS preprocess_ns,
           coalesce(sum(end_ns - start_ns) FILTER (phase = 'queue'), 0)::BIGINT AS queue_ns,
           coalesce(sum(end_ns - start_ns) FILTER (phase = 'encode'), 0)::BIGINT AS encode_ns,
           coalesce(sum(end_ns - start_ns) FILTER (phase = 'transfer'), 0)::BIGINT AS transfer_ns,
           coalesce(sum(end_ns - start_ns) FILTER (phase = 'prefill'), 0)::BIGINT AS prefill_ns
    FROM ttft_segments GROUP BY request_number
)
SELECT
    r.request_number, r.ttft_ns,
    CASE WHEN r.dialect IN ('vtprof', 'sglang') THEN coalesce(s.preprocess_ns, 0) END AS preprocess_ns,
    coalesce(s.queue_ns, 0) AS queue_ns,
    CASE WHEN r.dialect = 'vtprof' THEN coalesce(s.encode_ns, 0) END AS encode_ns,
    CASE WHEN r.dialect = 'vtprof' THEN coalesce(s.transfer_ns, 0) END AS transfer_ns,
    coalesce(s.prefill_ns, 0) AS prefill_ns,
    r.ttft_ns - coalesce(s.preprocess_ns + s.queue_ns + s.encode_ns + s.transfer_ns + s.prefill_ns, 0) AS unexplained_ns,
    r.request_number IN (SELECT request_number FROM phase_intervals) AS has_phases
FROM request_base AS r
LEFT JOIN summed AS s USING (request_number)
WHERE r.ttft_ns IS NOT NULL;
