-- One row: the KV that one process held over time for tokens of one modality, by the stays of its requests.
-- instance           the process
-- modality           text (prompt), image, video, audio or output
-- token_seconds      tokens x time [s]; as of all requests, where they were sampled
-- byte_seconds       bytes x time [B s]: the token's own, not what each sequence takes besides; NULL where not known
-- peak_tokens, peak_bytes  the most at one moment
-- together_peak_bytes  the most at one moment of all processes whose bytes of a token are known, the same for each [B]
-- share              part of the process's token-seconds of all modalities, 0..1
CREATE TABLE kv AS
WITH processes AS (
    -- A number for each: names are dear to sort by.
    SELECT instance, row_number() OVER () AS process FROM (SELECT DISTINCT instance FROM kv_stays)
), stays AS (
    SELECT *, begin_ns - first_ns AS begin_at, prefilled_ns - first_ns AS prefilled_at, end_ns - first_ns AS end_at,
           coalesce((output_to - output_from) / nullif(end_ns - prefilled_ns, 0), 0) AS rate
    FROM kv_stays JOIN processes USING (instance), (SELECT min(begin_ns) AS first_ns FROM kv_stays)
), areas AS (
    SELECT instance, any_value(token_bytes) AS token_bytes, unnest(['text', 'image', 'video', 'audio', 'output']) AS modality,
           unnest([sum(text_tokens * prompt_ns), sum(image_tokens * prompt_ns), sum(video_tokens * prompt_ns),
                   sum(audio_tokens * prompt_ns),
                   sum(weight * (output_from * prefill_level * (prefilled_at - begin_at)
                                 + (output_from + output_to) / 2 * (end_at - prefilled_at)))]) / 1e9 AS token_seconds
    FROM (SELECT *, weight * (prefill_level * (prefilled_at - begin_at) + end_at - prefilled_at) AS prompt_ns FROM stays)
    GROUP BY instance
), loads AS (
    SELECT * FROM stays
    UNION ALL
    -- All processes together, in bytes: peaks of different moments do not add up, least of all where one process follows
    -- another. One process alone has these already.
    SELECT * REPLACE (0 AS process, weight * token_bytes AS weight)
    FROM stays WHERE token_bytes IS NOT NULL AND (SELECT count(*) > 1 FROM processes)
), changes AS (
    -- A line that grows by `rate` from a moment on is rate x time and a constant that makes it zero at that moment.
    SELECT process, text_tokens, image_tokens, video_tokens, audio_tokens,
           unnest([begin_at, prefilled_at, end_at]) AS ts,
           unnest([weight * prefill_level, weight * (1 - prefill_level), -weight]) AS part,
           unnest([0, weight * rate, -weight * rate]) AS rate,
           unnest([weight * prefill_level * output_from,
                   weight * ((1 - prefill_level) * output_from - rate * prefilled_at),
                   weight * (rate * prefilled_at - output_from)]) AS output
    FROM loads
), held AS (
    -- Up to a change: most is held right before something is freed. Sorted first and then added up: a window that sorts
    -- does so at several times the cost. All that a process held goes, but for rounding: the next one begins with that.
    SELECT process, row_number() OVER () AS place,
           sum(part * text_tokens) OVER until - part * text_tokens AS text,
           sum(part * image_tokens) OVER until - part * image_tokens AS image,
           sum(part * video_tokens) OVER until - part * video_tokens AS video,
           sum(part * audio_tokens) OVER until - part * audio_tokens AS audio,
           sum(output) OVER until - output + (sum(rate) OVER until - rate) * ts AS output
    FROM (FROM changes ORDER BY process, ts, part)
    WINDOW until AS (ROWS UNBOUNDED PRECEDING)
), peaks AS (
    SELECT process, unnest(['text', 'image', 'video', 'audio', 'output']) AS modality,
           unnest([max(text) - arg_min(text, place), max(image) - arg_min(image, place), max(video) - arg_min(video, place),
                   max(audio) - arg_min(audio, place), max(output) - arg_min(output, place)]) AS peak
    FROM held GROUP BY process
)
SELECT instance, areas.modality, token_seconds, token_seconds * token_bytes AS byte_seconds,
       greatest(0, own.peak) AS peak_tokens, greatest(0, own.peak) * token_bytes AS peak_bytes,
       CASE WHEN every.process IS NULL THEN peak_bytes ELSE greatest(0, every.peak) END AS together_peak_bytes,
       token_seconds / nullif(sum(token_seconds) OVER (PARTITION BY instance), 0) AS share
FROM areas JOIN processes USING (instance) JOIN peaks AS own USING (process, modality)
LEFT JOIN peaks AS every ON every.process = 0 AND every.modality = areas.modality;
