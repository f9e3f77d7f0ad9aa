-- One row: one phase on the device and one GPU counter that some stretch of any phase has.
-- phase              encode, prefill or decode
-- counter            energy, dram or tensor
-- known_share        time of its stretches that have the counter / time of all that tell of work, 0..1; NULL where none
--                    has a length
-- low, high          of dram and tensor: ends of the interval of its mean over these stretches, 0..1, as if all erred to one
--                    side; a value without an interval is its own
-- tells              whether that mean says something of the phase: it has half of its time, and where most of it is
--                    estimated, an interval that is at most half of the scale
CREATE TABLE counter_coverage AS
WITH working AS (
    SELECT *, end_ns - start_ns AS duration_ns
    FROM phase_intervals
    WHERE phase IN ('encode', 'prefill', 'decode') AND (coalesce(works, true) OR energy_mj IS NOT NULL)
), counted AS (
    SELECT phase, 'energy' AS counter, duration_ns, energy_mj IS NOT NULL AS known, NULL::DOUBLE AS low, NULL::DOUBLE AS high,
           energy_quality AS quality
    FROM working
    UNION ALL
    SELECT phase, 'dram', duration_ns, dram_ratio IS NOT NULL, coalesce(dram_low, dram_ratio), coalesce(dram_high, dram_ratio),
           dram_quality
    FROM working
    UNION ALL
    SELECT phase, 'tensor', duration_ns, tensor_ratio IS NOT NULL, coalesce(tensor_low, tensor_ratio),
           coalesce(tensor_high, tensor_ratio), tensor_quality
    FROM working
), summed AS (
    SELECT phase, counter, sum(duration_ns) AS all_ns, coalesce(sum(duration_ns) FILTER (known), 0) AS known_ns,
           coalesce(sum(duration_ns) FILTER (known AND quality = 'estimated'), 0) AS estimated_ns,
           -- Whole numbers, of billionths, add up to the same in any order.
           sum(TRY_CAST(low * duration_ns * 1e9 AS HUGEINT)) FILTER (known) / 1e9 AS low_ns,
           sum(TRY_CAST(high * duration_ns * 1e9 AS HUGEINT)) FILTER (known) / 1e9 AS high_ns
    FROM counted
    WHERE counter IN (SELECT counter FROM counted WHERE known)
    GROUP BY phase, counter
)
SELECT phase, counter, known_ns / nullif(all_ns, 0) AS known_share, low_ns / nullif(known_ns, 0) AS low,
       high_ns / nullif(known_ns, 0) AS high,
       all_ns > 0 AND 2 * known_ns >= all_ns AND NOT coalesce(2 * estimated_ns > known_ns AND 2 * (high - low) > 1, false) AS tells
FROM summed;
