-- One row: one row of `steps`, with running totals of what its process had done before: the work between any two moments is
-- a difference of two look-ups (ASOF, macro `work_between`); joining steps to requests by range would not end.
-- instance           the process, as in `kv_sizes`
-- start_ns, end_ns   Unix time; cut where the next step of the process begins, so that no time counts twice; of two that
--                    begin at once the longer one stands
-- folded             as in `steps`
-- encoded_ns         when the encoder was done: it runs first
-- rest_ns            from when on the rest ran, evenly: encoded_ns, or start_ns where the encoder fills the step
-- blocked            requests waited that the scheduler passed over for want of room: it preempted, the KV cache or the
--                    sequences were full, or it left a part of the step's tokens unused
-- busy               time in the step [ns], cut into encode, image (visual part of prefill: by FLOPs where known, else by
--                    tokens), text (other prefill) and decode (against prefill: by the cost model's times, else by tokens);
--                    none of the four for folded iterations, of which it cannot be told
-- iterations, patches, visual_tokens, text_tokens, decodes, context  iterations; patches encoded; prompt tokens; decoding
--                    requests and the cached tokens that they read, summed over iterations
-- *_total            the same, of the process up to the end of the step; blocked_*_total: of its blocked steps [ns]
CREATE TABLE engine_work AS
WITH limits AS (
    SELECT k.resource_id, k.instance, k.capacity_tokens,
           -- vLLM's names, then SGLang's.
           coalesce(TRY(r.engine_config ->> '$.max_num_seqs'), TRY(r.engine_config ->> '$.max_running_requests'))
               AS most_running,
           coalesce(TRY(r.engine_config ->> '$.max_num_batched_tokens'), TRY(r.engine_config ->> '$.chunked_prefill_size'))
               AS most_tokens
    FROM kv_sizes AS k JOIN resources AS r USING (resource_id)
), prefill AS (
    SELECT step_id, flops, visual_flops, time_s FROM step_cost WHERE phase = 'prefill'
), mixed_decode AS (
    SELECT step_id, time_s FROM step_cost WHERE phase = 'decode' AND mixed
), placed AS (
    SELECT s.*, k.instance,
           greatest(s.start_ns, least(s.end_ns, lead(s.start_ns) OVER (PARTITION BY k.instance ORDER BY s.start_ns, s.end_ns)))
               AS until_ns,
           s.folded OR s.end_missing AS vague,
           coalesce(s.waiting > 0 AND (
               s.preemptions > 0
               OR s.kv_used_tokens >= settings.kv_full_threshold * k.capacity_tokens
               OR s.running >= try_cast(k.most_running AS BIGINT)
               -- Whoever waits beside a step with room in its budget, and no encoder to wait for, found no other room.
               OR s.waiting >= 0.5 AND s.encode_patches = 0 AND coalesce(s.encode_ns, 0) = 0
                  AND CASE WHEN s.prefill_tokens = 0 THEN true
                           ELSE s.prefill_tokens + s.decode_tokens < 0.9 * s.steps * try_cast(k.most_tokens AS BIGINT) END
           ), false) AND NOT s.folded AS blocked
    FROM settings, steps AS s
    JOIN limits AS k USING (resource_id)
    WHERE s.duration_ns > 0
), encoded AS (
    SELECT *, until_ns - start_ns AS busy,
           CASE WHEN vague THEN 0
                WHEN prefill_tokens = 0 AND decode_requests = 0 AND encode_patches > 0 THEN until_ns - start_ns
                ELSE least(until_ns - start_ns, greatest(encode_ns, encode_gpu_time_ns, 0)) END AS encode
    FROM placed
    WHERE until_ns > start_ns
), shared AS (
    SELECT e.*, CASE WHEN vague OR prefill_tokens <= 0 THEN 0
                ELSE (busy - encode) * coalesce(p.time_s / nullif(p.time_s + coalesce(d.time_s, 0), 0),
                                                prefill_tokens / (prefill_tokens + decode_tokens)) END AS prefill,
           CASE WHEN p.flops > 0 THEN p.visual_flops / p.flops ELSE prefill_visual_tokens / nullif(prefill_tokens, 0) END
               AS visual_share
    FROM encoded AS e
    LEFT JOIN prefill AS p USING (step_id)
    LEFT JOIN mixed_decode AS d USING (step_id)
), amounts AS (
    SELECT instance, start_ns, until_ns AS end_ns, folded, start_ns + encode AS encoded_ns,
           CASE WHEN encode < busy THEN start_ns + encode ELSE start_ns END AS rest_ns, blocked,
           busy::DOUBLE AS busy, encode::DOUBLE AS encode,
           -- Whole nanoseconds: sums of them are exact.
           round(prefill * least(1, coalesce(visual_share, 0))) AS image, round(prefill) - image AS text,
           CASE WHEN vague THEN 0 ELSE busy - encode - round(prefill) END::DOUBLE AS decode,
           steps::DOUBLE AS iterations, encode_patches::DOUBLE AS patches,
           least(prefill_visual_tokens, prefill_tokens)::DOUBLE AS visual_tokens,
           greatest(0, prefill_tokens - prefill_visual_tokens)::DOUBLE AS text_tokens,
           decode_requests::DOUBLE AS decodes, decode_context_tokens::DOUBLE AS context
    FROM shared
)
SELECT *,
       sum(busy) OVER done AS busy_total, sum(encode) OVER done AS encode_total, sum(image) OVER done AS image_total,
       sum(text) OVER done AS text_total, sum(decode) OVER done AS decode_total,
       sum(iterations) OVER done AS iterations_total, sum(patches) OVER done AS patches_total,
       sum(visual_tokens) OVER done AS visual_tokens_total, sum(text_tokens) OVER done AS text_tokens_total,
       sum(decodes) OVER done AS decodes_total, sum(context) OVER done AS context_total,
       sum(CASE WHEN blocked THEN busy ELSE 0 END) OVER done AS blocked_total,
       sum(CASE WHEN blocked THEN encode ELSE 0 END) OVER done AS blocked_encode_total,
       sum(CASE WHEN blocked THEN image ELSE 0 END) OVER done AS blocked_image_total,
       sum(CASE WHEN blocked THEN text ELSE 0 END) OVER done AS blocked_text_total
FROM amounts
WINDOW done AS (PARTITION BY instance ORDER BY start_ns ROWS UNBOUNDED PRECEDING);
