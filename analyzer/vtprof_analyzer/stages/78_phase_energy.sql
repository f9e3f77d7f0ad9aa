-- One row: one phase of the requests whose energy is known in full (`request_energy.complete`): its rows add up to theirs.
-- Steps and windows have the same energy once more: they are not read.
-- phase              name of the phase
-- requests           of them, those with energy in it
-- energy_mj          sum over their stretches [mJ]; low_mj, high_mj: sums of the ends of the intervals, as if all erred
--                    alike; NULL where one has none
-- estimated_mj       of which labelled estimated [mJ]
-- quality            the weakest of them
CREATE TABLE phase_energy AS
SELECT
    phase, count(DISTINCT request_key) AS requests,
    sum(energy_mj ORDER BY request_key, start_ns, end_ns, energy_mj) AS energy_mj,
    CASE WHEN count(energy_low_mj) = count(*)
         THEN sum(energy_low_mj ORDER BY request_key, start_ns, end_ns, energy_low_mj) END AS low_mj,
    CASE WHEN count(energy_high_mj) = count(*)
         THEN sum(energy_high_mj ORDER BY request_key, start_ns, end_ns, energy_high_mj) END AS high_mj,
    coalesce(sum(energy_mj ORDER BY request_key, start_ns, end_ns, energy_mj) FILTER (energy_quality = 'estimated'), 0)
        AS estimated_mj,
    CASE WHEN bool_or(energy_quality = 'estimated') THEN 'estimated' WHEN bool_or(energy_quality = 'attributed') THEN 'attributed'
         WHEN bool_or(energy_quality = 'measured') THEN 'measured' END AS quality
FROM phase_intervals
WHERE energy_mj IS NOT NULL AND request_key IN (SELECT request_key FROM request_energy WHERE complete)
GROUP BY phase;
