-- One row: one stretch of time that a request spent in a phase.
-- request_number     row of `request_base`
-- phase              preprocess, queue, encode, transfer, prefill or decode
-- start_ns, end_ns   Unix time, by the clock of the request's machine (`clock_offsets`: here alone clocks are put right);
--                    a missing or earlier end counts as no time, so that it shows as unexplained
-- end_missing, negative_duration  whether that was done
-- gpu_time_ns        the request's share of GPU time [ns]; energy_mj: its share of energy [mJ]
-- energy_low_mj, energy_high_mj  ends of the interval of that [mJ]; energy_quality: how it was got
-- works              false where it tells of no work: the first fragment of a stretch that others interrupt carries all
--                    of it, and an encoder whose every output was cached did not run; NULL in other dialects
-- cpu_ns             CPU time of preprocessing [ns]; pixels: of its items, before resizing
-- items, patches     media items and patches encoded
-- tokens, visual_tokens  prompt tokens computed in prefill; chunks: steps that they were computed in
-- dram_ratio, tensor_ratio, sm_ratio  mean counter values over the stretch, 0..1; counter_quality: how they were got
-- dram_low, dram_high, tensor_low, tensor_high  ends of the intervals of these; dram_quality, tensor_quality: how each was got
-- fetch_ns, decode_ns  media download and decoding [ns]; transfer_bytes: bytes moved [B]
-- frames, audio_ns   frames sampled of videos, and length of audio clips before padding [ns]
-- cache_hits         of preprocessing and of the encoder: items found in their cache
-- decode_steps       iterations that decoded it; preemptions: times that it was preempted
-- outside_ns         time of it before its request's arrival or after the end, which cannot be [ns]; NULL in other dialects
CREATE TABLE phase_intervals AS
WITH shifts AS (
    SELECT c.resource_id, r.resource_id AS request_resource_id, o.offset_ns
    FROM clock_offsets AS o
    JOIN hosts AS c ON c.host_name = o.host_name
    JOIN hosts AS r ON r.host_name = o.against
    WHERE o.offset_ns <> 0
), ours AS (
    -- A phase whose request is absent finds no partner here: an orphan, counted in `integrity`.
    SELECT
        r.request_number, substr(s.name, length('vtprof.') + 1) AS phase,
        s.start_ns - coalesce(shifts.offset_ns, 0) AS start_ns,
        greatest(s.start_ns, coalesce(s.end_ns, s.start_ns)) - coalesce(shifts.offset_ns, 0) AS end_ns,
        s.end_ns IS NULL AS end_missing, coalesce(s.end_ns < s.start_ns, false) AS negative_duration,
        s.gpu_time_ns, s.gpu_energy_mj AS energy_mj, s.gpu_energy_mj_low AS energy_low_mj,
        s.gpu_energy_mj_high AS energy_high_mj, s.gpu_energy_mj_quality AS energy_quality,
        coalesce(s.gpu_time_ns, s.encode_items, s.prefill_chunks, s.prefill_tokens, s.decode_steps, s.decode_preemptions)
            IS NOT NULL AND NOT coalesce(s.encode_items = 0 AND s.encode_cache_hits > 0, false) AS works,
        s.preprocess_cpu_ns AS cpu_ns, s.preprocess_pixels AS pixels,
        s.encode_items AS items, s.encode_patches AS patches,
        s.prefill_tokens AS tokens, s.prefill_visual_tokens AS visual_tokens, s.prefill_chunks AS chunks,
        s.gpu_dram_bandwidth_ratio AS dram_ratio, s.gpu_tensor_active_ratio AS tensor_ratio,
        s.gpu_sm_active_ratio AS sm_ratio,
        coalesce(s.gpu_dram_bandwidth_ratio_quality, s.gpu_tensor_active_ratio_quality) AS counter_quality,
        s.gpu_dram_bandwidth_ratio_low AS dram_low, s.gpu_dram_bandwidth_ratio_high AS dram_high,
        s.gpu_dram_bandwidth_ratio_quality AS dram_quality,
        s.gpu_tensor_active_ratio_low AS tensor_low, s.gpu_tensor_active_ratio_high AS tensor_high,
        s.gpu_tensor_active_ratio_quality AS tensor_quality,
        s.preprocess_fetch_ns AS fetch_ns, s.preprocess_decode_ns AS decode_ns, s.transfer_bytes,
        s.preprocess_frames AS frames, s.preprocess_audio_ns AS audio_ns,
        coalesce(s.preprocess_cache_hits, s.encode_cache_hits) AS cache_hits,
        s.decode_steps, s.decode_preemptions AS preemptions,
        r.arrival_ns, r.end_ns AS request_end_ns
    FROM spans AS s
    JOIN request_base AS r ON s.trace_id = r.trace_id AND s.parent_span_id = r.span_id
    LEFT JOIN shifts ON shifts.resource_id = s.resource_id AND shifts.request_resource_id = r.resource_id
    WHERE s.name IN ('vtprof.preprocess', 'vtprof.queue', 'vtprof.encode', 'vtprof.transfer', 'vtprof.prefill',
                     'vtprof.decode')
), vllm AS (
    -- vLLM gives lengths, not times: prefill ends with the first token, the queue ends where prefill begins.
    SELECT
        r.request_number, r.arrival_ns, r.arrival_ns + r.ttft_ns AS first_token_ns, r.end_ns,
        (if(s.vllm_queue_s < 0, 0, s.vllm_queue_s) * 1e9)::BIGINT AS queue_ns,
        (if(s.vllm_prefill_s < 0, 0, s.vllm_prefill_s) * 1e9)::BIGINT AS prefill_ns,
        -- Of n answers the one with the first token may not be the last to end.
        CASE WHEN r.sequences > 1 THEN r.end_ns - r.arrival_ns - r.ttft_ns
             ELSE (if(s.vllm_decode_s < 0, 0, s.vllm_decode_s) * 1e9)::BIGINT END AS decode_ns
    FROM spans AS s
    JOIN request_base AS r ON s.trace_id = r.trace_id AND s.span_id = r.span_id
    WHERE s.dialect = 'vllm' AND r.ttft_ns IS NOT NULL
), vllm_intervals AS (
    SELECT request_number, 'queue' AS phase, greatest(arrival_ns, first_token_ns - prefill_ns - queue_ns) AS start_ns,
           greatest(arrival_ns, first_token_ns - prefill_ns) AS end_ns
    FROM vllm WHERE queue_ns IS NOT NULL AND prefill_ns IS NOT NULL
    UNION ALL BY NAME
    SELECT request_number, 'prefill' AS phase, greatest(arrival_ns, first_token_ns - prefill_ns) AS start_ns,
           first_token_ns AS end_ns
    FROM vllm WHERE prefill_ns IS NOT NULL
    UNION ALL BY NAME
    SELECT request_number, 'decode' AS phase, first_token_ns AS start_ns, first_token_ns + decode_ns AS end_ns
    FROM vllm WHERE decode_ns IS NOT NULL
), sglang_phases AS (
    -- Preprocessing of media is within tokenize, the vision encoder within prefill_forward; the loops are parts.
    SELECT * FROM (VALUES
        ('tokenize', 'preprocess'), ('dispatch', 'preprocess'), ('api_server_dispatch', 'preprocess'),
        ('dc_dispatch', 'queue'), ('dpc_dispatch', 'queue'), ('process req', 'queue'), ('request_process', 'queue'),
        ('prefill_waiting', 'queue'), ('prefill_forward', 'prefill'), ('chunked_prefill', 'prefill'),
        ('decode_waiting', 'queue'), ('decode_forward', 'decode'), ('decode_loop', 'decode'), ('decode loop', 'decode')
    ) AS names (slice, phase)
), sglang_parents AS (
    -- Above a slice: its thread's span, or a slice that it is part of; above those the request.
    SELECT DISTINCT trace_id, span_id, parent_span_id FROM spans WHERE dialect = 'sglang'
), sglang_slices AS (
    SELECT s.trace_id, s.parent_span_id, r.request_number, p.phase, s.start_ns, s.end_ns
    FROM spans AS s
    JOIN sglang_phases AS p ON p.slice = s.name
    JOIN sglang_parents AS a ON a.trace_id = s.trace_id AND a.span_id = s.parent_span_id
    LEFT JOIN sglang_parents AS b ON b.trace_id = s.trace_id AND b.span_id = a.parent_span_id
    JOIN request_base AS r ON r.trace_id = s.trace_id AND r.span_id IN (a.parent_span_id, b.parent_span_id)
    WHERE s.dialect = 'sglang' AND r.dialect = 'sglang'
), sglang_ordered AS (
    -- Slices of one phase nest and touch: what overlaps is one stretch.
    SELECT *, max(end_ns) OVER (
        PARTITION BY request_number, phase ORDER BY start_ns, end_ns DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached_ns
    FROM sglang_slices WHERE end_ns >= start_ns
), sglang_stretches AS (
    SELECT *, sum((reached_ns IS NULL OR start_ns > reached_ns)::INT) OVER (
        PARTITION BY request_number, phase ORDER BY start_ns, end_ns DESC ROWS UNBOUNDED PRECEDING
    ) AS stretch
    FROM sglang_ordered
), sglang_intervals AS (
    SELECT request_number, phase, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
           false AS end_missing, false AS negative_duration
    FROM sglang_stretches GROUP BY request_number, phase, stretch
)
SELECT * EXCLUDE (arrival_ns, request_end_ns),
       greatest(0, least(arrival_ns, end_ns) - start_ns) + greatest(0, end_ns - greatest(request_end_ns, start_ns)) AS outside_ns
FROM ours
UNION ALL BY NAME
SELECT *, false AS end_missing, false AS negative_duration FROM vllm_intervals
UNION ALL BY NAME
SELECT * FROM sglang_intervals;
