-- One row: one scope (`fact_scopes`) and its facts of time and preprocessing, in the names of `vtprof_rules/facts.toml`.
-- Times in ms over requests with a first token, in which a phase that a request did not have counts 0. NULL for a phase that
-- no request of the run ever showed, or that the spans of most cannot tell: it is not known to be zero.
-- preprocess_ms_p95, encode_ms_p95, transfer_ms_p95, prefill_ms_p95  95th percentile of the phase's time [ms]
CREATE TABLE facts_time AS
WITH recorded AS (
    SELECT bool_or(phase = 'preprocess') AS preprocess, bool_or(phase = 'queue') AS queue, bool_or(phase = 'encode') AS encode,
           bool_or(phase = 'transfer') AS transfer, bool_or(phase = 'prefill') AS prefill, count(*) > 0 AS phases
    FROM (SELECT DISTINCT phase FROM phase_intervals)
), decoding AS (
    SELECT scope, quantile_cont(tpot_ms, [0.5, 0.95, 0.99]) AS tpot_ms_q, avg(tpot_ms) AS tpot_ms_mean,
           sum(cpu_ns) / nullif(sum(pre_ns), 0) AS preprocess_cpu_share,
           avg(tpot_without_visual_ms) AS tpot_without_visual_ms_mean
    FROM scoped_requests WHERE counts GROUP BY scope
), answered AS NOT MATERIALIZED (
    -- (Kept, it would hold every column, of which two readers need four.)
    -- What a request without the phase did not record of it is zero; without a first token there is no time before it.
    SELECT *, ttft_ms > 0 AS timed, 1e6 * (preprocess_ms - fetch_ms) / nullif(pixels, 0) AS per_mpix,
           since_first_ns < 60_000_000_000 AS early,
           coalesce(clips > 0 OR audio_tokens > 0, false) AND coalesce(visual_tokens, 0) = 0 AS only_audio
    FROM scoped_requests WHERE counts AND ttft_ms IS NOT NULL
), times AS (
    -- Several quantiles of one column (..._q) are asked for at once: each time costs a copy of all its values.
    SELECT
        scope, quantile_cont(ttft_ms, [0.5, 0.95]) AS ttft_ms_q, avg(ttft_ms) AS ttft_ms_mean,
        quantile_cont(queue_ms, [0.5, 0.95]) AS queue_ms_q, avg(queue_ms) AS queue_ms_mean,
        median(fetch_ms) FILTER (media) AS fetch_ms_p50,
        avg(CASE WHEN media THEN fetch_ms ELSE 0 END) AS fetch_ms_mean,
        quantile_cont(preprocess_ms, [0.5, 0.95]) AS preprocess_ms_q, avg(preprocess_ms) AS preprocess_ms_mean,
        quantile_cont(encode_ms, [0.5, 0.95]) AS encode_ms_q, avg(encode_ms) AS encode_ms_mean,
        quantile_cont(transfer_ms, [0.5, 0.95]) AS transfer_ms_q, avg(transfer_ms) AS transfer_ms_mean,
        quantile_cont(prefill_ms, [0.5, 0.95]) AS prefill_ms_q, avg(prefill_ms) AS prefill_ms_mean,
        median(preprocess_ms / ttft_ms) FILTER (timed) AS preprocess_share_of_ttft_p50,
        median(fetch_ms / ttft_ms) FILTER (timed AND media) AS fetch_share_of_ttft_p50,
        median(queue_ms / ttft_ms) FILTER (timed) AS queue_share_of_ttft_p50,
        median(encode_ms / ttft_ms) FILTER (timed) AS encode_share_of_ttft_p50,
        median(transfer_ms / ttft_ms) FILTER (timed) AS transfer_share_of_ttft_p50,
        median(prefill_ms / ttft_ms) FILTER (timed) AS prefill_share_of_ttft_p50,
        median(encode_ms / ttft_ms) FILTER (timed AND only_audio) AS audio_encode_share_of_ttft_p50,
        median(encode_ms) FILTER (only_audio) AS audio_encode_ms_p50,
        -- Medians over a minority, of which alone the spans tell the phase, would speak for all.
        2 * count(preprocess_ms) >= count(*) AS told,
        avg(encode_ms * greatest(0, coalesce(image_tokens - 4096 * images, 0)) / greatest(1, visual_tokens))
            AS capped_encode_saved_ms_mean,
        2 * count(fetch_ms) FILTER (media) >= count(*) FILTER (media) AS fetch_told,
        1 - sum(least(stepped_ns, decode_ns)) FILTER (decode_ns > 0) / nullif(sum(decode_ns) FILTER (decode_ns > 0), 0)
            AS detokenize_share_of_tpot,
        avg((unexplained_ms > 0.25 * ttft_ms)::INT) AS unexplained_requests_share,
        sum(unexplained_ms) / nullif(sum(ttft_ms), 0) AS unexplained_share_of_ttft,
        CASE WHEN count(*) FILTER (early AND recorded) >= 5 THEN median(ttft_ms) FILTER (early) END AS ttft_ms_p50_first_minute,
        CASE WHEN count(*) FILTER (NOT early AND recorded) >= 5 THEN median(ttft_ms) FILTER (NOT early) END AS ttft_ms_p50_later,
        median(per_mpix) AS preprocess_ms_per_mpix_p50, quantile_cont(per_mpix, 0.05) AS preprocess_ms_per_mpix_floor,
        median(pixels / 1e6) FILTER (per_mpix IS NOT NULL) AS mpix_p50,
        avg(fetch_ms * repeats / nullif(digests, 0)) FILTER (digests > 0) * count(*) FILTER (digests > 0) / count(*)
            AS fetch_ms_repeat_mean
    FROM answered GROUP BY scope
), slowest AS (
    SELECT a.scope, sum(a.queue_ms) / nullif(sum(a.ttft_ms), 0) AS queue_share_of_ttft_p95
    FROM answered AS a JOIN times AS t USING (scope)
    WHERE a.ttft_ms >= t.ttft_ms_q[2] GROUP BY a.scope
), warming AS (
    SELECT a.scope, avg(greatest(0, a.ttft_ms - t.ttft_ms_p50_later)) FILTER (t.ttft_ms_p50_later IS NOT NULL)
               AS ttft_ms_mean_first_minute_excess
    FROM answered AS a JOIN times AS t USING (scope)
    WHERE a.early AND t.ttft_ms_p50_first_minute IS NOT NULL GROUP BY a.scope
), pixels AS (
    SELECT scope, median(f.pixels / images) AS pixels_in_p50,
           -- Only where all of them were encoded: what comes from a cache leaves no patches.
           median(patches * p.patch_pixels / images) FILTER (encoded_items = images) AS pixels_used_p50
    FROM scoped_requests AS f
    LEFT JOIN (SELECT instance, max(patch_pixels) AS patch_pixels FROM process_settings GROUP BY instance) AS p USING (instance)
    WHERE counts AND images > 0 AND coalesce(videos, 0) = 0 GROUP BY scope
)
SELECT
    d.scope, d.tpot_ms_q[1] AS tpot_ms_p50, d.tpot_ms_mean, d.tpot_ms_q[2] AS tpot_ms_p95, d.tpot_ms_q[3] AS tpot_ms_p99,
    d.preprocess_cpu_share, d.tpot_without_visual_ms_mean, t.ttft_ms_q[1] AS ttft_ms_p50, t.ttft_ms_mean, t.ttft_ms_q[2] AS ttft_ms_p95,
    CASE WHEN r.queue THEN t.queue_ms_q[1] END AS queue_ms_p50, CASE WHEN r.queue THEN t.queue_ms_mean END AS queue_ms_mean,
    CASE WHEN r.queue THEN t.queue_ms_q[2] END AS queue_ms_p95,
    CASE WHEN r.queue THEN t.queue_share_of_ttft_p50 END AS queue_share_of_ttft_p50,
    CASE WHEN r.queue THEN s.queue_share_of_ttft_p95 END AS queue_share_of_ttft_p95,
    CASE WHEN t.fetch_told THEN t.fetch_ms_p50 END AS fetch_ms_p50,
    CASE WHEN t.fetch_told AND t.fetch_ms_p50 IS NOT NULL THEN t.fetch_ms_mean END AS fetch_ms_mean,
    CASE WHEN t.fetch_told THEN t.fetch_share_of_ttft_p50 END AS fetch_share_of_ttft_p50,
    CASE WHEN r.preprocess AND t.told THEN t.preprocess_ms_q[1] END AS preprocess_ms_p50,
    CASE WHEN r.preprocess AND t.told THEN t.preprocess_ms_mean END AS preprocess_ms_mean,
    CASE WHEN r.preprocess AND t.told THEN t.preprocess_ms_q[2] END AS preprocess_ms_p95,
    CASE WHEN r.preprocess AND t.told THEN t.preprocess_share_of_ttft_p50 END AS preprocess_share_of_ttft_p50,
    CASE WHEN r.encode AND t.told THEN t.encode_ms_q[1] END AS encode_ms_p50,
    CASE WHEN r.encode AND t.told THEN t.encode_ms_mean END AS encode_ms_mean,
    CASE WHEN r.encode AND t.told THEN t.encode_ms_q[2] END AS encode_ms_p95,
    CASE WHEN r.encode AND t.told THEN t.capped_encode_saved_ms_mean END AS capped_encode_saved_ms_mean,
    CASE WHEN r.encode AND t.told THEN t.encode_share_of_ttft_p50 END AS encode_share_of_ttft_p50,
    CASE WHEN r.encode AND t.told THEN t.audio_encode_share_of_ttft_p50 END AS audio_encode_share_of_ttft_p50,
    CASE WHEN r.encode AND t.told THEN t.audio_encode_ms_p50 END AS audio_encode_ms_p50,
    CASE WHEN r.transfer AND t.told THEN t.transfer_ms_q[1] END AS transfer_ms_p50,
    CASE WHEN r.transfer AND t.told THEN t.transfer_ms_mean END AS transfer_ms_mean,
    CASE WHEN r.transfer AND t.told THEN t.transfer_ms_q[2] END AS transfer_ms_p95,
    CASE WHEN r.transfer AND t.told THEN t.transfer_share_of_ttft_p50 END AS transfer_share_of_ttft_p50,
    CASE WHEN r.prefill THEN t.prefill_ms_q[1] END AS prefill_ms_p50,
    CASE WHEN r.prefill THEN t.prefill_ms_mean END AS prefill_ms_mean,
    CASE WHEN r.prefill THEN t.prefill_ms_q[2] END AS prefill_ms_p95,
    CASE WHEN r.prefill THEN t.prefill_share_of_ttft_p50 END AS prefill_share_of_ttft_p50,
    t.detokenize_share_of_tpot,
    CASE WHEN r.phases THEN t.unexplained_requests_share END AS unexplained_requests_share,
    CASE WHEN r.phases THEN t.unexplained_share_of_ttft END AS unexplained_share_of_ttft,
    t.ttft_ms_p50_first_minute, t.ttft_ms_p50_later, w.ttft_ms_mean_first_minute_excess,
    t.preprocess_ms_per_mpix_p50, t.preprocess_ms_per_mpix_floor, t.preprocess_ms_per_mpix_floor * t.mpix_p50 AS preprocess_ms_floor,
    p.pixels_in_p50, p.pixels_used_p50, t.fetch_ms_repeat_mean
FROM decoding AS d
CROSS JOIN recorded AS r
LEFT JOIN times AS t USING (scope) LEFT JOIN slowest AS s USING (scope) LEFT JOIN warming AS w USING (scope)
LEFT JOIN pixels AS p USING (scope);
