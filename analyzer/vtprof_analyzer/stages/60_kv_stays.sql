-- One row: one stay of a request in the KV cache: from its first prompt token that is written to its end, or to the
-- preemption that frees it; computing it again is the next stay. Of requests that tell their tokens by modality.
--    held   .--prefilled_ns---. end_ns          Prompt tokens come with their chunks; the output grows evenly over
--     .--'  |   output grows  |                 the time of decoding.
--   begin_ns                  '-- 0
-- request_number     row of `request_base`
-- instance           the process that held it; token_bytes: KV bytes of a token there [B/token], NULL if not known
-- weight             requests that it stands for
-- begin_ns, prefilled_ns, end_ns  Unix time
-- prefill_level      mean part of its prompt that is held while that is computed, 0..1: all of it where chunks are not
--                    told; the engine takes room for a chunk when it schedules it
-- text_tokens, image_tokens, video_tokens, audio_tokens  of the prompt, once for each sequence
-- output_from, output_to  output tokens held at prefilled_ns and at end_ns
-- A prompt that loses its room while it is still being computed is not told from one that waits for its next chunk.
CREATE TABLE kv_stays AS
WITH sized AS (
    SELECT q.request_number, q.weight, q.arrival_ns, q.ttft_ns, q.end_ns AS ended_ns, k.instance, k.token_bytes,
           q.sequences
               * greatest(0, coalesce(q.text_tokens, q.input_tokens - q.visual_tokens - coalesce(q.audio_tokens, 0)))
               AS text_tokens,
           q.sequences * coalesce(q.image_tokens, 0) AS image_tokens,
           q.sequences * coalesce(q.video_tokens, 0) AS video_tokens,
           q.sequences * coalesce(q.audio_tokens, 0) AS audio_tokens,
           -- The last token of each sequence is answered, not cached.
           greatest(0, q.output_tokens - q.sequences) AS output_tokens
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    -- Without the visual part, or the output, it would look as if there was none.
    WHERE q.input_tokens >= 0 AND q.visual_tokens >= 0 AND q.output_tokens >= 0
), outlines AS (
    SELECT request_number,
           max(first_ns) FILTER (phase = 'prefill') AS prefill_from, max(last_ns) FILTER (phase = 'prefill') AS prefill_to,
           max(first_ns) FILTER (phase = 'encode') AS encode_from, max(last_ns) FILTER (phase = 'encode') AS encode_to,
           max(first_ns) FILTER (phase = 'decode') AS decode_from, max(last_ns) FILTER (phase = 'decode') AS decode_to,
           max(last_ns) FILTER (phase = 'queue') AS queue_to,
           max(tokens) FILTER (phase = 'prefill') AS computed, max(chunks) FILTER (phase = 'prefill') AS chunks,
           coalesce(prefill_to > decode_from, false)
               OR coalesce(max(intervals) FILTER (phase = 'encode') > 1, false) AS winding
    FROM phases WHERE phase IN ('queue', 'encode', 'prefill', 'decode') GROUP BY request_number
), told AS (
    -- A step takes room for what it schedules, and encodes before it prefills.
    SELECT request_number, phase, start_ns, end_ns, tokens, chunks,
           phase <> 'encode' OR lead(phase) OVER time = 'prefill' AND lead(start_ns) OVER time = end_ns AS holds,
           coalesce(phase <> 'decode' AND lag(phase) OVER time = 'decode', false) AS again
    FROM phase_intervals SEMI JOIN (FROM outlines WHERE winding) USING (request_number)
    WHERE phase IN ('encode', 'prefill', 'decode')
    WINDOW time AS (PARTITION BY request_number ORDER BY start_ns, end_ns, phase DESC)
), numbered AS (
    SELECT *, sum(again::INT) OVER (PARTITION BY request_number ORDER BY start_ns, end_ns, phase DESC) AS stay FROM told
), pieces AS (
    SELECT request_number, stay, min(start_ns) FILTER (holds) AS begin_ns,
           coalesce(max(end_ns) FILTER (phase = 'prefill'), min(start_ns) FILTER (holds)) AS prefilled_ns,
           max(end_ns) FILTER (phase <> 'encode') AS end_ns,
           coalesce(sum(end_ns - start_ns) FILTER (phase = 'decode'), 0) AS decode_ns,
           sum(tokens) FILTER (phase = 'prefill') AS computed, sum(chunks) FILTER (phase = 'prefill') AS chunks
    FROM numbered GROUP BY request_number, stay HAVING bool_or(phase <> 'encode')
), stays AS (
    SELECT z.*, begin_ns, prefilled_ns, end_ns, computed, chunks,
           coalesce((sum(decode_ns) OVER until - decode_ns) / nullif(sum(decode_ns) OVER request, 0), 0) AS part_from,
           coalesce(sum(decode_ns) OVER until / nullif(sum(decode_ns) OVER request, 0), 1) AS part_to
    FROM pieces JOIN sized AS z USING (request_number)
    WINDOW request AS (PARTITION BY request_number), until AS (PARTITION BY request_number ORDER BY stay)
    UNION ALL BY NAME
    -- Without phases of work: from first scheduling, as far as that is known.
    SELECT z.*, coalesce(prefill_from, decode_from) IS NOT NULL AS works,
           CASE WHEN NOT works THEN coalesce(encode_from, queue_to, arrival_ns)
                WHEN encode_to = prefill_from THEN encode_from ELSE coalesce(prefill_from, decode_from) END AS begin_ns,
           CASE WHEN works THEN coalesce(prefill_to, decode_from)
                ELSE greatest(begin_ns, least(ended_ns, arrival_ns + ttft_ns)) END AS prefilled_ns,
           CASE WHEN works THEN coalesce(decode_to, prefill_to) ELSE ended_ns END AS end_ns, computed, chunks,
           0 AS part_from, 1 AS part_to
    FROM sized AS z LEFT JOIN outlines USING (request_number)
    WHERE CASE WHEN works THEN NOT winding ELSE ttft_ns IS NOT NULL END
)
SELECT request_number, instance, token_bytes, weight, begin_ns, prefilled_ns, greatest(prefilled_ns, end_ns) AS end_ns,
       -- Of n like chunks the first is held all the time, the last for an n-th of it.
       1 - least(1, coalesce(computed, 0) / nullif(text_tokens + image_tokens + video_tokens + audio_tokens, 0))
           * coalesce((chunks - 1) / (2 * nullif(chunks, 0)), 0) AS prefill_level,
       text_tokens, image_tokens, video_tokens, audio_tokens,
       part_from * output_tokens AS output_from, part_to * output_tokens AS output_to
FROM stays
WHERE end_ns > begin_ns;
