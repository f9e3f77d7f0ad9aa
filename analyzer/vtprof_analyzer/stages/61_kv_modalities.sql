-- One row: the KV that one process held over time for tokens of one modality, by the stays of its requests.
-- instance           the process
-- modality           text (prompt), image, video, audio or output
-- token_seconds      tokens x time [s]; as of all requests, where they were sampled
-- byte_seconds       bytes x time [B s]: the token's own, not what each sequence takes besides; NULL where not known
-- peak_tokens, peak_bytes  the most at one moment
-- share              part of the process's token-seconds of all modalities, 0..1
CREATE TABLE kv AS
WITH stays AS (
    SELECT *, begin_ns - first_ns AS begin_at, prefilled_ns - first_ns AS prefilled_at, end_ns - first_ns AS end_at,
           coalesce((output_to - output_from) / nullif(end_ns - prefilled_ns, 0), 0) AS rate
    FROM kv_stays, (SELECT min(begin_ns) AS first_ns FROM kv_stays)
), areas AS (
    SELECT instance, modality, sum(area) / 1e9 AS token_seconds, any_value(token_bytes) AS token_bytes
    FROM (
        SELECT instance, token_bytes, unnest(['text', 'image', 'video', 'audio', 'output']) AS modality,
               unnest([text_tokens * prompt_ns, image_tokens * prompt_ns, video_tokens * prompt_ns, audio_tokens * prompt_ns,
                       weight * (output_from * prefill_level * (prefilled_at - begin_at)
                                 + (output_from + output_to) / 2 * (end_at - prefilled_at))]) AS area
        FROM (SELECT *, weight * (prefill_level * (prefilled_at - begin_at) + end_at - prefilled_at) AS prompt_ns FROM stays)
    )
    GROUP BY instance, modality
), changes AS (
    -- A line that grows by `rate` from a moment on is rate x time and a constant that makes it zero at that moment.
    SELECT instance, text_tokens, image_tokens, video_tokens, audio_tokens,
           unnest([begin_at, prefilled_at, end_at]) AS ts,
           unnest([weight * prefill_level, weight * (1 - prefill_level), -weight]) AS part,
           unnest([0, weight * rate, -weight * rate]) AS rate,
           unnest([weight * prefill_level * output_from,
                   weight * ((1 - prefill_level) * output_from - rate * prefilled_at),
                   weight * (rate * prefilled_at - output_from)]) AS output
    FROM stays
), held AS (
    -- Up to a change: most is held right before something is freed.
    SELECT instance,
           sum(part * text_tokens) OVER before AS text, sum(part * image_tokens) OVER before AS image,
           sum(part * video_tokens) OVER before AS video, sum(part * audio_tokens) OVER before AS audio,
           sum(output) OVER before + sum(rate) OVER before * ts AS output
    FROM changes
    WINDOW before AS (PARTITION BY instance ORDER BY ts, part ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), peaks AS (
    SELECT instance, unnest(['text', 'image', 'video', 'audio', 'output']) AS modality,
           unnest([max(text), max(image), max(video), max(audio), max(output)]) AS peak_tokens
    FROM held GROUP BY instance
)
SELECT instance, modality, token_seconds, token_seconds * token_bytes AS byte_seconds,
       greatest(0, peak_tokens) AS peak_tokens, greatest(0, peak_tokens) * token_bytes AS peak_bytes,
       token_seconds / nullif(sum(token_seconds) OVER (PARTITION BY instance), 0) AS share
FROM areas JOIN peaks USING (instance, modality);
