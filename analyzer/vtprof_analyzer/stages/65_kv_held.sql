-- One row: one of at most `settings.kv_points` equal parts of the run; the moment in it that held most KV.
-- point              number of the part from 0
-- seconds            begin of the part, since the first request's arrival [s]
-- held_bytes, visual_bytes  the most KV held at that moment, and the visual part of it [B]
CREATE TABLE kv_held AS
WITH span AS (
    SELECT min(start_ns) AS first_ns, greatest(1, max(end_ns) - min(start_ns)) AS length_ns FROM kv_segments
), binned AS (
    SELECT s.*, first_ns, length_ns, kv_points,
           unnest(range(
               ((s.start_ns - first_ns)::HUGEINT * kv_points // length_ns)::BIGINT,
               least(kv_points, ((s.end_ns - first_ns)::HUGEINT * kv_points // length_ns)::BIGINT + 1)
           )) AS point
    FROM kv_segments AS s, span, settings
    WHERE peak_bytes IS NOT NULL
), origin AS (
    SELECT min(arrival_ns) AS arrival_ns FROM request_base
)
SELECT point,
       (any_value(first_ns) - coalesce(any_value(arrival_ns), any_value(first_ns))
           + point * any_value(length_ns) / any_value(kv_points)) / 1e9 AS seconds,
       max(peak_bytes) AS held_bytes,
       arg_max(peak_visual_bytes, (peak_bytes, peak_visual_bytes)) AS visual_bytes
FROM binned, origin
GROUP BY point;
