-- One row: one request and one phase that it had, however many stretches it came in.
-- request_number     row of `request_base`
-- phase              name of the phase
-- duration_ns        union of its stretches: overlap counted once [ns]
-- first_ns, last_ns  begin of the first and end of the last stretch, Unix time
-- intervals          number of stretches
-- overlapping, overlap_ns  of them, those that begin before an earlier one ended, and the time counted twice so [ns]
-- gpu_time_ns, energy_mj, cpu_ns, pixels, items, patches, tokens, visual_tokens, chunks  sums; NULL when none recorded it
-- fetch_ns, decode_ns, transfer_bytes  sums: media download and decoding [ns], bytes moved [B]
-- frames, audio_ns, cache_hits, decode_steps, preemptions  sums of what `phase_intervals` has by these names
-- dram_ratio, tensor_ratio, sm_ratio  means weighed by duration, 0..1; counter_quality: the weakest of them
CREATE TABLE phases AS
WITH several AS MATERIALIZED (
    -- Few phases come in several stretches: only these have anything to add up.
    SELECT request_number, phase FROM phase_intervals GROUP BY request_number, phase HAVING count(*) > 1
), stretches AS MATERIALIZED (
    FROM phase_intervals SEMI JOIN several USING (request_number, phase)
), summed AS (
    SELECT
        request_number, phase, sum(end_ns - start_ns)::BIGINT AS length_ns,
        min(start_ns) AS first_ns, max(end_ns) AS last_ns, count(*) AS intervals,
        sum(gpu_time_ns)::BIGINT AS gpu_time_ns, sum(energy_mj) AS energy_mj, sum(cpu_ns)::BIGINT AS cpu_ns,
        sum(pixels)::BIGINT AS pixels, sum(items)::BIGINT AS items, sum(patches)::BIGINT AS patches,
        sum(tokens)::BIGINT AS tokens, sum(visual_tokens)::BIGINT AS visual_tokens, sum(chunks)::BIGINT AS chunks,
        sum(dram_ratio * (end_ns - start_ns)) / nullif(sum(end_ns - start_ns) FILTER (dram_ratio IS NOT NULL), 0)
            AS dram_ratio,
        sum(tensor_ratio * (end_ns - start_ns)) / nullif(sum(end_ns - start_ns) FILTER (tensor_ratio IS NOT NULL), 0)
            AS tensor_ratio,
        sum(sm_ratio * (end_ns - start_ns)) / nullif(sum(end_ns - start_ns) FILTER (sm_ratio IS NOT NULL), 0) AS sm_ratio,
        -- The weakest: one estimated stretch makes the mean an estimate.
        CASE WHEN bool_or(counter_quality = 'estimated') THEN 'estimated'
             WHEN bool_or(counter_quality = 'attributed') THEN 'attributed'
             WHEN bool_or(counter_quality = 'measured') THEN 'measured' END AS counter_quality,
        sum(fetch_ns)::BIGINT AS fetch_ns, sum(decode_ns)::BIGINT AS decode_ns, sum(transfer_bytes)::BIGINT AS transfer_bytes,
        sum(frames)::BIGINT AS frames, sum(audio_ns)::BIGINT AS audio_ns, sum(cache_hits)::BIGINT AS cache_hits,
        sum(decode_steps)::BIGINT AS decode_steps, sum(preemptions)::BIGINT AS preemptions
    FROM stretches
    GROUP BY request_number, phase
), ordered AS (
    -- What ended latest before this stretch began hides the part of it that was counted already.
    SELECT request_number, phase, start_ns, end_ns, max(end_ns) OVER (
        PARTITION BY request_number, phase ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS covered_until_ns
    FROM stretches
), hidden AS (
    SELECT request_number, phase, count(*) AS overlapping, sum(least(end_ns, covered_until_ns) - start_ns)::BIGINT AS overlap_ns
    FROM ordered WHERE start_ns < covered_until_ns
    GROUP BY request_number, phase
)
SELECT * EXCLUDE (length_ns, overlapping, overlap_ns), length_ns - coalesce(overlap_ns, 0) AS duration_ns,
       coalesce(overlapping, 0) AS overlapping, coalesce(overlap_ns, 0) AS overlap_ns
FROM summed LEFT JOIN hidden USING (request_number, phase)
UNION ALL BY NAME
SELECT request_number, phase, start_ns AS first_ns, end_ns AS last_ns, 1 AS intervals, gpu_time_ns, energy_mj, cpu_ns, pixels,
       items, patches, tokens, visual_tokens, chunks,
       -- Over no time nothing was counted.
       CASE WHEN end_ns > start_ns THEN dram_ratio END AS dram_ratio,
       CASE WHEN end_ns > start_ns THEN tensor_ratio END AS tensor_ratio,
       CASE WHEN end_ns > start_ns THEN sm_ratio END AS sm_ratio,
       CASE WHEN counter_quality IN ('estimated', 'attributed', 'measured') THEN counter_quality END AS counter_quality,
       fetch_ns, decode_ns, transfer_bytes, frames, audio_ns, cache_hits, decode_steps, preemptions,
       end_ns - start_ns AS duration_ns, 0 AS overlapping, 0 AS overlap_ns
FROM phase_intervals ANTI JOIN several USING (request_number, phase);
