-- One row: the requests of one model, as they named it.
-- model              its name; requests: how many asked for it
-- ttft_ms_p50, ttft_ms_p95, tpot_ms_p50, tpot_ms_p95  weighted by sampling, linear interpolation [ms]
-- energy_requests    those whose energy is known in full
-- energy_mj, energy_low_mj, energy_high_mj  of these, and the ends of its interval [mJ]; NULL where that of one is not known
CREATE TABLE by_model AS
WITH ttfts AS (
    SELECT model AS what, ttft_ms AS value, weight FROM requests WHERE model IS NOT NULL AND ttft_ms IS NOT NULL
), tpots AS (
    SELECT model AS what, tpot_ms AS value, weight FROM requests WHERE model IS NOT NULL AND tpot_ms IS NOT NULL
), ttft AS (
    SELECT what AS model, max(value) FILTER (quantile = 0.50) AS p50, max(value) FILTER (quantile = 0.95) AS p95
    FROM weighted_quantiles('ttfts') GROUP BY what
), tpot AS (
    SELECT what AS model, max(value) FILTER (quantile = 0.50) AS p50, max(value) FILTER (quantile = 0.95) AS p95
    FROM weighted_quantiles('tpots') GROUP BY what
), counted AS (
    -- Decimals add up to the same in any order.
    SELECT q.model, count(*) AS requests, count(e.energy_mj) AS energy_requests,
           sum(e.energy_mj::DECIMAL(24, 6))::DOUBLE AS energy_mj,
           CASE WHEN count(e.low_mj) = count(e.energy_mj) THEN sum(e.low_mj::DECIMAL(24, 6))::DOUBLE END AS energy_low_mj,
           CASE WHEN count(e.high_mj) = count(e.energy_mj) THEN sum(e.high_mj::DECIMAL(24, 6))::DOUBLE END AS energy_high_mj
    FROM requests AS q LEFT JOIN (FROM request_energy WHERE complete) AS e USING (request_number)
    WHERE q.model IS NOT NULL
    GROUP BY q.model
)
SELECT c.model, c.requests, ttft.p50 AS ttft_ms_p50, ttft.p95 AS ttft_ms_p95, tpot.p50 AS tpot_ms_p50,
       tpot.p95 AS tpot_ms_p95, c.energy_requests, c.energy_mj, c.energy_low_mj, c.energy_high_mj
FROM counted AS c LEFT JOIN ttft USING (model) LEFT JOIN tpot USING (model);
