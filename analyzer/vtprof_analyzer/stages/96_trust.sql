-- One row: one area of the report and one reason to trust it less; an area without any has one row.
-- area               tokens, phases, steps, counters, kv, clock or sampling
-- state              ok, weak or refused: by the settings, how much has to be spoilt; a smaller fault is told and stays ok
-- reason             in words, with the counts
-- counter            energy, dram or tensor, where the reason is that it is known for part of the time; else NULL
-- factor             what is left of the trust, 0..1: the share of the area's data that is as it should be
-- What is counted here lowers verdicts (`trust.lowered`), so each fault has one row, in the area that it spoils most.
CREATE TABLE trust AS
WITH faults AS (
    SELECT area, format(words, count) AS reason,
           -- Where it is no matter of time, of the spans.
           coalesce(time_share, least(1, count / nullif((SELECT used_spans FROM integrity), 0)), 1) AS spoilt
    FROM span_faults
    JOIN (VALUES
        ('overlap', 'phases', 'stretches that overlap an earlier one of their request and phase: {:,}; the time counts once'),
        ('skewed', 'phases', 'phases in part outside their request: {:,}; no TTFT budget has that part'),
        ('absent_request', 'phases', 'requests of which only phases came: {:,}'),
        ('cut_begin', 'phases', 'requests that began before the recording, so that only their decoding is known: {:,}'),
        ('cut_end', 'phases', 'requests that never ended, as the recording or the process stopped first: {:,}'),
        ('own_parent', 'phases', 'spans that are their own parent: {:,}'),
        ('cycle', 'phases', 'spans that are each other''s parents in a ring: {:,}'),
        ('conflicting_id', 'phases', 'spans that share their ids with another that differs: {:,}'),
        ('token_sum', 'tokens', 'requests with more visual, cached or summed tokens than their prompt: {:,}'),
        ('step_token_sum', 'tokens', 'steps with more visual tokens than tokens: {:,}'),
        ('out_of_range', 'tokens', 'values nothing real has, taken as unknown: {:,}'),
        ('step_gap', 'steps', 'iterations missing between the first and the last of a process: {:,}'),
        ('kv_over_capacity', 'kv', 'steps that held more tokens than the KV cache has room for: {:,}')
    ) AS told (kind, area, words) USING (kind)
), agents AS (
    SELECT coalesce(max(total) FILTER (name = 'vtprof.agent.records_lost'), 0) AS lost,
           coalesce(max(total) FILTER (name = 'vtprof.agent.records_read'), 0) AS records_read,
           coalesce(max(total) FILTER (name = 'vtprof.agent.hook_errors'), 0) AS hook_errors,
           coalesce(max(total) FILTER (name = 'vtprof.agent.spans_dropped'), 0) AS dropped,
           coalesce(max(total) FILTER (name = 'vtprof.agent.requests_sampled_out'), 0) AS sampled_out
    FROM agent_counts
), requests_known AS (
    SELECT count(*) AS total FROM request_base
), energy AS (
    SELECT (SELECT sum(energy_mj ORDER BY request_number) FROM request_energy) AS requests_mj,
           (SELECT sum(energy_mj ORDER BY hw_id) FROM gpu_energy WHERE coalesce(used, true)) AS gpus_mj,
           (SELECT count(*) FILTER (coalesce(used, true)) >= max(named) FROM gpu_energy) AS all_watched
), counters AS (
    SELECT counter, min(known_share) AS known_share, arg_min(phase, (known_share, phase)) AS phase FROM counter_coverage GROUP BY counter
), reasons AS (
    FROM faults
    UNION ALL BY NAME
    SELECT 'phases' AS area,
           format('of {1:,} spans {0:,} had no end, or one before their begin: their time counts as none',
                  end_missing + negative_duration, used_spans) AS reason,
           (end_missing + negative_duration) / used_spans AS spoilt
    FROM integrity WHERE end_missing + negative_duration > 0
    UNION ALL BY NAME
    SELECT 'phases' AS area,
           format('spans left out, without a valid id, name or time, or of a newer version: {:,} of {:,}', left_out,
                  left_out + used_spans) AS reason,
           left_out / (left_out + used_spans) AS spoilt
    FROM (SELECT coalesce(sum(dropped_spans), 0)::BIGINT AS left_out FROM ingest_files), integrity WHERE left_out > 0
    UNION ALL BY NAME
    SELECT 'phases' AS area, format('requests without phases: {:,} of {:,}', requests_without_phases, total) AS reason,
           requests_without_phases / total AS spoilt
    FROM integrity, requests_known WHERE requests_without_phases > 0
    UNION ALL BY NAME
    SELECT 'tokens' AS area, format('requests that did not record their tokens: {:,} of {:,}', requests_without_tokens, total) AS reason,
           requests_without_tokens / total AS spoilt
    FROM integrity, requests_known WHERE requests_without_tokens > 0
    UNION ALL BY NAME
    SELECT area, format('records of the probe that were lost before the agent read them: {:,} of {:,}', lost, lost + records_read) AS reason,
           lost / (lost + records_read) AS spoilt
    FROM agents, (VALUES ('phases'), ('steps')) AS areas (area) WHERE lost > 0
    UNION ALL BY NAME
    SELECT 'phases' AS area, format('faults of the probe''s hooks: {:,}; a request may be missing for each', hook_errors) AS reason,
           hook_errors / (hook_errors + total) AS spoilt
    FROM agents, requests_known WHERE hook_errors > 0
    UNION ALL BY NAME
    SELECT 'steps' AS area, format('spans that a destination did not take: {:,}', dropped) AS reason,
           dropped / (dropped + used_spans) AS spoilt
    FROM agents, integrity WHERE dropped > 0
    UNION ALL BY NAME
    -- Folding is judged phase by phase (`folded_phases`): it is told here and lowers nothing twice.
    SELECT 'steps' AS area, format('iterations in windows that mix phases, not judged: {:,}', folded_iterations) AS reason,
           0 AS spoilt
    FROM integrity WHERE folded_iterations > 0
    UNION ALL BY NAME
    SELECT 'counters' AS area, counter,
           format('{} is known for {:.0f} % of the time of {}', CASE counter WHEN 'dram' THEN 'DRAM activity' WHEN 'tensor'
                  THEN 'tensor activity' ELSE counter END, 100 * known_share, phase) AS reason,
           1 - known_share AS spoilt
    FROM counters WHERE known_share < 0.995
    UNION ALL BY NAME
    SELECT 'counters' AS area,
           format('GPU counters: for no phase, nor for half of the time of its steps, though samples were read ({:,}): too coarse,'
                  || ' or of another time or device', count(*)) AS reason,
           1 AS spoilt
    FROM gpu_samples
    WHERE name IN ('vtprof.gpu.dram_bandwidth_ratio', 'vtprof.gpu.tensor_active_ratio', 'vtprof.gpu.sm_active_ratio')
      AND NOT EXISTS (FROM counters)
      AND NOT EXISTS (FROM phase_intervals WHERE coalesce(dram_ratio, tensor_ratio, sm_ratio) IS NOT NULL)
      AND NOT EXISTS (FROM phase_bounds WHERE coalesce(dram_ratio, tensor_ratio, sm_ratio) IS NOT NULL)
    HAVING count(*) > 0
    UNION ALL BY NAME
    SELECT 'counters' AS area,
           format('energies do not add up: the requests took {:.1f} J, their GPUs {:.1f} J in all, so the GPUs'' total lacks'
                  || ' what was not exported', requests_mj / 1e3, gpus_mj / 1e3) AS reason,
           1 - gpus_mj / requests_mj AS spoilt
    -- Rounding, and the ends of the watch, make less than a hundredth.
    FROM energy WHERE all_watched AND requests_mj > 1.01 * gpus_mj
    UNION ALL BY NAME
    SELECT 'clock' AS area,
           CASE WHEN offset_ns IS NULL
                THEN format('the clocks of {} and {} cannot be put right: by some of the spans that say so ({:,}) the first is at least {:.3f} ms'
                            || ' ahead, by others at most {:.3f} ms', host_name, against, pairs, low_ns / 1e6, high_ns / 1e6)
                ELSE format('the clock of {} is {:.3f} ms {} that of {} ({}; spans that say so: {:,}); its phases were moved', host_name,
                            abs(offset_ns) / 1e6, CASE WHEN offset_ns > 0 THEN 'ahead of' ELSE 'behind' END, against,
                            CASE WHEN low_ns IS NULL THEN 'at the least' WHEN high_ns IS NULL THEN 'at the least'
                                 ELSE format('give or take {:.3f} ms', abs(high_ns - low_ns) / 2e6) END, pairs) END AS reason,
           -- What is uncertain of it, beside what it puts right.
           CASE WHEN offset_ns IS NULL OR low_ns IS NULL OR high_ns IS NULL THEN 1
                ELSE least(1, abs(high_ns - low_ns) / 2 / abs(offset_ns)) END AS spoilt,
           offset_ns IS NULL AS refused
    FROM clock_offsets WHERE offset_ns IS DISTINCT FROM 0
    UNION ALL BY NAME
    SELECT 'sampling' AS area,
           format('kept requests: {:,}, which stand for {:,}', requests_known.total, estimated_requests) AS reason, 0 AS spoilt
    FROM integrity, requests_known WHERE sampled_requests > 0
    UNION ALL BY NAME
    SELECT 'sampling' AS area,
           format('requests that the agents left out: {:,}, beside {:,} kept ones that stand for {:,}: the weights do not add up',
                  sampled_out, requests_known.total, estimated_requests) AS reason,
           abs(sampled_out + requests_known.total - estimated_requests)
               / greatest(sampled_out + requests_known.total, estimated_requests) AS spoilt
    FROM agents, integrity, requests_known
    -- Estimates of a small sample scatter.
    WHERE sampled_out > 0 AND requests_known.total > 0
      AND abs(sampled_out + requests_known.total - estimated_requests)
          > 3 * sqrt(sampled_out) * estimated_requests / requests_known.total
), areas AS (
    FROM (VALUES ('tokens', 1), ('phases', 2), ('steps', 3), ('counters', 4), ('kv', 5), ('clock', 6), ('sampling', 7)) AS t (area, position)
)
SELECT area,
       CASE WHEN reason IS NULL OR spoilt <= settings.trust_weak_ratio THEN 'ok'
            -- An estimate of a clock is better than none; a counter that is missing refutes nothing.
            WHEN coalesce(refused, spoilt > settings.trust_refused_ratio AND area NOT IN ('clock', 'counters')) THEN 'refused'
            ELSE 'weak' END AS state,
       coalesce(reason, 'nothing found amiss') AS reason, counter,
       (1 - greatest(0, least(1, coalesce(spoilt, 0))))::DOUBLE AS factor
FROM areas LEFT JOIN reasons USING (area), settings
ORDER BY position, factor, reason;
