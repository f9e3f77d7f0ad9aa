-- One row: one request, in the units that reports, rules and people read. Public: columns are added, never changed.
-- request_key        trace id and span id: two answers to one request id are two requests; request_number: row of
--                    `request_base`
-- trace_id, span_id, request_id, model, status, dialect, service_instance_id  as recorded
-- start_unix_nano, end_unix_nano  arrival and end, Unix time [ns]
-- ttft_ms, tpot_ms, e2e_ms   arrival to first token; time per output token after the first; arrival to end [ms]
-- preprocess_ms, queue_ms, encode_ms, transfer_ms, prefill_ms, unexplained_ms  parts of TTFT; they add up to it [ms]
-- n_prompt_tokens, n_text_tokens, n_visual_tokens, n_audio_tokens, n_output_tokens, cached_tokens  tokens
-- n_images, n_videos         items in the prompt
-- visual_stratum             0, 256, 1k, 4k, 16k or more: visual tokens up to that many
-- kv_bytes, kv_visual_bytes  KV of the request at its end [B]; kv_recorded: from what the probe read, else derived
--                            from the model's config
-- kv_bytes_per_token         KV bytes of one token in the process that served it [B/token]
-- ttft_without_visual_ms     TTFT had no request of the run had visual tokens [ms]: less the time in which its process
--                            encoded, its own items or its neighbours', less its preprocessing beyond the median of
--                            text-only requests, less the visual part of its prefill; NULL when the parts are not known
-- tpot_without_visual_ms  TPOT had no request had visual tokens [ms]: `tpot_without_visual`; NULL when it cannot be told
-- weight             requests that it stands for, as it was sampled: 1 / vtprof.sampling_ratio
CREATE TABLE requests AS
WITH sized AS (
    SELECT q.*, r.service_instance_id, k.token_bytes, k.fixed_bytes, k.recorded
    FROM request_base AS q
    LEFT JOIN resources AS r USING (resource_id)
    LEFT JOIN kv_sizes AS k USING (resource_id)
), prefill_work AS (
    SELECT request_number, visual_tokens AS prefill_visual_tokens, tokens AS prefill_tokens
    FROM phases WHERE phase = 'prefill'
), flop_weight AS (
    -- A visual token costs more or less than a text token, by its place in the prompt: the run's mean ratio.
    SELECT (sum(visual_flops) / nullif(sum(flops), 0)) / nullif(sum(visual_tokens) / nullif(sum(tokens), 0), 0) AS ratio
    FROM step_cost WHERE phase = 'prefill'
), text_only AS (
    SELECT median(b.preprocess_ns) AS preprocess_ns
    FROM request_budget AS b JOIN request_base AS q USING (request_number) WHERE q.visual_tokens = 0
), visual_parts AS (
    -- Where the process recorded no steps, the request's own phases have to do.
    SELECT b.request_number,
           greatest(b.encode_ns, w.encode_ns) AS encode_ns,
           CASE WHEN q.visual_tokens > 0
                THEN greatest(0, b.preprocess_ns - coalesce(text_only.preprocess_ns, 0)) ELSE 0 END AS preprocess_ns,
           b.prefill_ns * coalesce(w.visual_share, least(1, coalesce(flop_weight.ratio, 1) * coalesce(
               p.prefill_visual_tokens / nullif(p.prefill_tokens, 0), q.visual_tokens / nullif(q.input_tokens, 0), 0
           ))) AS prefill_ns
    FROM request_budget AS b
    JOIN request_base AS q USING (request_number)
    LEFT JOIN visual_waits AS w USING (request_number)
    LEFT JOIN prefill_work AS p USING (request_number),
         flop_weight, text_only
)
SELECT
    q.trace_id || '-' || q.span_id AS request_key, q.trace_id, q.span_id, q.request_id, q.model, q.status, q.dialect, q.service_instance_id,
    q.arrival_ns AS start_unix_nano, q.end_ns AS end_unix_nano,
    b.ttft_ns / 1e6 AS ttft_ms, q.tpot_ns / 1e6 AS tpot_ms, q.e2e_ns / 1e6 AS e2e_ms,
    b.preprocess_ns / 1e6 AS preprocess_ms, b.queue_ns / 1e6 AS queue_ms, b.encode_ns / 1e6 AS encode_ms,
    b.transfer_ns / 1e6 AS transfer_ms, b.prefill_ns / 1e6 AS prefill_ms, b.unexplained_ns / 1e6 AS unexplained_ms,
    q.input_tokens AS n_prompt_tokens, q.text_tokens AS n_text_tokens, q.visual_tokens AS n_visual_tokens,
    q.audio_tokens AS n_audio_tokens, q.output_tokens AS n_output_tokens, q.cached_tokens,
    q.image_items AS n_images, q.video_items AS n_videos,
    (SELECT arg_min(label, upper_tokens) FROM visual_strata WHERE upper_tokens >= q.visual_tokens) AS visual_stratum,
    coalesce(
        q.recorded_kv_bytes,
        -- The last token of each sequence is answered, not cached. Not known without the output: `greatest` would skip its NULL.
        CASE WHEN q.output_tokens IS NOT NULL
             THEN (q.sequences * q.input_tokens + greatest(0, q.output_tokens - q.sequences)) * q.token_bytes
                  + q.sequences * q.fixed_bytes END
    ) AS kv_bytes,
    coalesce(q.recorded_kv_visual_bytes, q.visual_tokens * q.token_bytes) AS kv_visual_bytes,
    q.recorded_kv_bytes IS NOT NULL OR coalesce(q.recorded, false) AS kv_recorded,
    q.token_bytes AS kv_bytes_per_token,
    CASE WHEN q.visual_tokens = 0 OR q.visual_tokens > 0 AND b.has_phases
         THEN greatest(0, b.ttft_ns - v.encode_ns - v.preprocess_ns - v.prefill_ns) / 1e6 END AS ttft_without_visual_ms,
    t.ms AS tpot_without_visual_ms, q.weight, q.request_number
FROM sized AS q
LEFT JOIN request_budget AS b USING (request_number)
LEFT JOIN visual_parts AS v USING (request_number)
LEFT JOIN tpot_without_visual AS t USING (request_number);
