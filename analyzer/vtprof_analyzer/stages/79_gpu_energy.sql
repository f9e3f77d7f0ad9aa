-- One row: one GPU, and what the agents saw it take while they watched; no row without a time between two readings.
-- hw_id              UUID of the GPU
-- energy_mj          all of it, idle power included [mJ]
-- attributed_mj      what was given to a phase of our requests [mJ]; the rest belongs to none
-- used               whether a server of these spans names it as its own (hw.id, a list where it has several); NULL where
--                    none names any
-- covered_share      of the time from the first stretch with energy to the last, what was watched, 0..1; NULL without any
-- observed_ns        how long it was watched [ns]: from the agent's start, or from its first reading, to its last
-- named              how many GPUs the servers name, watched or not
-- Every agent of a node tells of all its GPUs: where two watched one at a time its energy counts once, and what each of
-- them gave to its own requests counts all.
CREATE TABLE gpu_energy AS
WITH readings AS (
    SELECT m.hw_id, m.phase, m.start_ns, m.ts_ns, m.value,
           coalesce(r.service_instance_id, m.resource_id::VARCHAR) AS agent
    FROM metric_samples AS m LEFT JOIN resources AS r USING (resource_id)
    WHERE m.name = 'vtprof.attributed.energy_mj' AND m.hw_id IS NOT NULL AND m.phase IS NOT NULL
), beginnings AS (
    -- From the agent's start on, unless it ran long before the spans that were read: what it saw then is of other requests.
    SELECT *,
           CASE WHEN start_ns <= ts_ns
                     AND start_ns >= (SELECT min(start_ns) - 60_000_000_000 FROM spans WHERE dialect IS NOT NULL)
                THEN start_ns END AS begun_ns
    FROM readings
), ordered AS (
    -- A phase that is met later than the agent's first reading began at zero, too.
    SELECT *,
           coalesce(lag(value) OVER (PARTITION BY agent, hw_id, phase ORDER BY ts_ns, value),
                    CASE WHEN begun_ns IS NOT NULL OR ts_ns > min(ts_ns) OVER (PARTITION BY agent, hw_id) THEN 0 END)
               AS before
    FROM beginnings
), watches AS (
    -- An agent that was started again under its old name counts from zero again.
    SELECT hw_id, agent, min(coalesce(begun_ns, ts_ns)) AS first_ns, max(ts_ns) AS last_ns,
           sum(CASE WHEN value < before THEN value ELSE value - before END ORDER BY ts_ns, phase) AS energy_mj,
           sum(CASE WHEN value < before THEN value ELSE value - before END ORDER BY ts_ns, phase)
               FILTER (phase <> 'unattributed') AS attributed_mj
    FROM ordered
    GROUP BY hw_id, agent
), fresh AS (
    SELECT *, greatest(0, last_ns - greatest(first_ns, coalesce(max(last_ns) OVER (
        PARTITION BY hw_id ORDER BY first_ns, last_ns DESC, agent ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), first_ns))) AS fresh_ns
    FROM watches
    WHERE last_ns > first_ns
), working AS (
    SELECT min(start_ns) AS first_ns, max(end_ns) AS last_ns FROM phase_intervals WHERE energy_mj IS NOT NULL
), named AS (
    -- A resource that was exported before the model was loaded lacks what later ones of its process say.
    SELECT DISTINCT trim(unnest(string_split(hw_id, ','))) AS hw_id FROM resources
    WHERE hw_id <> '' AND coalesce(service_instance_id, resource_id::VARCHAR) IN (
        SELECT coalesce(service_instance_id, resource_id::VARCHAR) FROM resources
        WHERE resource_id IN (SELECT resource_id FROM spans WHERE dialect IS NOT NULL)
    )
)
SELECT hw_id,
       -- Of a watch that overlaps an earlier one the part of its time that is new.
       sum(energy_mj * (fresh_ns / (fresh.last_ns - fresh.first_ns)) ORDER BY fresh.first_ns, agent) AS energy_mj,
       coalesce(sum(attributed_mj ORDER BY fresh.first_ns, agent), 0) AS attributed_mj,
       CASE WHEN EXISTS (FROM named) THEN hw_id IN (SELECT hw_id FROM named) END AS used,
       sum(greatest(0, least(fresh.last_ns, working.last_ns) - greatest(fresh.last_ns - fresh_ns, working.first_ns)))
           / nullif(any_value(working.last_ns - working.first_ns), 0) AS covered_share,
       sum(fresh_ns)::BIGINT AS observed_ns,
       (SELECT count(*) FROM named) AS named
FROM fresh, working
GROUP BY hw_id;
