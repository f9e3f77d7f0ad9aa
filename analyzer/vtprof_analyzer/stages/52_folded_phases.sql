-- One row: one phase of which iterations were folded into windows with others' work, when the agent shed detail.
-- phase              encode, prefill or decode
-- left_out           iterations of the windows that held it: how many of them did cannot be told
-- judged             iterations that held it and can be judged
-- work_share         part of its work (patches, tokens computed) in those windows, 0..1; NULL when not recorded
-- iterations_share   part of all iterations of the run that these windows are, 0..1
CREATE TABLE folded_phases AS
WITH parts AS (
    SELECT 'encode' AS phase, folded, steps, encode_patches AS work FROM steps
    WHERE encode_items > 0 OR encode_patches > 0 OR encode_ns > 0
    UNION ALL
    SELECT 'prefill', folded, steps, prefill_tokens FROM steps WHERE prefill_tokens > 0
    UNION ALL
    SELECT 'decode', folded, steps, decode_tokens FROM steps WHERE decode_requests > 0
)
SELECT phase, sum(steps) FILTER (folded)::BIGINT AS left_out,
       coalesce(sum(steps) FILTER (NOT folded), 0)::BIGINT AS judged,
       sum(work) FILTER (folded) / nullif(sum(work), 0) AS work_share,
       sum(steps) FILTER (folded) / (SELECT sum(steps) FROM steps) AS iterations_share
FROM parts
GROUP BY phase
HAVING bool_or(folded);
