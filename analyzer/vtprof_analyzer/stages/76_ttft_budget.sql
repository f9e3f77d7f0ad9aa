-- One row: one part of TTFT over one population: all requests with a first token, or the slowest of them.
-- population         all, or tail (at or above p95 of TTFT)
-- phase              a phase before the first token, or unexplained; a phase that no request had is left out
-- requests           size of the population
-- share              sum of the part / sum of TTFT, weighted by sampling: the shares of a population add up to one
-- p50_ms, p95_ms     of the part per request, weighted likewise [ms]; a request without it counts as zero, one whose
--                    dialect cannot tell the phase is left out
CREATE TABLE ttft_budget AS
WITH budgets AS (
    SELECT b.*, q.weight FROM request_budget AS b JOIN request_base AS q USING (request_number)
), whole AS (
    SELECT 'ttft' AS what, ttft_ns AS value, weight FROM budgets
), slow AS (
    SELECT value AS at_least_ns FROM weighted_quantiles('whole') WHERE quantile = 0.95
), populations AS (
    SELECT 'all' AS population, * FROM budgets
    UNION ALL BY NAME
    SELECT 'tail' AS population, budgets.* FROM budgets, slow WHERE ttft_ns >= at_least_ns
), parts AS (
    SELECT population, ttft_ns, weight, unnest([
               {phase: 'preprocess', part_ns: preprocess_ns}, {phase: 'queue', part_ns: queue_ns},
               {phase: 'encode', part_ns: encode_ns}, {phase: 'transfer', part_ns: transfer_ns},
               {phase: 'prefill', part_ns: prefill_ns}, {phase: 'unexplained', part_ns: unexplained_ns}
           ], recursive := true)
    FROM populations
), told AS (
    SELECT population || ' ' || phase AS what, part_ns / 1e6 AS value, weight FROM parts
), quantiles AS (
    SELECT what, max(value) FILTER (quantile = 0.50) AS p50_ms, max(value) FILTER (quantile = 0.95) AS p95_ms
    FROM weighted_quantiles('told') GROUP BY what
), summed AS (
    SELECT population, phase, count(*) AS requests,
           -- What a dialect cannot tell of a phase is in the others or unexplained: each share is of the same whole.
           sum(part_ns * weight) / nullif(sum(ttft_ns * weight), 0) AS share
    FROM parts GROUP BY ALL
)
SELECT population, phase, requests, share, p50_ms, p95_ms
FROM summed LEFT JOIN quantiles ON what = population || ' ' || phase
WHERE phase = 'unexplained' OR phase IN (SELECT phase FROM phase_intervals);
