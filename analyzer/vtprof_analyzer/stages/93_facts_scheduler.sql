-- One row: one scope (`fact_scopes`) and its facts of steps, load and waiting, in the names of `vtprof_rules/facts.toml`.
-- Nothing records which steps ran as CUDA graphs (encode_cudagraph_hit_rate, cudagraph_hit_rate) or how full each expert rank
-- is (expert_load_max_over_mean): these are NULL. kv_usage_* are in `facts_memory`.
CREATE TABLE facts_scheduler AS
WITH ran AS (
    SELECT resource_id, start_ns, duration_ns, steps, folded, running, waiting, preemptions, decode_requests, kv_used_tokens,
           prefill_tokens, prefill_tokens + decode_tokens AS tokens, prefill_tokens > 0 AND NOT folded AS prefills,
           greatest(encode_items, encode_patches, encode_ns, 0) > 0 AS encodes,
           -- Time weighted by the requests present, where steps tell them.
           duration_ns * coalesce(running + waiting, running, waiting, 1) AS met_ns
    FROM steps
), sums AS (
    -- By process first: each belongs to several scopes.
    SELECT resource_id, sum(running * duration_ns) AS running, sum(duration_ns) FILTER (running IS NOT NULL) AS running_ns,
           sum(waiting * duration_ns) AS waiting, sum(duration_ns) FILTER (waiting IS NOT NULL) AS waiting_ns,
           sum(kv_used_tokens * duration_ns::DOUBLE) FILTER (running > 0) AS kv_running,
           sum(running * duration_ns) FILTER (kv_used_tokens IS NOT NULL) AS running_kv,
           sum(kv_used_tokens * duration_ns::DOUBLE) AS kv, sum(duration_ns) FILTER (kv_used_tokens IS NOT NULL) AS kv_ns,
           sum(tokens) FILTER (prefills) AS tokens, count(tokens) FILTER (prefills) AS prefills,
           sum(running * met_ns) AS running_met, sum(met_ns) FILTER (running IS NOT NULL) AS running_met_ns,
           sum(kv_used_tokens * met_ns) AS kv_met, sum(met_ns) FILTER (kv_used_tokens IS NOT NULL) AS kv_met_ns,
           sum(tokens * met_ns) FILTER (prefills) AS tokens_met, sum(met_ns) FILTER (prefills) AS prefills_met_ns,
           sum(decode_requests) FILTER (NOT folded) AS decode_requests,
           sum(steps) FILTER (decode_requests > 0 AND NOT folded) AS decode_steps, sum(preemptions) AS preemptions
    FROM ran GROUP BY resource_id
), limits AS (
    SELECT instance, max(max_num_seqs) AS max_num_seqs, max(max_num_batched_tokens) AS token_budget FROM process_settings
    GROUP BY instance
), capacities AS (
    SELECT instance, max(capacity_tokens) AS capacity_tokens FROM kv_sizes GROUP BY instance
), busy_times AS (
    SELECT instance, sum(busy) / nullif(max(end_ns) - min(start_ns), 0) AS busy_share FROM engine_work GROUP BY instance
), loads AS (
    -- Means over time of each process; those that are met weigh time by the requests present, so that quiet hours hide nothing.
    SELECT p.scope, p.instance, sum(running) / nullif(sum(running_ns), 0) AS running,
           sum(waiting) / nullif(sum(waiting_ns), 0) AS waiting, sum(kv_running) / nullif(sum(running_kv), 0) AS kv_of_request,
           sum(kv) / nullif(sum(kv_ns), 0) AS kv_used, sum(tokens) / nullif(sum(prefills), 0) AS step_tokens,
           sum(running_met) / nullif(sum(running_met_ns), 0) AS running_met, sum(kv_met) / nullif(sum(kv_met_ns), 0) AS kv_met,
           sum(tokens_met) / nullif(sum(prefills_met_ns), 0) AS step_tokens_met
    FROM sums JOIN fact_processes AS p USING (resource_id) GROUP BY p.scope, p.instance
), rated AS (
    SELECT l.*, c.capacity_tokens / nullif(l.kv_of_request, 0) AS kv_batch_limit,
           -- (`greatest` passes over NULL: the largest that is known.)
           greatest(l.running_met / nullif(m.max_num_seqs, 0), l.kv_met / nullif(c.capacity_tokens, 0),
                    b.busy_share * l.step_tokens_met / nullif(m.token_budget, 0)) AS utilisation,
           greatest(l.running / nullif(m.max_num_seqs, 0), l.kv_used / nullif(c.capacity_tokens, 0),
                    b.busy_share * l.step_tokens / nullif(m.token_budget, 0)) AS utilisation_mean
    FROM loads AS l LEFT JOIN limits AS m USING (instance) LEFT JOIN capacities AS c USING (instance)
    LEFT JOIN busy_times AS b USING (instance)
), together AS (
    SELECT scope, avg(running) AS running_mean, avg(waiting) AS waiting_mean, avg(kv_batch_limit) AS kv_batch_limit,
           CASE WHEN avg(utilisation) IS NOT NULL THEN least(1, avg(utilisation)) END AS utilisation,
           CASE WHEN avg(utilisation_mean) IS NOT NULL THEN least(1, avg(utilisation_mean)) END AS utilisation_mean
    FROM rated GROUP BY scope
), stepped AS (
    SELECT p.scope, sum(decode_requests) / nullif(sum(decode_steps), 0) AS batch_mean, sum(preemptions) AS preemptions
    FROM sums JOIN fact_processes AS p USING (resource_id) GROUP BY p.scope
), middles AS (
    SELECT p.scope, median(tokens) AS step_tokens_p50
    FROM ran JOIN fact_processes AS p USING (resource_id) WHERE prefills GROUP BY p.scope
), stalls AS (
    SELECT p.scope, sum(steps) FILTER (prefill_tokens > 0 OR encodes) / sum(steps) AS decode_stall_with_prefill_share
    FROM ran JOIN fact_processes AS p USING (resource_id) JOIN facts_roofline AS d USING (scope)
    WHERE decode_requests > 0 AND NOT folded AND duration_ns / 1e6 / steps > 2 * d.decode_step_ms_p50
      -- What is fast for all scopes meets none of them.
      AND duration_ns / 1e6 / steps > 2 * (SELECT min(decode_step_ms_p50) FROM facts_roofline)
    GROUP BY p.scope
), asked AS (
    SELECT *, NOT media AND visual_tokens = 0 AS text_only, others_encode_ns > 0 AS beside_encode,
           -- (`least` and `greatest` pass over NULL: they would make a number of what is not known.)
           CASE WHEN decode_ns > 0 THEN tpot_ms * (1 - least(1, decode_others_ns / decode_ns)) END AS tpot_alone_ms
    FROM scoped_requests WHERE counts
), requests_of AS (
    SELECT
        scope, count(*) AS requests, max(preemptions) IS NOT NULL AS preemptions_told, sum(preemptions) AS preemptions,
        (sum(greatest(0, prefilled_tokens + coalesce(cached_tokens, 0) - input_tokens))
             FILTER (prefilled_tokens IS NOT NULL AND input_tokens IS NOT NULL))::DOUBLE AS preempted_tokens,
        median(chunks) AS chunks_per_prefill_p50,
        quantile_cont(coalesce(encode_stretches, 0), 0.95) FILTER (media) AS encode_steps_p95,
        count(encode_stretches) > 0 AS encode_told,
        count(*) * 1e9 / nullif(max(arrival_ns) - min(arrival_ns), 0) AS arrival_rate,
        -- Sampling thins bursts out: of what is left they cannot be told.
        bool_and(recorded) AND max(weight) = 1 AS whole, min(arrival_ns) AS first_ns, max(arrival_ns) AS last_ns,
        var_pop(e2e_ms - queue_ms) / nullif(pow(avg(e2e_ms - queue_ms), 2), 0) AS service_cv2,
        quantile_cont(queue_ms, 0.95) FILTER (text_only) AS queue_ms_p95_text_only,
        median(queue_ms) FILTER (text_only) AS queue_ms_p50_text_only,
        sum(queue_visual_ns) FILTER (text_only AND queue_ms > 0)
            / nullif(1e6 * sum(queue_ms) FILTER (text_only AND queue_visual_ns IS NOT NULL), 0) AS long_prefill_overlap_share,
        quantile_cont(tpot_alone_ms, 0.99) AS tpot_ms_p99_without_prefill,
        sum(output_tokens - sequences) FILTER (decode_steps > 0)
            / nullif(sum(decode_steps) FILTER (output_tokens IS NOT NULL), 0) AS acceptance_length,
        CASE WHEN count(*) FILTER (text_only AND recorded AND ttft_ms IS NOT NULL AND beside_encode) >= 20
             THEN quantile_cont(ttft_ms, 0.95) FILTER (text_only AND beside_encode) END AS text_ttft_p95_with_encode,
        CASE WHEN count(*) FILTER (text_only AND recorded AND ttft_ms IS NOT NULL AND NOT beside_encode) >= 20
             THEN quantile_cont(ttft_ms, 0.95) FILTER (text_only AND NOT beside_encode) END AS text_ttft_p95_without
    FROM asked GROUP BY scope
), windows AS (
    -- Ten arrivals a window on average; the last one, which is cut off, is left out.
    SELECT scope, (last_ns - first_ns) * 10.0 / requests AS window_ns, floor(requests / 10)::BIGINT AS windows, first_ns
    FROM requests_of WHERE whole AND requests >= 200 AND last_ns > first_ns
), placed AS (
    SELECT w.scope, floor((a.arrival_ns - w.first_ns) / w.window_ns)::BIGINT AS place, count(*) AS arrived
    FROM asked AS a JOIN windows AS w USING (scope) GROUP BY ALL
), arrivals AS (
    SELECT scope, place, coalesce(arrived, 0) AS arrived
    FROM (SELECT scope, unnest(range(windows)) AS place FROM windows) LEFT JOIN placed USING (scope, place)
), trends AS (
    -- Against the mean of up to five windows around it, a window tells of bursts, and not of a rate that rises or falls slowly.
    SELECT scope, arrived, avg(arrived) OVER around AS trend, count(*) OVER around AS around
    FROM arrivals WINDOW around AS (PARTITION BY scope ORDER BY place ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING)
), bursts AS (
    -- Of w independent windows one is off their mean, itself in it, by (w - 1) / w of the variance on average.
    SELECT scope, avg(pow(arrived - trend, 2) * around / (around - 1)) / nullif(avg(arrived), 0) AS arrival_burstiness
    FROM trends GROUP BY scope
), replicas AS (
    SELECT a.scope, a.instance, any_value(m.model) AS model, sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)) AS tokens,
           quantile_cont(queue_ms, 0.95) AS queue_ms_p95
    FROM asked AS a
    JOIN (SELECT DISTINCT instance, model FROM fact_processes) AS m USING (instance)
    WHERE a.instance IN (SELECT subject FROM fact_scopes WHERE view = 'instance_facts')
    GROUP BY a.scope, a.instance
), balance AS (
    SELECT scope, max(variation) AS instance_load_cv
    FROM (SELECT scope, model, stddev_pop(tokens) / nullif(avg(tokens), 0) AS variation
          FROM replicas GROUP BY scope, model HAVING count(*) > 1)
    GROUP BY scope
), worst AS (
    SELECT scope, max(queue_ms_p95) AS queue_ms_p95_worst FROM replicas GROUP BY scope
), engines AS (
    SELECT sum(growth) AS preemptions FROM engine_growth WHERE name = 'vtprof.engine.preemptions'
)
SELECT
    s.scope, t.* EXCLUDE (scope), p.batch_mean, h.step_tokens_p50, d.decode_stall_with_prefill_share,
    -- Steps count those of all requests; spans those of their own; an engine's page those of the whole run.
    coalesce(p.preemptions, CASE WHEN r.preemptions_told THEN r.preemptions END, CASE WHEN s.scope = 0 THEN e.preemptions END)
        / nullif(r.requests, 0) AS preemptions_per_request,
    r.* EXCLUDE (scope, requests, preemptions_told, preemptions, encode_told, encode_steps_p95, whole, first_ns, last_ns,
                 acceptance_length),
    CASE WHEN r.encode_told THEN r.encode_steps_p95 END AS encode_steps_p95,
    CASE WHEN c.spec_method <> 'none' THEN r.acceptance_length END AS acceptance_length,
    b.arrival_burstiness, l.instance_load_cv, w.queue_ms_p95_worst,
    NULL::DOUBLE AS encode_cudagraph_hit_rate, NULL::DOUBLE AS cudagraph_hit_rate, NULL::DOUBLE AS expert_load_max_over_mean
FROM (SELECT DISTINCT scope FROM fact_scopes) AS s
CROSS JOIN engines AS e
LEFT JOIN together AS t USING (scope) LEFT JOIN stepped AS p USING (scope) LEFT JOIN middles AS h USING (scope)
LEFT JOIN stalls AS d USING (scope) LEFT JOIN requests_of AS r USING (scope) LEFT JOIN bursts AS b USING (scope)
LEFT JOIN balance AS l USING (scope) LEFT JOIN worst AS w USING (scope) LEFT JOIN facts_configuration AS c USING (scope);
