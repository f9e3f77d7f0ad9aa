-- One row: one phase of one percentile of TTFT, over the requests of one visual stratum: what that percentile consists of.
-- visual_stratum     label, or all (every request with a first token); position: its place in the order, -1 for all
-- percentile         p50, p95 or p99
-- phase              a phase before the first token, or unexplained; a phase that no request had is left out
-- requests           requests around the percentile, whose parts these are: within 5, 2.5 and 0.5 points of it, and at least
--                    the nearest ones; stratum_requests: all of the stratum with a first token
-- share              sum of the part / sum of TTFT over them, weighted by sampling; adds up to one
-- ttft_ms            the percentile, weighted, linear interpolation [ms]
-- ms                 share x ttft_ms: adds up to it
CREATE TABLE ttft_strata AS
WITH budgets AS (
    -- Numbered in the order of TTFT: sorted once by key, which is dear, and by number from then on.
    SELECT *, row_number() OVER () AS number
    FROM (SELECT b.*, q.weight,
                 (SELECT arg_min(position, upper_tokens) FROM visual_strata WHERE upper_tokens >= q.visual_tokens) AS position
          FROM request_budget AS b JOIN request_base AS q USING (request_number)
          ORDER BY b.ttft_ns, b.request_number)
), grouped AS (
    SELECT number, ttft_ns, weight, -1 AS position FROM budgets
    UNION ALL BY NAME
    SELECT number, ttft_ns, weight, position FROM budgets WHERE position IS NOT NULL
), sizes AS (
    SELECT position, sum(weight) AS total, count(*) AS stratum_requests FROM grouped GROUP BY position
), reached AS (
    SELECT *, sum(weight) OVER (ROWS UNBOUNDED PRECEDING) AS reached, lag(position) OVER () IS DISTINCT FROM position AS first
    FROM (SELECT position, number, weight FROM grouped ORDER BY position, number)
), ranked AS (
    -- Places 0 to total - 1, as if each request stood there as often as it counts: the middle of its own.
    SELECT position, number, weight,
           reached - last_value(CASE WHEN first THEN reached - weight END IGNORE NULLS) OVER (ROWS UNBOUNDED PRECEDING)
               - (weight + 1) / 2 AS place
    FROM reached
), around AS (
    SELECT r.position, r.number, a.percentile, s.stratum_requests
    FROM ranked AS r JOIN sizes AS s USING (position),
         (VALUES ('p50', 0.50, 0.05), ('p95', 0.95, 0.025), ('p99', 0.99, 0.005)) AS a (percentile, quantile, band)
    WHERE abs(r.place - a.quantile * (s.total - 1)) <= greatest(a.band * (s.total - 1), (r.weight + 1) / 2)
), sums AS (
    SELECT a.position, percentile, count(*) AS requests, any_value(stratum_requests) AS stratum_requests,
           sum(ttft_ns * weight) AS whole, sum(preprocess_ns * weight) AS preprocess, sum(queue_ns * weight) AS queue,
           sum(encode_ns * weight) AS encode, sum(transfer_ns * weight) AS transfer, sum(prefill_ns * weight) AS prefill,
           sum(unexplained_ns * weight) AS unexplained
    FROM around AS a JOIN budgets AS b USING (number) GROUP BY a.position, percentile
), summed AS (
    SELECT position, percentile, requests, stratum_requests, whole, unnest([
               {phase: 'preprocess', part: preprocess}, {phase: 'queue', part: queue}, {phase: 'encode', part: encode},
               {phase: 'transfer', part: transfer}, {phase: 'prefill', part: prefill},
               {phase: 'unexplained', part: unexplained}
           ], recursive := true)
    FROM sums
), times AS (
    SELECT position AS what, ttft_ns / 1e6 AS value, weight FROM grouped
), quantiles AS (
    SELECT what AS position, value AS ttft_ms,
           CASE quantile WHEN 0.50 THEN 'p50' WHEN 0.95 THEN 'p95' ELSE 'p99' END AS percentile
    FROM weighted_quantiles('times')
)
SELECT coalesce(v.label, 'all') AS visual_stratum, s.position, s.percentile, s.phase, s.requests, s.stratum_requests,
       coalesce(s.part / nullif(s.whole, 0), CASE WHEN s.phase = 'unexplained' THEN 1 ELSE 0 END) AS share,
       q.ttft_ms, share * q.ttft_ms AS ms
FROM summed AS s
JOIN quantiles AS q USING (position, percentile)
LEFT JOIN visual_strata AS v ON v.position = s.position
WHERE s.phase = 'unexplained' OR s.phase IN (SELECT phase FROM phase_intervals);
