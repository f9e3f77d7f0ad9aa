-- One row: one request of which some stretch has energy.
-- request_number     row of `request_base`
-- energy_mj, low_mj, high_mj  sums over its stretches [mJ], as in `phase_energy`
-- decode_mj          of which decoding [mJ]; NULL where it has none
-- complete           whether all of its work on the device has energy: only then the sum is the request's
-- output_tokens      tokens generated; NULL is not recorded
-- (Decimals add up to the same in any order; a nanojoule is less than any meter tells.)
CREATE TABLE request_energy AS
WITH stretches AS (
    SELECT request_number, phase, energy_mj::DECIMAL(24, 6) AS energy_mj, energy_low_mj::DECIMAL(24, 6) AS low_mj,
           energy_high_mj::DECIMAL(24, 6) AS high_mj,
           energy_mj IS NOT NULL OR NOT coalesce(works, true) OR phase NOT IN ('encode', 'prefill', 'decode') AS known
    FROM phase_intervals
    WHERE request_number IN (SELECT request_number FROM phase_intervals WHERE energy_mj IS NOT NULL)
), summed AS (
    SELECT request_number, sum(energy_mj)::DOUBLE AS energy_mj,
           CASE WHEN count(low_mj) = count(energy_mj) THEN sum(low_mj)::DOUBLE END AS low_mj,
           CASE WHEN count(high_mj) = count(energy_mj) THEN sum(high_mj)::DOUBLE END AS high_mj,
           (sum(energy_mj) FILTER (phase = 'decode'))::DOUBLE AS decode_mj,
           bool_and(known) AS complete
    FROM stretches
    GROUP BY request_number
)
SELECT s.*, q.output_tokens FROM summed AS s JOIN request_base AS q USING (request_number);
