-- One row: one of at most `settings.kv_points` equal parts of the run; the moment in it that held most KV, all processes
-- together.
-- point              number of the part from 0
-- seconds            begin of the part, since the first request's arrival, or the first step where that is earlier [s]
-- held_bytes, visual_bytes  the most KV held at that moment, and the visual part of it [B]
-- held_from_ns       when the stretch that held it began, Unix time; of like ones the first
-- has_max            whether every step of that moment recorded its maximum; source: as in `kv_segments`
CREATE TABLE kv_held AS
WITH known AS (
    SELECT instance, start_ns, end_ns, peak_bytes, peak_visual_bytes, has_max
    FROM kv_segments WHERE peak_bytes IS NOT NULL
), several AS (
    SELECT (SELECT count(DISTINCT instance) > 1 FROM known) OR (SELECT bool_or(own_caches) FROM kv_sizes) AS processes
), changes AS (
    -- What each holds comes and goes with its stretches; where there is one process with one cache, these are the run's.
    SELECT unnest([start_ns, end_ns]) AS ts, unnest([1, -1]) AS sign, peak_bytes, peak_visual_bytes,
           (NOT has_max)::INT AS without_max
    FROM known WHERE (SELECT processes FROM several)
), together AS (
    -- Sorted first and then added up: a window that sorts does so at twice the cost.
    SELECT ts AS start_ns, lead(ts) OVER () AS end_ns, sum((sign * peak_bytes)::DOUBLE) OVER until AS peak_bytes,
           sum((sign * peak_visual_bytes)::DOUBLE) OVER until AS peak_visual_bytes,
           sum(sign * without_max) OVER until = 0 AS has_max
    FROM (FROM changes ORDER BY ts, sign)
    WINDOW until AS (ROWS UNBOUNDED PRECEDING)
), segments AS (
    SELECT start_ns, end_ns, peak_bytes, peak_visual_bytes, has_max FROM known WHERE NOT (SELECT processes FROM several)
    UNION ALL
    SELECT start_ns, end_ns, peak_bytes::BIGINT, peak_visual_bytes::BIGINT, has_max FROM together WHERE end_ns > start_ns
), frame AS (
    SELECT min(start_ns) AS first_ns,
           greatest(1, ceil((max(end_ns) - min(start_ns)) / any_value(kv_points)))::BIGINT AS part_ns
    FROM segments, settings
), placed AS (
    SELECT segments.*, (start_ns - first_ns) // part_ns AS first_point, (end_ns - 1 - first_ns) // part_ns AS last_point
    FROM segments, frame
), binned AS (
    SELECT first_point AS point, start_ns, peak_bytes, peak_visual_bytes, has_max FROM placed
    UNION ALL
    SELECT unnest(range(first_point + 1, last_point + 1)), start_ns, peak_bytes, peak_visual_bytes, has_max
    FROM placed WHERE last_point > first_point
)
SELECT point,
       -- Steps may be older than the first request: that one was left out by sampling, or lost.
       (any_value(first_ns) - least(any_value(arrival_ns), any_value(first_ns)) + point * any_value(part_ns)) / 1e9
           AS seconds,
       arg_max(start_ns, (peak_bytes, peak_visual_bytes, -start_ns)) AS held_from_ns,
       max(peak_bytes) AS held_bytes, arg_max(peak_visual_bytes, (peak_bytes, peak_visual_bytes)) AS visual_bytes,
       arg_max(has_max, (peak_bytes, peak_visual_bytes)) AS has_max, (SELECT any_value(source) FROM kv_segments) AS source
FROM binned, frame, (SELECT min(arrival_ns) AS arrival_ns FROM request_base)
GROUP BY point;
