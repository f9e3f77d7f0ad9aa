-- One row: one request that decoded in steps of known cost: its time per output token had no request had visual tokens.
-- request_number     row of `request_base`
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
), processes AS (
    -- A number is cheaper to sort by, and to look up, than a text.
    SELECT resource_id, dense_rank() OVER (ORDER BY instance) AS process FROM kv_sizes
), ordered AS (
    -- Sorted once, so that the totals below stream: in windows by process they take three times as long.
    SELECT p.process, s.start_ns, s.duration_ns, work_ns, kv_ns
    FROM spent JOIN steps AS s USING (step_id) JOIN processes AS p USING (resource_id)
    WHERE s.duration_ns > 0
    ORDER BY p.process, s.start_ns, s.step_id
), summed AS (
    SELECT *, lag(process) OVER () IS DISTINCT FROM process AS first,
           lead(process) OVER () = process AND lead(start_ns) OVER () = start_ns AS again,
           sum(duration_ns::DOUBLE) OVER until - duration_ns AS known, sum(work_ns) OVER until - work_ns AS work,
           sum(kv_ns) OVER until - kv_ns AS kv
    FROM ordered
    WINDOW until AS (ROWS UNBOUNDED PRECEDING)
), totals AS (
    -- Less what other processes had done where this one begins. Of steps that begin at once the last one stands: a moment
    -- finds a single one.
    SELECT process, start_ns, duration_ns, work_ns, kv_ns,
           known - last_value(CASE WHEN first THEN known END IGNORE NULLS) OVER until AS known_before,
           work - last_value(CASE WHEN first THEN work END IGNORE NULLS) OVER until AS work_before,
           kv - last_value(CASE WHEN first THEN kv END IGNORE NULLS) OVER until AS kv_before
    FROM summed
    WINDOW until AS (ROWS UNBOUNDED PRECEDING)
    QUALIFY again IS NOT TRUE
), asked AS (
    SELECT q.request_number, p.process, q.tpot_ns, q.arrival_ns + q.ttft_ns AS begin_ns, q.end_ns,
           q.end_ns - q.arrival_ns - q.ttft_ns AS length_ns
    FROM request_base AS q
    JOIN processes AS p USING (resource_id)
    WHERE q.tpot_ns > 0
), begun AS (
    -- Before its first step a process has done nothing.
    SELECT a.*, least(1, (a.begin_ns - t.start_ns) / t.duration_ns) AS part,
           coalesce(t.known_before + t.duration_ns * part, 0) AS known_begin,
           coalesce(t.work_before + t.work_ns * part, 0) AS work_begin, coalesce(t.kv_before + t.kv_ns * part, 0) AS kv_begin
    FROM asked AS a ASOF LEFT JOIN totals AS t ON a.process = t.process AND a.begin_ns >= t.start_ns
), between_moments AS (
    SELECT a.request_number, a.tpot_ns, a.length_ns, least(1, (a.end_ns - t.start_ns) / t.duration_ns) AS last_part,
           t.known_before + t.duration_ns * last_part - a.known_begin AS known_ns,
           t.work_before + t.work_ns * last_part - a.work_begin AS work_ns,
           t.kv_before + t.kv_ns * last_part - a.kv_begin AS kv_ns
    FROM begun AS a ASOF JOIN totals AS t ON a.process = t.process AND a.end_ns >= t.start_ns
)
SELECT request_number,
       -- Where a process told of several steps at once their times are parts of one.
       tpot_ns / 1e6 * (1 - least(1, greatest(0, (work_ns + kv_ns) / greatest(known_ns, length_ns)))) AS ms,
       tpot_ns / 1e6 * (1 - least(1, greatest(0, kv_ns / greatest(known_ns, length_ns)))) AS kv_ms,
       least(1, known_ns / length_ns) AS known_share
FROM between_moments
WHERE known_ns >= length_ns / 2;
