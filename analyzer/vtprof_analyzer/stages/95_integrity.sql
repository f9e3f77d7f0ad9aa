-- One row: how far the run can be trusted, as counts over all input.
-- orphans                    phase spans whose request is absent
-- end_missing, negative_duration  spans repaired for that reason, all kinds; a first token before the arrival or after
--                            the end counts as the latter
-- incomplete_spans           spans of these three kinds, each once
-- unknown_attributes         attributes outside the vocabulary, on spans that were used
-- ignored_spans              spans of unknown name
-- used_spans                 spans that were used
-- requests_without_tokens    requests that did not record their prompt tokens
-- requests_without_phases    requests without any phase
-- records_lost, hook_errors  what the agents counted as lost, and faults of the probe's hooks (a request may be missing for
--                            each): last value of each ring of a process; NULL where none reported
-- folded_iterations          iterations that were not judged, because windows fold prefill or encode work with others'
-- sampled_requests           requests that stand for others too (a sampling ratio below 1)
-- estimated_requests         requests that the kept ones stand for: the sum of 1 / ratio, one without a ratio is itself
CREATE TABLE integrity AS
WITH ours AS (
    SELECT
        count(*) FILTER (end_ns IS NULL) AS end_missing,
        count(*) FILTER (end_ns < start_ns) AS negative_duration,
        count(*) FILTER (end_ns IS NULL OR end_ns < start_ns) AS broken,
        count(*) AS used_spans,
        coalesce(sum(len(unknown_keys)), 0)::BIGINT AS unknown_attributes
    FROM spans WHERE dialect IS NOT NULL
), phase_spans AS (
    SELECT count(*) AS total, count(*) FILTER (end_ns >= start_ns) AS whole FROM spans
    WHERE name IN ('vtprof.preprocess', 'vtprof.queue', 'vtprof.encode', 'vtprof.transfer', 'vtprof.prefill',
                   'vtprof.decode')
), joined AS (
    SELECT count(*) AS total, count(*) FILTER (NOT i.end_missing AND NOT i.negative_duration) AS whole
    FROM phase_intervals AS i JOIN request_base USING (request_number) WHERE dialect = 'vtprof'
), impossible AS (
    SELECT count(*) FILTER (NOT negative_duration) AS told, count(*) FILTER (NOT negative_duration AND NOT end_missing) AS whole
    FROM request_base WHERE impossible_ttft
), kept AS (
    -- Whole numbers, of billionths: in another order the rounded sum could differ.
    SELECT count(*) FILTER (weight > 1) AS sampled_requests,
           coalesce(round(sum(TRY_CAST(weight * 1e9 AS HUGEINT)) / 1e9), 0)::BIGINT AS estimated_requests
    FROM request_base
)
SELECT
    ours.* EXCLUDE (broken) REPLACE (ours.negative_duration + impossible.told AS negative_duration),
    phase_spans.total - joined.total AS orphans,
    ours.broken + impossible.whole + phase_spans.whole - joined.whole AS incomplete_spans,
    (SELECT count(*) FROM spans WHERE dialect IS NULL) AS ignored_spans,
    (SELECT count(*) FROM request_base WHERE input_tokens IS NULL) AS requests_without_tokens,
    (SELECT count(*) FROM request_base WHERE request_number NOT IN (SELECT request_number FROM phase_intervals))
        AS requests_without_phases,
    (SELECT total FROM agent_counts WHERE name = 'vtprof.agent.records_lost') AS records_lost,
    (SELECT total FROM agent_counts WHERE name = 'vtprof.agent.hook_errors') AS hook_errors,
    (SELECT coalesce(sum(steps), 0)::BIGINT FROM steps WHERE folded) AS folded_iterations,
    kept.*
FROM ours, phase_spans, joined, impossible, kept;
