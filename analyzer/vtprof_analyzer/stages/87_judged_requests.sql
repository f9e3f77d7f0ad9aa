-- One row: one request whose status is known, against the objectives in `settings`.
-- request_number     row of `request_base`; model, visual_stratum: as in `requests`
-- node               machine that took it in
-- arrival_ns, end_ns Unix time
-- weight             requests that it stands for, in billionths: integers add up to the same in any order
-- completed          whether it ended well; where nothing is said it did
-- ttft_kept, tpot_kept  whether it completed and met that objective, at most that long; NULL where none was given
-- kept               whether it completed and met every objective given
-- energy_nj          energy that it took [nJ], where that is known in full; gpu_time_ns: its share of GPU time [ns]
CREATE TABLE judged_requests AS
WITH worked AS (
    SELECT request_number, sum(gpu_time_ns) AS gpu_time_ns FROM phases WHERE gpu_time_ns IS NOT NULL GROUP BY request_number
), judged AS (
    SELECT
        q.request_number, q.model, q.visual_stratum, h.host_name AS node, b.arrival_ns, b.end_ns,
        round(q.weight * 1e9)::HUGEINT AS weight,
        coalesce(q.status, 'ok') = 'ok' AS completed,
        CASE WHEN settings.slo_ttft_ms IS NOT NULL
             THEN completed AND coalesce(q.ttft_ms <= settings.slo_ttft_ms, false) END AS ttft_kept,
        -- A request of one token has no TPOT to miss.
        CASE WHEN settings.slo_tpot_ms IS NOT NULL
             THEN completed AND coalesce(q.tpot_ms <= settings.slo_tpot_ms, q.n_output_tokens = 1, false) END AS tpot_kept,
        round(e.energy_mj * 1e6)::HUGEINT AS energy_nj, w.gpu_time_ns
    FROM requests AS q
    JOIN request_base AS b USING (request_number)
    LEFT JOIN hosts AS h USING (resource_id)
    LEFT JOIN (FROM request_energy WHERE complete) AS e USING (request_number)
    LEFT JOIN worked AS w USING (request_number),
         settings
    -- A status nobody knows is neither kept nor missed.
    WHERE q.status IS DISTINCT FROM 'unknown'
)
SELECT *, completed AND coalesce(ttft_kept, true) AND coalesce(tpot_kept, true) AS kept FROM judged;
