-- One row: one request with all that the facts are made of; a sampled one as often as it stands for others, so that plain
-- sums and quantiles are those of all requests. NULL is not known. `scoped_requests` has its row in each scope it belongs to.
-- request_number     row of `request_base`; member: of `fact_members`; resource_id, instance, model: who served it, what it
--                    asked for
-- recorded           false for the repetitions of a sampled request; counts: whether facts count the row
-- ok                 that it did not fail; rejected: that it was not admitted
-- met                that it met every objective given, NULL without any or where its status is not known
-- ttft_kept, tpot_kept  whether that objective was met, likewise
-- weight             requests that a sampled one stands for; sequences: as in `request_base`
-- arrival_ns, end_ns Unix time; since_first_ns: arrival since the first one of its process
-- ttft_ms, tpot_ms, e2e_ms, preprocess_ms, queue_ms, encode_ms, transfer_ms, prefill_ms, unexplained_ms  as in `requests`
-- fetch_ms           media download, of it at most preprocess_ms [ms]
-- pre_ns, cpu_ns     duration and CPU time of preprocessing [ns], where both are recorded
-- input_tokens, text_tokens, visual_tokens, image_tokens, video_tokens, audio_tokens, output_tokens, cached_tokens  tokens
-- images, videos, clips, pixels, frames, audio_ns  what the prompt holds; media: whether it holds any
-- encoded_items, patches, encode_stretches, encoder_hits  of the encoder; chunks, prefilled_tokens: of prefill
-- context_tokens, token_bytes  longest context of the process, and KV bytes of one token there, as in `kv_sizes`
-- decode_steps, preemptions  of decode
-- repeats, digests   items whose digest came before, and items with a digest
-- others_encode_ns   time before its first token in which its process ran the encoder [ns]
-- queue_visual_ns    queue time in which others were encoded or their visual tokens prefilled [ns]
-- decode_ns, stepped_ns, decode_others_ns  first token to end, and of it the time in steps, and in others' encode or
--                    prefill [ns]; NULL where its process told of no steps
-- tpot_without_visual_ms  as in `requests`; decode_mj: energy of decode, where all of its energy is known [mJ]
CREATE TABLE request_facts AS
WITH preprocessed AS (
    SELECT request_number, duration_ns, cpu_ns, pixels, frames, audio_ns, fetch_ns FROM phases WHERE phase = 'preprocess'
), encoded AS (
    SELECT request_number, items, patches, intervals, cache_hits FROM phases WHERE phase = 'encode'
), prefilled AS (
    SELECT request_number, tokens, chunks FROM phases WHERE phase = 'prefill'
), decoded AS (
    SELECT request_number, decode_steps, preemptions FROM phases WHERE phase = 'decode'
), repeated AS (
    SELECT request_number, count(*) AS digests, count(*) FILTER (seen_before > 0) AS repeats FROM media_items GROUP BY request_number
), queueing AS (
    SELECT request_number, encode_ns + image_prefill_ns AS visual_ns FROM exposures WHERE during = 'queue'
), decoding AS (
    SELECT request_number, steps_ns, encode_ns + image_prefill_ns + text_prefill_ns AS others_ns
    FROM exposures WHERE during = 'decode'
), objectives AS (
    SELECT slo_ttft_ms IS NOT NULL OR slo_tpot_ms IS NOT NULL AS given FROM settings
), judged AS (
    -- Without objectives there is nothing to look up.
    SELECT request_number, kept, ttft_kept, tpot_kept FROM judged_requests WHERE (SELECT given FROM objectives)
), firsts AS (
    SELECT k.instance, min(q.arrival_ns) AS first_ns FROM request_base AS q JOIN kv_sizes AS k USING (resource_id)
    GROUP BY k.instance
)
SELECT m.member, q.request_number, q.resource_id, k.instance, q.model, true AS recorded, true AS counts, coalesce(q.status, 'ok') = 'ok' AS ok,
       q.status IS NOT DISTINCT FROM 'rejected' AS rejected,
       CASE WHEN objectives.given THEN j.kept END AS met, j.ttft_kept, j.tpot_kept,
       q.arrival_ns, q.end_ns, q.arrival_ns - f.first_ns AS since_first_ns,
       r.ttft_ms, r.tpot_ms, r.e2e_ms, r.preprocess_ms, r.queue_ms, r.encode_ms, r.transfer_ms, r.prefill_ms, r.unexplained_ms,
       -- (`least` passes over NULL: it would make a time of one that was not recorded.)
       CASE WHEN p.fetch_ns IS NOT NULL AND r.preprocess_ms IS NOT NULL
            THEN least(p.fetch_ns, p.duration_ns, r.preprocess_ms * 1e6) / 1e6 END AS fetch_ms,
       CASE WHEN p.cpu_ns IS NOT NULL THEN p.duration_ns END AS pre_ns, p.cpu_ns,
       q.input_tokens, q.text_tokens, q.visual_tokens, q.image_tokens, q.video_tokens, q.audio_tokens, q.output_tokens,
       q.cached_tokens, q.sequences, q.image_items AS images, q.video_items AS videos, q.audio_items AS clips,
       coalesce(greatest(q.image_items, q.video_items, q.audio_items, q.visual_tokens, q.audio_tokens) > 0, false) AS media,
       p.pixels, p.frames, p.audio_ns, e.items AS encoded_items, e.patches, e.intervals AS encode_stretches,
       e.cache_hits AS encoder_hits, c.chunks, c.tokens AS prefilled_tokens, d.decode_steps, d.preemptions,
       i.repeats, i.digests, v.encode_ns AS others_encode_ns, w.visual_ns AS queue_visual_ns,
       CASE WHEN o.steps_ns IS NOT NULL THEN q.end_ns - q.arrival_ns - q.ttft_ns END AS decode_ns,
       o.steps_ns AS stepped_ns, o.others_ns AS decode_others_ns, r.tpot_without_visual_ms, g.decode_mj,
       k.context_tokens, k.token_bytes, q.weight
