-- One row: one scope (`fact_scopes`) and its facts of the objectives given, in the names of `vtprof_rules/facts.toml`.
CREATE TABLE facts_objectives AS
WITH judged AS (
    SELECT f.*, t.tpot_ms_p50, t.preprocess_ms_p50, t.queue_ms_p50, t.encode_ms_p50, t.transfer_ms_p50, t.prefill_ms_p50
    FROM scoped_requests AS f JOIN facts_time AS t USING (scope)
    WHERE counts AND met IS NOT NULL
), shares AS (
    SELECT scope, avg(met::INT) AS goodput_share,
           count(*) FILTER (ok AND tpot_kept = false) > count(*) FILTER (ok AND ttft_kept = false) AS tpot_most
    FROM judged GROUP BY scope
), late AS (
    -- What a failed request would have taken is not known.
    SELECT scope, unnest([
               {phase: 'preprocess', excess_ms: preprocess_ms - preprocess_ms_p50}, {phase: 'queue', excess_ms: queue_ms - queue_ms_p50},
               {phase: 'encode', excess_ms: encode_ms - encode_ms_p50}, {phase: 'transfer', excess_ms: transfer_ms - transfer_ms_p50},
               {phase: 'prefill', excess_ms: prefill_ms - prefill_ms_p50}
           ], recursive := true)
    FROM judged WHERE NOT met AND ok AND ttft_ms IS NOT NULL
), summed AS (
    SELECT scope, phase, sum(greatest(0, coalesce(excess_ms, 0))) AS excess_ms FROM late GROUP BY ALL
), worst AS (
    SELECT s.scope, CASE WHEN s.tpot_most THEN 'tpot' ELSE arg_max(l.phase, (l.excess_ms, l.phase)) FILTER (l.excess_ms > 0) END AS phase
    FROM shares AS s LEFT JOIN summed AS l USING (scope) GROUP BY s.scope, s.tpot_most
), recovered AS (
    SELECT j.scope, avg((
               NOT met AND ok
               AND coalesce(ttft_kept OR w.phase <> 'tpot' AND ttft_ms - greatest(0, coalesce(CASE w.phase
                       WHEN 'preprocess' THEN preprocess_ms - preprocess_ms_p50 WHEN 'queue' THEN queue_ms - queue_ms_p50
                       WHEN 'encode' THEN encode_ms - encode_ms_p50 WHEN 'transfer' THEN transfer_ms - transfer_ms_p50
                       ELSE prefill_ms - prefill_ms_p50 END, 0)) <= g.slo_ttft_ms, g.slo_ttft_ms IS NULL)
               AND coalesce(tpot_kept OR w.phase = 'tpot' AND tpot_ms >= 0 AND tpot_ms_p50 <= g.slo_tpot_ms, g.slo_tpot_ms IS NULL)
           )::INT) AS share
    FROM judged AS j JOIN worst AS w USING (scope), settings AS g
    WHERE w.phase IS NOT NULL
    GROUP BY j.scope
)
SELECT s.scope, g.slo_ttft_ms, g.slo_tpot_ms, h.goodput_share, w.phase AS slo_worst_phase, r.share AS slo_recovered_share
FROM (SELECT DISTINCT scope FROM fact_scopes) AS s CROSS JOIN settings AS g
LEFT JOIN shares AS h USING (scope) LEFT JOIN worst AS w USING (scope) LEFT JOIN recovered AS r USING (scope);
