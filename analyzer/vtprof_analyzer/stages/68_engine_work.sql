-- One row: one row of `steps`, with running totals of what its process had done before: the work between any two moments is
-- a difference of two look-ups (ASOF, macro `work_between`); joining steps to requests by range would not end.
-- instance           the process, as in `kv_sizes`
-- start_ns, end_ns   Unix time; cut where the next step of the process begins, so that no time counts twice; of two that
--                    begin at once the longer one stands,
--                    of two that end at once too the later one in `steps`
-- folded             as in `steps`
-- encoded_ns         when the encoder was done: it runs first
-- rest_ns            from when on the rest ran, evenly: encoded_ns, or start_ns where the encoder fills the step
-- blocked            requests waited that the scheduler passed over for want of room: it preempted, the KV cache or the
--                    sequences were full, or it left a part of the step's tokens unused
-- busy               time in the step [ns]
-- encode, image, text, decode  what it is cut into [ns]: image is the visual part of prefill (by FLOPs where known, else by
--                    tokens), text other prefill, decode is told from prefill by the cost model's times, else by tokens;
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
), ordered AS (
    -- Sorted once: all that looks at neighbours below then streams. Windows by process take three times as long.
    SELECT k.instance, s.start_ns, s.end_ns, s.folded, s.folded OR s.end_missing AS vague,
           coalesce(s.waiting > 0 AND (
               s.preemptions > 0
               OR s.kv_used_tokens >= settings.kv_full_threshold * k.capacity_tokens
               OR s.running >= try_cast(k.most_running AS BIGINT)
               -- Whoever waits beside a step with room in its budget, and no encoder to wait for, found no other room.
               OR s.waiting >= 0.5 AND s.encode_patches = 0 AND coalesce(s.encode_ns, 0) = 0
                  AND CASE WHEN s.prefill_tokens = 0 THEN true
                           ELSE s.prefill_tokens + s.decode_tokens < 0.9 * s.steps * try_cast(k.most_tokens AS BIGINT) END
           ), false) AND NOT s.folded AS blocked,
           CASE WHEN s.prefill_tokens = 0 AND s.decode_requests = 0 AND s.encode_patches > 0 THEN s.duration_ns
                ELSE greatest(s.encode_ns, s.encode_gpu_time_ns, 0) END AS encode_ns,
           CASE WHEN s.prefill_tokens <= 0 THEN 0
                ELSE coalesce(p.time_s / nullif(p.time_s + coalesce(d.time_s, 0), 0),
                              s.prefill_tokens / (s.prefill_tokens + s.decode_tokens)) END AS prefill_share,
           CASE WHEN p.flops > 0 THEN p.visual_flops / p.flops
                ELSE s.prefill_visual_tokens / nullif(s.prefill_tokens, 0) END AS visual_share,
           s.steps, s.encode_patches, s.prefill_tokens, s.prefill_visual_tokens, s.decode_requests, s.decode_context_tokens
    FROM settings, steps AS s
    JOIN limits AS k USING (resource_id)
    LEFT JOIN prefill AS p USING (step_id)
    LEFT JOIN mixed_decode AS d USING (step_id)
    WHERE s.duration_ns > 0
    ORDER BY k.instance, s.start_ns, s.end_ns, s.step_id
), placed AS (
    SELECT *, greatest(start_ns, CASE WHEN lead(instance) OVER () = instance THEN least(end_ns, lead(start_ns) OVER ())
                                      ELSE end_ns END) AS until_ns
    FROM ordered
), encoded AS (
    SELECT *, until_ns - start_ns AS busy, CASE WHEN vague THEN 0 ELSE least(busy, encode_ns) END AS encode,
           CASE WHEN vague THEN 0 ELSE (busy - encode) * prefill_share END AS prefill
    FROM placed
    WHERE until_ns > start_ns
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
           decode_requests::DOUBLE AS decodes, decode_context_tokens::DOUBLE AS context,
           CASE WHEN blocked THEN busy ELSE 0 END::DOUBLE AS blocked_busy,
           CASE WHEN blocked THEN encode ELSE 0 END::DOUBLE AS blocked_encode,
           CASE WHEN blocked THEN image ELSE 0 END AS blocked_image, CASE WHEN blocked THEN text ELSE 0 END AS blocked_text,
           lag(instance) OVER () IS DISTINCT FROM instance AS first
    FROM encoded
), summed AS (
    -- Of all processes, one after the other.
    SELECT *, sum(busy) OVER done AS busy_all, sum(encode) OVER done AS encode_all,
           sum(image) OVER done AS image_all, sum(text) OVER done AS text_all,
           sum(decode) OVER done AS decode_all, sum(iterations) OVER done AS iterations_all,
           sum(patches) OVER done AS patches_all, sum(visual_tokens) OVER done AS visual_tokens_all,
           sum(text_tokens) OVER done AS text_tokens_all, sum(decodes) OVER done AS decodes_all,
           sum(context) OVER done AS context_all, sum(blocked_busy) OVER done AS blocked_busy_all,
           sum(blocked_encode) OVER done AS blocked_encode_all, sum(blocked_image) OVER done AS blocked_image_all,
           sum(blocked_text) OVER done AS blocked_text_all
    FROM amounts
    WINDOW done AS (ROWS UNBOUNDED PRECEDING)
)
SELECT instance, start_ns, end_ns, folded, encoded_ns, rest_ns, blocked, busy, encode, image, text, decode, iterations, patches,
       visual_tokens, text_tokens, decodes, context,
       -- Less what those before this one had.
       busy_all - last_value(CASE WHEN first THEN busy_all - busy END IGNORE NULLS) OVER done AS busy_total,
       encode_all - last_value(CASE WHEN first THEN encode_all - encode END IGNORE NULLS) OVER done AS encode_total,
       image_all - last_value(CASE WHEN first THEN image_all - image END IGNORE NULLS) OVER done AS image_total,
       text_all - last_value(CASE WHEN first THEN text_all - text END IGNORE NULLS) OVER done AS text_total,
       decode_all - last_value(CASE WHEN first THEN decode_all - decode END IGNORE NULLS) OVER done AS decode_total,
       iterations_all
           - last_value(CASE WHEN first THEN iterations_all - iterations END IGNORE NULLS) OVER done AS iterations_total,
       patches_all - last_value(CASE WHEN first THEN patches_all - patches END IGNORE NULLS) OVER done AS patches_total,
       visual_tokens_all
           - last_value(CASE WHEN first THEN visual_tokens_all - visual_tokens END IGNORE NULLS) OVER done AS visual_tokens_total,
       text_tokens_all
           - last_value(CASE WHEN first THEN text_tokens_all - text_tokens END IGNORE NULLS) OVER done AS text_tokens_total,
       decodes_all - last_value(CASE WHEN first THEN decodes_all - decodes END IGNORE NULLS) OVER done AS decodes_total,
       context_all - last_value(CASE WHEN first THEN context_all - context END IGNORE NULLS) OVER done AS context_total,
       blocked_busy_all
           - last_value(CASE WHEN first THEN blocked_busy_all - blocked_busy END IGNORE NULLS) OVER done AS blocked_total,
       blocked_encode_all
           - last_value(CASE WHEN first THEN blocked_encode_all - blocked_encode END IGNORE NULLS) OVER done AS blocked_encode_total,
       blocked_image_all
           - last_value(CASE WHEN first THEN blocked_image_all - blocked_image END IGNORE NULLS) OVER done AS blocked_image_total,
       blocked_text_all
           - last_value(CASE WHEN first THEN blocked_text_all - blocked_text END IGNORE NULLS) OVER done AS blocked_text_total
FROM summed
WINDOW done AS (ROWS UNBOUNDED PRECEDING);
