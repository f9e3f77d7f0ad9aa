-- One row: one kind of fault that occurred, in the spans or in what the agents exported; `integrity` has the other counts.
-- kind               overlap: stretches of a phase that begin before an earlier one of that request ended
--                    skewed: phases that begin before their request or end after it, by more than the settings' slack
--                    absent_request: requests of which there are phases only
--                    cut_begin: requests with nothing but their decoding: the recording began after their prompt
--                    cut_end: requests that never ended: the recording ended before, or the process did
--                    own_parent: spans that are their own parent; cycle: spans in longer rings of parents, of up to 16
--                    conflicting_id: spans that share their ids with another that differs
--                    token_sum: requests whose visual, cached or summed tokens exceed their prompt
--                    out_of_range: values nothing real has, taken as unknown by the reader (a visual part above its whole too)
--                    step_token_sum: steps whose visual tokens exceed what they are part of
--                    kv_over_capacity: steps that held more KV than the cache has
--                    step_gap: iterations missing between the first and the last of a process
--                    older_schema: spans recorded in an older version of the vocabulary than the newest in the run
--                    records_lost, hook_errors, spans_dropped, requests_sampled_out: counted by the agents themselves
-- count              how many
-- time_share         part that they are of the time of the run's phases, requests or steps, whichever they concern, 0..1;
--                    of iterations where they are missing; NULL where the fault is no matter of time
CREATE TABLE span_faults AS
WITH parents AS (
    -- A phase without a parent is a request's, too, which nobody told of.
    SELECT trace_id, parent_span_id AS span_id, sum(phase_ns) AS phases_ns
    FROM (SELECT trace_id, parent_span_id,
                 CASE WHEN name IN ('vtprof.preprocess', 'vtprof.queue', 'vtprof.encode', 'vtprof.transfer', 'vtprof.prefill',
                                    'vtprof.decode') THEN greatest(0, coalesce(end_ns - start_ns, 0)) END AS phase_ns
          FROM spans)
    WHERE parent_span_id IS NOT NULL OR phase_ns IS NOT NULL
    GROUP BY ALL
), orphans AS (
    SELECT count(*) AS requests, sum(phases_ns) AS duration_ns
    FROM (FROM parents WHERE phases_ns IS NOT NULL) ANTI JOIN request_base USING (trace_id, span_id)
), phase_time AS (
    SELECT sum(duration_ns) AS total_ns, sum(overlapping) AS overlapping, sum(overlap_ns) AS overlap_ns FROM phases
), outside AS (
    SELECT count(*) AS total, sum(least(outside_ns, end_ns - start_ns)) AS outside_ns
    FROM phase_intervals, settings WHERE outside_ns > settings.clock_slack_ns
), decoded_only AS (
    SELECT request_number FROM phases GROUP BY request_number HAVING bool_and(phase = 'decode')
), judged AS (
    SELECT end_ns - arrival_ns AS duration_ns, end_missing,
           request_number IN (SELECT request_number FROM decoded_only) AS begun_before,
           coalesce(greatest(visual_tokens, cached_tokens,
                             coalesce(visual_tokens, 0) + coalesce(text_tokens, 0) + coalesce(audio_tokens, 0)) > input_tokens,
                    false) AS impossible
    FROM request_base
), request_faults AS (
    SELECT sum(duration_ns) AS total_ns,
           count(*) FILTER (begun_before) AS begun_before, sum(duration_ns) FILTER (begun_before) AS begun_before_ns,
           count(*) FILTER (end_missing) AS unended, sum(duration_ns) FILTER (end_missing) AS unended_ns,
           count(*) FILTER (impossible) AS impossible, sum(duration_ns) FILTER (impossible) AS impossible_ns
    FROM judged
), step_faults AS (
    SELECT sum(s.duration_ns) AS total_ns,
           count(*) FILTER (impossible) AS impossible, sum(s.duration_ns) FILTER (impossible) AS impossible_ns,
           count(*) FILTER (full_up) AS full_up, sum(s.duration_ns) FILTER (full_up) AS full_up_ns
    FROM (
        SELECT s.duration_ns,
               s.prefill_visual_tokens > s.prefill_tokens OR s.decode_visual_tokens > s.decode_context_tokens
                   OR coalesce(s.kv_visual_tokens > s.kv_used_tokens, false) AS impossible,
               coalesce(greatest(s.kv_used_tokens, s.kv_used_tokens_max) > k.capacity_tokens, false) AS full_up
        FROM steps AS s LEFT JOIN kv_sizes AS k USING (resource_id)
    ) AS s
), numbered AS (
    -- Each ring of a process is a resource of its own and counts from its own beginning.
    SELECT resource_id, max(step_index + greatest(1, coalesce(step_count, 1))) - min(step_index) AS expected,
           sum(greatest(1, coalesce(step_count, 1))) AS found
    FROM spans
    WHERE name IN ('vtprof.step', 'vtprof.window') AND step_count IS DISTINCT FROM 0 AND step_index >= 0
    GROUP BY resource_id
), missing AS (
    SELECT sum(greatest(0, expected - found)) AS total, sum(greatest(expected, found)) AS expected FROM numbered
), inner_spans AS (
    -- Only spans that have both a parent and children can lie on a ring, and only if so has their parent.
    SELECT trace_id, span_id, parent_span_id FROM spans SEMI JOIN parents USING (trace_id, span_id)
    WHERE parent_span_id IS NOT NULL AND parent_span_id <> span_id
), climbing AS MATERIALIZED (
    SELECT c.* FROM inner_spans AS c
    JOIN inner_spans AS p ON p.trace_id = c.trace_id AND p.span_id = c.parent_span_id
), ways AS (
    WITH RECURSIVE up AS (
        SELECT trace_id, span_id AS origin, parent_span_id AS reached, 1 AS hops FROM climbing
        UNION ALL
        SELECT u.trace_id, u.origin, c.parent_span_id, u.hops + 1
        FROM up AS u JOIN climbing AS c ON c.trace_id = u.trace_id AND c.span_id = u.reached
        WHERE u.reached <> u.origin AND u.hops < 16
    )
    SELECT count(DISTINCT (trace_id, origin)) AS total FROM up WHERE reached = origin
), versions AS (
    SELECT count(*) FILTER (r.schema_version < newest.version) AS older
    FROM spans AS s JOIN resources AS r USING (resource_id), (SELECT max(schema_version) AS version FROM resources) AS newest
    WHERE s.dialect IS NOT NULL
), found AS (
    SELECT 'overlap' AS kind, overlapping AS count, overlap_ns / nullif(total_ns + overlap_ns, 0) AS time_share FROM phase_time
    UNION ALL
    SELECT 'skewed', total, outside_ns / nullif(total_ns, 0) FROM outside, phase_time
    UNION ALL
    SELECT 'absent_request', requests, o.duration_ns / nullif(coalesce(total_ns, 0) + o.duration_ns, 0) FROM orphans AS o, phase_time
    UNION ALL
    SELECT 'cut_begin', begun_before, begun_before_ns / nullif(total_ns, 0) FROM request_faults
    UNION ALL
    SELECT 'cut_end', unended, unended_ns / nullif(total_ns, 0) FROM request_faults
    UNION ALL
    SELECT 'token_sum', impossible, impossible_ns / nullif(total_ns, 0) FROM request_faults
    UNION ALL
    SELECT 'step_token_sum', impossible, impossible_ns / nullif(total_ns, 0) FROM step_faults
    UNION ALL
    SELECT 'kv_over_capacity', full_up, full_up_ns / nullif(total_ns, 0) FROM step_faults
    UNION ALL
    SELECT 'step_gap', total, total / nullif(expected, 0) FROM missing
    UNION ALL
    SELECT 'own_parent', count(*) FILTER (parent_span_id = span_id), NULL FROM spans
    UNION ALL
    SELECT 'cycle', total, NULL FROM ways
    UNION ALL
    SELECT 'conflicting_id', conflicting_ids, NULL FROM ingest_counts
    UNION ALL
    SELECT 'out_of_range', sum(values_out_of_range), NULL FROM ingest_files
    UNION ALL
    SELECT 'older_schema', older, NULL FROM versions
    UNION ALL
    SELECT substr(name, length('vtprof.agent.') + 1), total, NULL FROM agent_counts WHERE name <> 'vtprof.agent.records_read'
)
SELECT kind, count::BIGINT AS count, time_share::DOUBLE AS time_share FROM found WHERE count > 0;
