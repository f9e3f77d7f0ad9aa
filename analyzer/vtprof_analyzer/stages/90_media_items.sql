-- One row: one image, video or clip whose digest was recorded.
-- request_number     row of `request_base`
-- place              its place among the items of its request, from 1
-- digest             keyed digest of its content: equal digests are equal content
-- seen_before        earlier items of the same digest in these traces
CREATE TABLE media_items AS
WITH told AS (
    SELECT r.request_number, r.arrival_ns, s.start_ns,
           unnest(string_split(s.preprocess_media_digests, ',')) AS digest,
           generate_subscripts(string_split(s.preprocess_media_digests, ','), 1) AS place
    FROM spans AS s
    JOIN request_base AS r ON s.trace_id = r.trace_id AND s.parent_span_id = r.span_id
    WHERE s.name = 'vtprof.preprocess' AND s.preprocess_media_digests IS NOT NULL
), cleaned AS (
    SELECT request_number, arrival_ns, start_ns, place, trim(digest) AS digest FROM told WHERE trim(digest) <> ''
)
SELECT request_number, row_number() OVER (PARTITION BY request_number ORDER BY start_ns, place) AS place, digest,
       row_number() OVER (PARTITION BY digest ORDER BY arrival_ns, request_number, start_ns, place) - 1 AS seen_before
FROM cleaned;
