-- One row: one phase of the requests whose energy is known in full (`request_energy.complete`): its rows add up to theirs.
-- Steps and windows have the same energy once more: they are not read.
-- phase              name of the phase
-- requests           of them, those with energy in it
-- energy_mj          sum over their stretches [mJ]; low_mj, high_mj: sums of the ends of the intervals, as if all erred
--                    alike; NULL where one has none
-- estimated_mj       of which labelled estimated [mJ]
-- quality            the weakest of them
CREATE TABLE phase_energy AS
WITH stretches AS (
    SELECT request_number, phase, energy_mj::DECIMAL(24, 6) AS energy_mj, energy_low_mj::DECIMAL(24, 6) AS low_mj,
           energy_high_mj::DECIMAL(24, 6) AS high_mj, energy_quality AS quality
    FROM phase_intervals
    WHERE energy_mj IS NOT NULL AND request_number IN (SELECT request_number FROM request_energy WHERE complete)
)
SELECT
    phase, count(DISTINCT request_number) AS requests, sum(energy_mj)::DOUBLE AS energy_mj,
    CASE WHEN count(low_mj) = count(*) THEN sum(low_mj)::DOUBLE END AS low_mj,
    CASE WHEN count(high_mj) = count(*) THEN sum(high_mj)::DOUBLE END AS high_mj,
    coalesce((sum(energy_mj) FILTER (quality = 'estimated'))::DOUBLE, 0) AS estimated_mj,
    CASE WHEN bool_or(quality = 'estimated') THEN 'estimated' WHEN bool_or(quality = 'attributed') THEN 'attributed'
         WHEN bool_or(quality = 'measured') THEN 'measured' END AS quality
FROM stretches
GROUP BY phase;
