-- One row: one group of requests and one objective. Requests count as often as they stand for others; failed ones missed.
-- scope              all, model, visual_stratum or node; name: which one, NULL for all
-- objective          ttft or tpot, where given; completed: to end well, however long it took
-- requests           of the group, weighted
-- attainment         share that met the objective, 0..1
-- goodput_share      of all objectives together, as what follows, and the same in each row of a group: share that met every objective given, 0..1; NULL where none was
-- goodput_per_s      of them by the second of the whole run: the groups of a scope add up to the run's
-- usd_per_ok_request price of the nodes over those that met every objective (or completed, where none was given): of a
--                    node its own; of a model or stratum the part of all that is its part of GPU time. NULL without a
--                    price, and where no request met them
-- j_per_ok_request   energy of the requests whose energy is known, failed ones too, over those of them that met all
CREATE TABLE slo AS
WITH run AS (
    SELECT (max(end_ns) - min(arrival_ns)) / 1e9 AS seconds, sum(weight * gpu_time_ns) AS gpu_time_ns,
           any_value(slo_ttft_ms) AS slo_ttft_ms, any_value(slo_tpot_ms) AS slo_tpot_ms,
           any_value(usd_per_node_hour) AS usd_per_node_hour,
           -- Processes that name no machine are taken to share one.
           coalesce(any_value(nodes), (SELECT greatest(1, count(DISTINCT host_name)) FROM hosts
                                       WHERE named AND resource_id IN (SELECT resource_id FROM spans WHERE dialect IS NOT NULL)))
               AS nodes
    FROM settings LEFT JOIN judged_requests ON true
), grouped AS (
    SELECT CASE WHEN grouping(model) = 0 THEN 'model' WHEN grouping(visual_stratum) = 0 THEN 'visual_stratum'
                WHEN grouping(node) = 0 THEN 'node' ELSE 'all' END AS scope,
           coalesce(model, visual_stratum, node) AS name,
           sum(weight) AS whole, sum(weight) FILTER (kept) AS kept, sum(weight) FILTER (completed) AS completed,
           sum(weight) FILTER (ttft_kept) AS ttft_kept, sum(weight) FILTER (tpot_kept) AS tpot_kept,
           sum(weight * gpu_time_ns) AS gpu_time_ns, sum(weight * energy_nj) AS energy_nj,
           sum(weight) FILTER (kept AND energy_nj IS NOT NULL) AS kept_with_energy
    FROM judged_requests
    GROUP BY GROUPING SETS ((), (model), (visual_stratum), (node))
), paid AS (
    SELECT g.*, run.* EXCLUDE (gpu_time_ns),
           slo_ttft_ms IS NOT NULL OR slo_tpot_ms IS NOT NULL AS given,
           usd_per_node_hour * seconds / 3600
               * CASE g.scope WHEN 'all' THEN nodes WHEN 'node' THEN 1 ELSE nodes * (g.gpu_time_ns / nullif(run.gpu_time_ns, 0)) END
               AS usd
    FROM grouped AS g, run
    WHERE g.scope = 'all' OR g.name IS NOT NULL
), objectives AS (
    SELECT *, unnest([{objective: 'ttft', met: CASE WHEN slo_ttft_ms IS NOT NULL THEN coalesce(ttft_kept, 0) END},
                      {objective: 'tpot', met: CASE WHEN slo_tpot_ms IS NOT NULL THEN coalesce(tpot_kept, 0) END},
                      {objective: 'completed', met: coalesce(completed, 0)}], recursive := true)
    FROM paid
)
SELECT scope, name, objective, coalesce(whole, 0) / 1e9 AS requests, met / nullif(whole, 0) AS attainment,
       CASE WHEN given THEN coalesce(kept, 0) / nullif(whole, 0) END AS goodput_share,
       CASE WHEN given THEN coalesce(kept, 0) / 1e9 / nullif(seconds, 0) END AS goodput_per_s,
       usd / nullif(kept / 1e9, 0) AS usd_per_ok_request,
       energy_nj / 1e9 / nullif(kept_with_energy, 0) AS j_per_ok_request
FROM objectives
WHERE met IS NOT NULL;
