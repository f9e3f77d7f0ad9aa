-- One row: one phase that the run tells the time of: those of TTFT, and decode, in the names of `vtprof_rules/facts.toml`.
-- The budgets of TTFT's phases fill its objective, in proportion to what each takes at the roofline, or to its median. The queue
-- has none: waiting is no work, and a budget of it would be taken from the phases that are.
CREATE TABLE facts_phase AS
WITH told AS (
    SELECT unnest([
        {phase: 'preprocess', p50: t.preprocess_ms_p50, p95: t.preprocess_ms_p95, floor: t.preprocess_ms_p50, above: NULL, ratio: NULL},
        {phase: 'queue', p50: t.queue_ms_p50, p95: t.queue_ms_p95, floor: NULL, above: NULL, ratio: NULL},
        {phase: 'encode', p50: t.encode_ms_p50, p95: t.encode_ms_p95, floor: coalesce(r.encode_ideal_ms, t.encode_ms_p50),
         above: r.encode_above_roof_share, ratio: r.encode_floor_ratio},
        {phase: 'transfer', p50: t.transfer_ms_p50, p95: t.transfer_ms_p95, floor: t.transfer_ms_p50, above: NULL, ratio: NULL},
        {phase: 'prefill', p50: t.prefill_ms_p50, p95: t.prefill_ms_p95, floor: coalesce(r.prefill_ideal_ms, t.prefill_ms_p50),
         above: r.prefill_above_roof_share, ratio: r.prefill_floor_ratio},
        {phase: 'decode', p50: t.tpot_ms_p50, p95: t.tpot_ms_p95, floor: NULL, above: r.decode_above_roof_share,
         ratio: r.decode_floor_ratio}
    ], recursive := true)
    FROM facts_time AS t JOIN facts_roofline AS r USING (scope) WHERE t.scope = 0
)
SELECT phase, p50 AS phase_ms_p50, p95 AS phase_ms_p95,
       CASE WHEN phase = 'decode' THEN slo_tpot_ms ELSE slo_ttft_ms * floor / nullif(sum(floor) OVER (), 0) END AS phase_budget_ms,
       above AS phase_above_roof_share, ratio AS phase_floor_ratio
FROM told, settings
WHERE p50 IS NOT NULL;