FROM request_base AS q
JOIN (FROM fact_members WHERE scope = 0) AS m ON m.resource_id = q.resource_id AND m.model IS NOT DISTINCT FROM q.model
JOIN requests AS r USING (request_number)
LEFT JOIN kv_sizes AS k ON k.resource_id = q.resource_id
LEFT JOIN firsts AS f ON f.instance = k.instance
LEFT JOIN preprocessed AS p ON p.request_number = q.request_number
LEFT JOIN encoded AS e ON e.request_number = q.request_number
LEFT JOIN prefilled AS c ON c.request_number = q.request_number
LEFT JOIN decoded AS d ON d.request_number = q.request_number
LEFT JOIN repeated AS i ON i.request_number = q.request_number
LEFT JOIN visual_waits AS v ON v.request_number = q.request_number
LEFT JOIN queueing AS w ON w.request_number = q.request_number
LEFT JOIN decoding AS o ON o.request_number = q.request_number
LEFT JOIN judged AS j ON j.request_number = q.request_number
LEFT JOIN (SELECT request_number, decode_mj FROM request_energy WHERE complete) AS g ON g.request_number = q.request_number,
     objectives;

-- A sampled request stands for others of its like. Rounded down along a running total, the copies of all add up to what
-- all of them stand for; where that would be a million rows more than there are, to as many of them.
CREATE TEMP TABLE request_copies AS
WITH shrunk AS (
    SELECT least(1, (count(*) + 1_000_000) / sum(weight)) AS factor FROM request_base
)
SELECT request_number, (floor(total + 1e-9) - floor(total - part + 1e-9))::BIGINT AS copies
FROM (
    SELECT request_number, weight * factor AS part,
           sum(weight * factor) OVER (ORDER BY hash(request_number), request_number ROWS UNBOUNDED PRECEDING) AS total
    FROM request_base, shrunk
    WHERE (SELECT max(weight) > 1 FROM request_base)
);
UPDATE request_facts SET counts = false
WHERE request_number IN (SELECT request_number FROM request_copies WHERE copies = 0);
INSERT INTO request_facts
SELECT * EXCLUDE (copies, again)
FROM (SELECT f.* REPLACE (false AS recorded), c.copies, unnest(range(c.copies - 1)) AS again
      FROM request_facts AS f JOIN request_copies AS c USING (request_number) WHERE c.copies > 1);
DROP TABLE request_copies;

-- One row: one request in one scope (`fact_scopes`), as often as its sampling says that there were of its like.
-- scope              as in `fact_scopes`; the rest as in `request_facts`
CREATE VIEW scoped_requests AS
SELECT m.scope, f.* FROM request_facts AS f JOIN (SELECT member, scope FROM fact_members) AS m USING (member);
