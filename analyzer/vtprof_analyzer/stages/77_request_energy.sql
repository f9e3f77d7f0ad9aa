-- One row: one request of which some stretch has energy.
-- request_key        row of `request_base`
-- energy_mj, low_mj, high_mj  sums over its stretches [mJ], as in `phase_energy`
-- decode_mj          of which decoding [mJ]; NULL where it has none
-- complete           whether all of its work on the device has energy: only then the sum is the request's
-- output_tokens      tokens generated; NULL is not recorded
CREATE TABLE request_energy AS
SELECT
    p.request_key,
    sum(p.energy_mj ORDER BY p.start_ns, p.end_ns, p.energy_mj) AS energy_mj,
    CASE WHEN count(p.energy_low_mj) = count(p.energy_mj)
         THEN sum(p.energy_low_mj ORDER BY p.start_ns, p.end_ns, p.energy_low_mj) END AS low_mj,
    CASE WHEN count(p.energy_high_mj) = count(p.energy_mj)
         THEN sum(p.energy_high_mj ORDER BY p.start_ns, p.end_ns, p.energy_high_mj) END AS high_mj,
    sum(p.energy_mj ORDER BY p.start_ns, p.end_ns, p.energy_mj) FILTER (p.phase = 'decode') AS decode_mj,
    bool_and(p.energy_mj IS NOT NULL OR NOT coalesce(p.works, true) OR p.phase NOT IN ('encode', 'prefill', 'decode'))
        AS complete,
    any_value(q.output_tokens) AS output_tokens
FROM phase_intervals AS p
JOIN request_base AS q USING (request_key)
GROUP BY p.request_key
HAVING count(p.energy_mj) > 0;
