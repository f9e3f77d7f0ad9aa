-- One row: the whole run, in the names that rules may use (`vtprof_rules.vocabulary`); NULL is not known.
-- Times in ms over requests with a first token (a request without the phase counts 0), shares 0..1, tokens.
-- ttft_ms_*, preprocess_ms_*, queue_ms_*, encode_ms_*, prefill_ms_*, tpot_ms_*  median and mean [ms]
-- X_share_of_ttft_p50        median of the phase's part of TTFT
-- n_requests                 requests with a first token that did not fail
-- preprocess_cpu_share       CPU time of preprocessing / its duration
-- encode_mfu, encode_floor_ratio  rate / peak of each step's roof, floor time / measured time, over the steps that encoded
-- visual_*, kv_*, output_tokens_p50, unexplained_*  as in the vocabulary
-- engine, engine_version, device_kind, cpu_cores, kv_cache_dtype  as recorded by most requests' processes
CREATE TABLE facts AS
WITH first_token AS (
    SELECT * FROM requests WHERE ttft_ms IS NOT NULL
), recorded AS (
    -- A phase that no request ever showed is not known to be zero.
    SELECT bool_or(phase = 'preprocess') AS preprocess, bool_or(phase = 'queue') AS queue,
           bool_or(phase = 'encode') AS encode, bool_or(phase = 'prefill') AS prefill,
           bool_or(end_ns IS NOT NULL) AS phases
    FROM phase_intervals
), times AS (
    SELECT
        median(ttft_ms) AS ttft_ms_p50, avg(ttft_ms) AS ttft_ms_mean,
        median(preprocess_ms) AS preprocess_ms_p50, avg(preprocess_ms) AS preprocess_ms_mean,
        median(queue_ms) AS queue_ms_p50, avg(queue_ms) AS queue_ms_mean,
        median(encode_ms) AS encode_ms_p50, avg(encode_ms) AS encode_ms_mean,
        median(prefill_ms) AS prefill_ms_p50, avg(prefill_ms) AS prefill_ms_mean,
        median(preprocess_ms / nullif(ttft_ms, 0)) AS preprocess_share_of_ttft_p50,
        median(queue_ms / nullif(ttft_ms, 0)) AS queue_share_of_ttft_p50,
        median(encode_ms / nullif(ttft_ms, 0)) AS encode_share_of_ttft_p50,
        median(prefill_ms / nullif(ttft_ms, 0)) AS prefill_share_of_ttft_p50,
        count(*) FILTER (coalesce(status, 'ok') = 'ok') AS n_requests,
        -- Medians over a minority, of which alone the spans tell the phase, would speak for all.
        2 * count(preprocess_ms) >= count(*) AS told,
        avg((unexplained_ms > 0.25 * ttft_ms)::INT) AS unexplained_requests_share,
        sum(unexplained_ms) / nullif(sum(ttft_ms), 0) AS unexplained_share_of_ttft
    FROM first_token
), tokens AS (
    SELECT
        median(tpot_ms) AS tpot_ms_p50, avg(tpot_ms) AS tpot_ms_mean,
        median(n_output_tokens) AS output_tokens_p50,
        quantile_cont(image_tokens / image_items, 0.95) FILTER (image_items > 0) AS visual_tokens_per_image_p95,
        sum(greatest(0, image_tokens - 4096 * image_items)) / nullif(sum(visual_tokens), 0)
            AS visual_tokens_over_4096_share
    FROM requests JOIN (SELECT request_key, image_tokens, image_items, visual_tokens FROM request_base)
        USING (request_key)
), cpu AS (
    SELECT sum(cpu_ns) / nullif(sum(duration_ns), 0) AS preprocess_cpu_share
    FROM phases WHERE phase = 'preprocess' AND cpu_ns IS NOT NULL
), costs AS (
    SELECT
        sum(flops) FILTER (phase = 'encode' AND peak_flops_per_s IS NOT NULL)
            / nullif(sum(time_s * peak_flops_per_s) FILTER (phase = 'encode'), 0) AS encode_mfu,
        sum(floor_s) FILTER (phase = 'encode') / nullif(sum(time_s) FILTER (phase = 'encode' AND floor_s IS NOT NULL), 0)
            AS encode_floor_ratio,
        sum(kv_read_bytes) FILTER (phase = 'decode') / nullif(sum(bytes) FILTER (phase = 'decode'), 0) AS kv_read_share
    FROM step_cost
), deployment AS (
    SELECT any_value(coalesce(r.engine_name, CASE WHEN q.dialect <> 'vtprof' THEN q.dialect END)) AS engine,
           any_value(r.engine_version) AS engine_version, any_value(r.device_kind) AS device_kind,
           any_value(r.device_cores) AS cpu_cores, any_value(r.kv_dtype) AS kv_cache_dtype
    FROM (SELECT resource_id, dialect, count(*) AS n FROM request_base GROUP BY ALL ORDER BY n DESC, resource_id LIMIT 1) AS q
    LEFT JOIN resources AS r USING (resource_id)
)
SELECT
    times.* EXCLUDE (
        preprocess_ms_p50, preprocess_ms_mean, preprocess_share_of_ttft_p50, queue_ms_p50, queue_ms_mean,
        queue_share_of_ttft_p50, encode_ms_p50, encode_ms_mean, encode_share_of_ttft_p50, prefill_ms_p50,
        prefill_ms_mean, prefill_share_of_ttft_p50, unexplained_requests_share, unexplained_share_of_ttft, told
    ),
    CASE WHEN recorded.preprocess AND told THEN preprocess_ms_p50 END AS preprocess_ms_p50,
    CASE WHEN recorded.preprocess AND told THEN preprocess_ms_mean END AS preprocess_ms_mean,
    CASE WHEN recorded.preprocess AND told THEN preprocess_share_of_ttft_p50 END AS preprocess_share_of_ttft_p50,
    CASE WHEN recorded.queue THEN queue_ms_p50 END AS queue_ms_p50,
    CASE WHEN recorded.queue THEN queue_ms_mean END AS queue_ms_mean,
    CASE WHEN recorded.queue THEN queue_share_of_ttft_p50 END AS queue_share_of_ttft_p50,
    CASE WHEN recorded.encode AND told THEN encode_ms_p50 END AS encode_ms_p50,
    CASE WHEN recorded.encode AND told THEN encode_ms_mean END AS encode_ms_mean,
    CASE WHEN recorded.encode AND told THEN encode_share_of_ttft_p50 END AS encode_share_of_ttft_p50,
    CASE WHEN recorded.prefill THEN prefill_ms_p50 END AS prefill_ms_p50,
    CASE WHEN recorded.prefill THEN prefill_ms_mean END AS prefill_ms_mean,
    CASE WHEN recorded.prefill THEN prefill_share_of_ttft_p50 END AS prefill_share_of_ttft_p50,
    CASE WHEN recorded.phases THEN unexplained_requests_share END AS unexplained_requests_share,
    CASE WHEN recorded.phases THEN unexplained_share_of_ttft END AS unexplained_share_of_ttft,
    tokens.*, cpu.*, costs.*, deployment.*,
    (SELECT share FROM dominance WHERE measure = 'prompt_tokens') AS visual_token_share,
    (SELECT share FROM dominance WHERE measure = 'kv_token_seconds') AS kv_visual_share
FROM times, recorded, tokens, cpu, costs
LEFT JOIN deployment ON true;
