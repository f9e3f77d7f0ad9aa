-- One row: one of the four visual-token shares, each over its own whole.
-- measure            prompt_tokens, kv_token_seconds, prefill_flops or decode_bytes
-- share              visual part / whole, 0..1, over what is known; NULL when it is known for less than half of the
--                    requests: prompt tokens by requests that tell them, the others by requests whose spans can
-- threshold          from which on the measure counts as dominated (`settings`)
-- dominant           share >= threshold; NULL when the share is not known
CREATE TABLE dominance AS
WITH known AS (
    SELECT 2 * count(*) FILTER (visual_tokens IS NOT NULL AND input_tokens IS NOT NULL) >= count(*) AS tokens,
           -- Steps and phases of other dialects' requests are not there to be counted.
           2 * count(*) FILTER (dialect = 'vtprof') >= count(*) AS work
    FROM request_base
), measures AS (
    SELECT 'prompt_tokens' AS measure, prompt_tokens_threshold AS threshold,
           -- As of all requests, where they were sampled.
           (SELECT sum(visual_tokens * weight ORDER BY request_key) / nullif(sum(input_tokens * weight ORDER BY request_key), 0)
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
           (SELECT sum(visual_flops) / nullif(sum(flops), 0) FROM step_cost WHERE phase = 'prefill'), known.work
    FROM settings, known
    UNION ALL
    -- Weights and KV only: activations are no part of the wall that visual KV adds to.
    SELECT 'decode_bytes', decode_bytes_threshold,
           (SELECT sum(kv_visual_read_bytes) / nullif(sum(weight_bytes + kv_read_bytes), 0)
            FROM step_cost WHERE phase = 'decode'), known.work
    FROM settings, known
)
SELECT measure, CASE WHEN enough THEN share END AS share, threshold,
       CASE WHEN enough THEN share >= threshold END AS dominant
FROM measures;
