-- One row: one share that visual tokens have, each over its own whole.
-- measure            prompt_tokens, kv_token_seconds, prefill_flops, decode_bytes: what they are and what is done for them;
--                    ttft, tpot: the part of these times that would not be, had no request visual tokens, over requests
--                    for which that is known; context_window: of the window, mean over requests; preemptions
-- share              visual part / whole, 0..1, over what is known; NULL when it is known for less than half of the
--                    requests (tokens and windows: of those that tell them; what steps tell: of those whose spans can;
--                    times: of those that have them), of FLOPs and bytes when the cost of less than half of the prefill
--                    tokens or decoding requests of all steps is known, of preemptions when less than half tell what KV was held
-- threshold          from which on the measure counts as dominated (`settings`)
-- dominant           share >= threshold; NULL when the share is not known
CREATE TABLE dominance AS
WITH known AS (
    SELECT 2 * count(*) FILTER (visual_tokens IS NOT NULL AND input_tokens IS NOT NULL) >= count(*) AS tokens,
           -- Steps and phases of other dialects' requests are not there to be counted.
           2 * count(*) FILTER (dialect = 'vtprof') >= count(*) AS work
    FROM request_base
), costed AS (
    -- A process whose model is not known has no cost: what the others did is not the run's.
    SELECT 2 * sum(prefill_tokens) FILTER (step_id IN (SELECT step_id FROM step_cost WHERE phase = 'prefill'))
               >= sum(prefill_tokens) AS prefill,
           2 * sum(decode_requests) FILTER (step_id IN (SELECT step_id FROM step_cost WHERE phase = 'decode'))
               >= sum(decode_requests) AS decode
    FROM steps WHERE NOT folded
), times AS (
    -- As of all requests, where they were sampled.
    SELECT sum(weight * (ttft_ms - ttft_without_visual_ms))
               / nullif(sum(weight * ttft_ms) FILTER (ttft_without_visual_ms IS NOT NULL), 0) AS ttft,
           2 * count(ttft_without_visual_ms) >= count(ttft_ms) AS ttft_enough,
           sum(weight * (tpot_ms - w.ms)) / nullif(sum(weight * tpot_ms) FILTER (w.ms IS NOT NULL), 0) AS tpot,
           2 * count(w.ms) >= count(tpot_ms) AS tpot_enough
    FROM requests LEFT JOIN tpot_without_visual AS w USING (request_number)
), windows AS (
    SELECT sum(weight * visual_ratio) / nullif(sum(weight) FILTER (visual_ratio IS NOT NULL), 0) AS share,
           2 * count(visual_ratio) >= (SELECT count(*) FROM request_base) AS enough
    FROM context_share JOIN request_base USING (request_number)
), lost AS (
    SELECT sum(attributed_to_images) / nullif(sum(count) FILTER (attributed_to_images IS NOT NULL), 0) AS share,
           2 * sum(count) FILTER (attributed_to_images IS NOT NULL) >= sum(count) AS enough
    FROM preemptions
), measures AS (
    SELECT 'prompt_tokens' AS measure, prompt_tokens_threshold AS threshold,
           -- Whole numbers, of billionths, add up to the same in any order.
           (SELECT sum(TRY_CAST(visual_tokens * weight * 1e9 AS HUGEINT)) / nullif(sum(TRY_CAST(input_tokens * weight * 1e9 AS HUGEINT)), 0)
            FROM request_base
            WHERE visual_tokens IS NOT NULL AND input_tokens IS NOT NULL) AS share, known.tokens AS enough
    FROM settings, known
    UNION ALL
    SELECT 'kv_token_seconds', kv_token_seconds_threshold,
           (SELECT sum(visual_tokens::HUGEINT * (end_ns - start_ns))
                   / nullif(sum(held_tokens::HUGEINT * (end_ns - start_ns)), 0) FROM kv_segments),
           CASE WHEN EXISTS (FROM kv_segments WHERE source = 'steps') THEN known.work ELSE known.tokens END
    FROM settings, known
    UNION ALL
    -- Split by query token: what the visual tokens ask, not what is asked of them.
    SELECT 'prefill_flops', prefill_flops_threshold,
           (SELECT sum(visual_flops) / nullif(sum(flops), 0) FROM step_cost WHERE phase = 'prefill'),
           known.work AND costed.prefill
    FROM settings, known, costed
    UNION ALL
    -- Weights and KV only: activations are no part of the wall that visual KV adds to.
    SELECT 'decode_bytes', decode_bytes_threshold,
           (SELECT sum(kv_visual_read_bytes) / nullif(sum(weight_bytes + kv_read_bytes), 0)
            FROM step_cost WHERE phase = 'decode'), known.work AND costed.decode
    FROM settings, known, costed
    UNION ALL
    SELECT 'ttft', ttft_threshold, ttft, ttft_enough FROM settings, times
    UNION ALL
    SELECT 'tpot', tpot_threshold, tpot, tpot_enough FROM settings, times
    UNION ALL
    SELECT 'context_window', context_window_threshold, share, enough FROM settings, windows
    UNION ALL
    SELECT 'preemptions', preemptions_threshold, share, enough FROM settings, lost
)
SELECT measure, CASE WHEN enough THEN share END AS share, threshold,
       CASE WHEN enough THEN share >= threshold END AS dominant
FROM measures;
