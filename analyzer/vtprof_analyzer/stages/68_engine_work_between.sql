-- work_between(source): one row: what one process did in the moments that the rows of a table of that name enclose.
-- Reads asked (a whole number: texts are dear to group by), resource_id (of that process), ts, sign (-1 where a stretch
-- begins, +1 where it ends). Returns by asked the amounts of `engine_work`, summed over the stretches; NULL where all of them
-- lie before its first step.
CREATE MACRO work_between(source) AS TABLE
WITH processes AS (
    -- Matched by number, which costs half of what it costs by name.
    SELECT resource_id, instance, dense_rank() OVER (ORDER BY instance) AS process FROM kv_sizes
), moments AS (
    SELECT p.process, a.asked, a.ts, a.sign FROM query_table(source) AS a JOIN processes AS p USING (resource_id)
), work AS (
    SELECT p.process, w.*
    FROM engine_work AS w JOIN (SELECT DISTINCT instance, process FROM processes) AS p USING (instance)
), met AS (
    -- Before its first step a process has done nothing: NULL, which sums pass over.
    SELECT a.asked, a.sign, w.*,
           -- What is still to be done, as a part of the step: of its time, of its encoding, and of the rest.
           CASE WHEN a.ts >= w.end_ns THEN 0.0::DOUBLE ELSE (w.end_ns - a.ts) / w.busy END AS left_time,
           CASE WHEN a.ts >= w.encoded_ns THEN 0.0::DOUBLE ELSE (w.encoded_ns - a.ts) / w.encode END AS left_encode,
           CASE WHEN a.ts >= w.end_ns THEN 0.0::DOUBLE WHEN a.ts <= w.rest_ns THEN 1.0::DOUBLE
                ELSE (w.end_ns - a.ts) / (w.end_ns - w.rest_ns) END AS left_rest
    FROM moments AS a ASOF LEFT JOIN work AS w ON a.process = w.process AND a.ts >= w.start_ns
)
SELECT asked,
       sum(sign * (busy_total - busy * left_time)) AS busy,
       sum(sign * (encode_total - encode * left_encode)) AS encode,
       sum(sign * (image_total - image * left_rest)) AS image,
       sum(sign * (text_total - text * left_rest)) AS text,
       sum(sign * (decode_total - decode * left_rest)) AS decode,
       sum(sign * (iterations_total - iterations * left_time)) AS iterations,
       sum(sign * (patches_total - patches * CASE WHEN encode > 0 THEN left_encode ELSE left_rest END)) AS patches,
       sum(sign * (visual_tokens_total - visual_tokens * left_rest)) AS visual_tokens,
       sum(sign * (text_tokens_total - text_tokens * left_rest)) AS text_tokens,
       sum(sign * (decodes_total - decodes * left_rest)) AS decodes,
       sum(sign * (context_total - context * left_rest)) AS context,
       sum(sign * (blocked_total - CASE WHEN blocked THEN busy * left_time ELSE 0 END)) AS blocked,
       sum(sign * (blocked_encode_total - CASE WHEN blocked THEN encode * left_encode ELSE 0 END)) AS blocked_encode,
       sum(sign * (blocked_image_total - CASE WHEN blocked THEN image * left_rest ELSE 0 END)) AS blocked_image,
       sum(sign * (blocked_text_total - CASE WHEN blocked THEN text * left_rest ELSE 0 END)) AS blocked_text
FROM met
GROUP BY asked;
