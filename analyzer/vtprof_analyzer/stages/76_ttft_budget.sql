-- One row: one part of TTFT over one population: all requests with a first token, or the slowest of them.
-- population         all, or tail (at or above p95 of TTFT)
-- phase              a phase before the first token, or unexplained; a phase that no request had is left out
-- requests           size of the population
-- share              sum of the part / sum of TTFT: the shares of a population add up to one
-- p50_ms, p95_ms     of the part per request [ms]; a request without it counts as zero, one whose dialect cannot tell
--                    the phase is left out
CREATE TABLE ttft_budget AS
WITH slow AS (
    SELECT quantile_cont(ttft_ns, 0.95) AS at_least_ns FROM request_budget
), populations AS (
    SELECT 'all' AS population, * FROM request_budget
    UNION ALL BY NAME
    SELECT 'tail' AS population, request_budget.* FROM request_budget, slow WHERE ttft_ns >= at_least_ns
), parts AS (
    SELECT population, ttft_ns, unnest([
               {phase: 'preprocess', part_ns: preprocess_ns}, {phase: 'queue', part_ns: queue_ns},
               {phase: 'encode', part_ns: encode_ns}, {phase: 'transfer', part_ns: transfer_ns},
               {phase: 'prefill', part_ns: prefill_ns}, {phase: 'unexplained', part_ns: unexplained_ns}
           ], recursive := true)
    FROM populations
), summed AS (
    SELECT population, phase, count(*) AS requests,
           -- What a dialect cannot tell of a phase is in the others or unexplained: each share is of the same whole.
           sum(part_ns) / nullif(sum(ttft_ns), 0) AS share,
           quantile_cont(part_ns / 1e6, 0.50) AS p50_ms, quantile_cont(part_ns / 1e6, 0.95) AS p95_ms
    FROM parts GROUP BY ALL
)
SELECT * FROM summed
WHERE phase = 'unexplained' OR phase IN (SELECT phase FROM phase_intervals);
