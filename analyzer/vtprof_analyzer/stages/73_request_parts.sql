-- One row: one request that was preprocessed, and what its preprocessing was, as far as it was recorded.
-- request_number     row of `request_base`
-- preprocess_ns      all of it: union of its stretches [ns]
-- fetch_ns, decode_ns  media download and media decoding [ns]; several items may load at once: never more than there is
-- processor_ns       CPU time beyond decoding: resizing, the processor, tokenising [ns]
-- waiting_ns         the rest: for a CPU worker or for others [ns]
-- NULL where it was not recorded; the four add up to preprocess_ns where all are known
CREATE TABLE request_parts AS
WITH fetches AS (
    -- (`least` passes over NULL: it would make a time of one that was not recorded.)
    SELECT request_number, duration_ns AS preprocess_ns, cpu_ns, decode_ns,
           CASE WHEN fetch_ns IS NOT NULL THEN least(fetch_ns, duration_ns) END AS fetched
    FROM phases WHERE phase = 'preprocess'
), cut AS (
    SELECT *, CASE WHEN decode_ns IS NOT NULL THEN least(decode_ns, preprocess_ns - coalesce(fetched, 0)) END AS decoded
    FROM fetches
)
SELECT request_number, preprocess_ns, fetched AS fetch_ns, decoded AS decode_ns,
       CASE WHEN cpu_ns IS NOT NULL
            THEN least(greatest(0, cpu_ns - coalesce(decoded, 0)),
                       preprocess_ns - coalesce(fetched, 0) - coalesce(decoded, 0)) END AS processor_ns,
       CASE WHEN cpu_ns IS NOT NULL
            THEN greatest(0, preprocess_ns - coalesce(fetched, 0) - coalesce(decoded, 0)
                             - greatest(0, cpu_ns - coalesce(decoded, 0))) END AS waiting_ns
FROM cut;
