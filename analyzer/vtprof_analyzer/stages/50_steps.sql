-- One row: one engine iteration, or a window of folded iterations: of parallel ranks the first one's report.
-- step_id            number of the row, in order of time: joins `step_cost`
-- trace_id, span_id  its span
-- resource_id        the process that ran it
-- start_ns, end_ns   Unix time; a missing or earlier end counts as no time
-- duration_ns        wall time [ns]; gpu_time_ns: GPU time, NULL on a machine without a GPU
-- end_missing, negative_duration  whether the end was repaired
-- steps              iterations folded into the row
-- folded             several iterations of which some held prefill or encode work, as the agent writes them when it sheds
--                    detail: whose time is whose cannot be told, so that nothing judges their work
-- prefill_requests, prefill_tokens, prefill_visual_tokens, prefill_pairs, prefill_visual_pairs  prompt work
-- decode_requests, decode_context_tokens, decode_visual_tokens  decode work, summed over the iterations
-- decode_tokens      computed by the decoding requests: one each where nothing is told of drafts
-- encode_items, encode_patches, encode_pairs, encode_ns, encode_gpu_time_ns  encoder work and time
-- kv_used_tokens, kv_visual_tokens  tokens held, mean over the row; running, waiting: requests, mean
-- kv_used_tokens_max, kv_visual_tokens_max  the most held in the row, without batch padding
-- kv_used_blocks     blocks in use, mean; NULL where not recorded
-- preemptions        in the row
-- dram_ratio, tensor_ratio, sm_ratio, counter_quality  GPU counters over the row, 0..1, and how they were got
CREATE TABLE steps AS
SELECT
    row_number() OVER () AS step_id,
    trace_id, span_id, resource_id, start_ns,
    greatest(start_ns, coalesce(end_ns, start_ns)) AS end_ns,
    greatest(0, coalesce(end_ns - start_ns, 0)) AS duration_ns,
    gpu_time_ns,
    end_ns IS NULL AS end_missing, coalesce(end_ns < start_ns, false) AS negative_duration,
    greatest(1, coalesce(step_count, 1)) AS steps,
    coalesce(step_count, 1) > 1
        AND greatest(step_prefill_requests, step_prefill_tokens, step_encode_items, step_encode_patches, step_encode_ns,
                     step_encode_gpu_time_ns, 0) > 0 AS folded,
    coalesce(step_prefill_requests, 0) AS prefill_requests,
    coalesce(step_prefill_tokens, 0) AS prefill_tokens,
    coalesce(step_prefill_visual_tokens, 0) AS prefill_visual_tokens,
    coalesce(step_prefill_attention_pairs, 0) AS prefill_pairs,
    coalesce(step_prefill_visual_attention_pairs, 0) AS prefill_visual_pairs,
    coalesce(step_decode_requests, 0) AS decode_requests,
    greatest(step_decode_tokens, step_decode_requests, 0) AS decode_tokens,
    coalesce(step_decode_context_tokens, 0) AS decode_context_tokens,
    coalesce(step_decode_visual_tokens, 0) AS decode_visual_tokens,
    coalesce(step_encode_items, 0) AS encode_items,
    coalesce(step_encode_patches, 0) AS encode_patches,
    coalesce(step_encode_attention_pairs, 0) AS encode_pairs,
    step_encode_ns AS encode_ns, step_encode_gpu_time_ns AS encode_gpu_time_ns,
    step_kv_used_tokens AS kv_used_tokens, step_kv_visual_tokens AS kv_visual_tokens,
    step_kv_used_tokens_max AS kv_used_tokens_max, step_kv_visual_tokens_max AS kv_visual_tokens_max,
    step_kv_used_blocks AS kv_used_blocks, step_running AS running, step_waiting AS waiting,
    coalesce(step_preemptions, 0) AS preemptions,
    gpu_dram_bandwidth_ratio AS dram_ratio, gpu_tensor_active_ratio AS tensor_ratio,
    gpu_sm_active_ratio AS sm_ratio,
    coalesce(gpu_dram_bandwidth_ratio_quality, gpu_tensor_active_ratio_quality) AS counter_quality
FROM (
    FROM spans
    -- A continuation span (count 0) carries further links of a step and no work.
    WHERE name IN ('vtprof.step', 'vtprof.window') AND step_count IS DISTINCT FROM 0
      AND resource_id NOT IN (SELECT resource_id FROM counted_ranks WHERE NOT counted)
    -- Sorted first and then numbered: a window that sorts does so at more than twice the cost.
    -- Spans with conflicting ids differ in one of the last two.
    ORDER BY start_ns, trace_id, span_id, end_ns, name
);
