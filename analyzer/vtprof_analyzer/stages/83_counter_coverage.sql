-- One row: one phase on the device and one GPU counter that some stretch of any phase has.
-- phase              encode, prefill or decode
-- counter            energy, dram or tensor
-- known_share        time of its stretches that have the counter / time of all that tell of work, 0..1; NULL where none
--                    has a length
CREATE TABLE counter_coverage AS
WITH working AS (
    SELECT phase, end_ns - start_ns AS duration_ns, energy_mj, dram_ratio, tensor_ratio
    FROM phase_intervals
    WHERE phase IN ('encode', 'prefill', 'decode') AND (coalesce(works, true) OR energy_mj IS NOT NULL)
), counted AS (
    SELECT phase, 'energy' AS counter, duration_ns, energy_mj IS NOT NULL AS known FROM working
    UNION ALL
    SELECT phase, 'dram', duration_ns, dram_ratio IS NOT NULL FROM working
    UNION ALL
    SELECT phase, 'tensor', duration_ns, tensor_ratio IS NOT NULL FROM working
)
SELECT phase, counter,
       coalesce(sum(duration_ns) FILTER (known), 0) / nullif(sum(duration_ns), 0) AS known_share
FROM counted
WHERE counter IN (SELECT counter FROM counted WHERE known)
GROUP BY phase, counter;
