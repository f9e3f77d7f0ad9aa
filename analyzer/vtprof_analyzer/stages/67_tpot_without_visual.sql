-- One row: one request that decoded in steps of known cost: its time per output token had no request had visual tokens.
-- request_key        row of `request_base`
-- ms                 TPOT less what the steps between its first token and its end spent on visual tokens, its own and its
--                    neighbours': encoding, the visual part of prefill by FLOPs, and visual KV that decode read [ms]
-- kv_ms              TPOT less the last alone [ms]
-- known_share        part of that time in which such steps ran, 0..1: at least half; the rest stays as it was
-- Decode spends time on KV where its bytes limit it: without visual KV its floor, max(FLOPs / peak, bytes / bandwidth),
-- gets lower, and its time with it in proportion. Times are the steps' measured ones. Where no ceilings are known, so is
-- nothing here. Running totals over each process's steps make the sum between two moments a difference of two look-ups.
CREATE TABLE tpot_without_visual AS
WITH costs AS (
    SELECT step_id, coalesce(wall_s, time_s) * 1e9 AS ns, phase,
           CASE phase WHEN 'prefill' THEN visual_flops / nullif(flops, 0) WHEN 'encode' THEN 1 ELSE 0 END AS visual_share,
           CASE WHEN phase = 'decode' THEN 1 - greatest(
               flops / peak_flops_per_s, (bytes - kv_visual_read_bytes) / bandwidth_bytes_per_s
           ) / nullif(greatest(flops / peak_flops_per_s, bytes / bandwidth_bytes_per_s), 0) ELSE 0 END AS kv_share
    FROM step_cost
    WHERE peak_flops_per_s > 0 AND bandwidth_bytes_per_s > 0
), spent AS (
    SELECT step_id, sum(ns * coalesce(visual_share, 0)) AS work_ns, sum(ns * coalesce(kv_share, 0)) AS kv_ns
    FROM costs GROUP BY step_id
), totals AS (
    SELECT k.instance, s.start_ns, s.duration_ns, work_ns, kv_ns,
           sum(s.duration_ns::DOUBLE) OVER until - s.duration_ns AS known_before,
           sum(work_ns) OVER until - work_ns AS work_before, sum(kv_ns) OVER until - kv_ns AS kv_before
    FROM spent JOIN steps AS s USING (step_id) JOIN kv_sizes AS k USING (resource_id)
    WHERE s.duration_ns > 0
    WINDOW until AS (PARTITION BY k.instance ORDER BY s.start_ns, s.step_id ROWS UNBOUNDED PRECEDING)
), asked AS (
    SELECT q.request_key, k.instance, unnest([-1, 1]) AS sign, unnest([q.arrival_ns + q.ttft_ns, q.end_ns]) AS ts
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    WHERE q.tpot_ns > 0
), between_moments AS (
    SELECT a.request_key, sum(sign * (known_before + duration_ns * part)) AS known_ns,
           sum(sign * (work_before + work_ns * part)) AS work_ns, sum(sign * (kv_before + kv_ns * part)) AS kv_ns
    FROM (
        SELECT a.request_key, a.sign, t.*, least(1, (a.ts - t.start_ns) / t.duration_ns) AS part
        FROM asked AS a ASOF JOIN totals AS t ON a.instance = t.instance AND a.ts >= t.start_ns
    ) AS a
    GROUP BY a.request_key
)
SELECT request_key,
       -- Where a process told of several steps at once their times are parts of one.
       q.tpot_ns / 1e6 * (1 - least(1, greatest(0, (work_ns + kv_ns) / greatest(known_ns, length_ns)))) AS ms,
       q.tpot_ns / 1e6 * (1 - least(1, greatest(0, kv_ns / greatest(known_ns, length_ns)))) AS kv_ms,
       least(1, known_ns / length_ns) AS known_share
FROM between_moments
JOIN (SELECT request_key, tpot_ns, end_ns - arrival_ns - ttft_ns AS length_ns FROM request_base) AS q USING (request_key)
WHERE known_ns >= length_ns / 2;
