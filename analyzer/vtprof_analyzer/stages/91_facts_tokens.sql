-- One row: one scope (`fact_scopes`) and its facts of tokens and media, in the names of `vtprof_rules/facts.toml`.
CREATE TABLE facts_tokens AS
WITH windows AS (
    SELECT scope, any_value(audio_window_seconds) AS audio_window_seconds FROM facts_configuration GROUP BY scope
), asked AS (
    SELECT *, CASE WHEN images > 0 THEN image_tokens / images END AS tokens_per_image,
           CASE WHEN image_tokens = 0 THEN 0 WHEN image_tokens >= 0 AND images >= 0 THEN greatest(0, image_tokens - 4096 * images) END AS excess
    FROM scoped_requests WHERE counts
), summed AS (
    SELECT
        scope, (coalesce(sum(images), 0) + coalesce(sum(videos), 0) + coalesce(sum(clips), 0))::BIGINT AS media_items,
        count(images) + count(videos) + count(clips) > 0 AS media_told,
        avg(images) AS images_per_request_mean, max(images) AS images_per_request_max,
        CASE WHEN count(videos) > 0 THEN count(*) FILTER (videos > 0) END AS video_requests,
        median(visual_tokens) AS visual_tokens_p50, quantile_cont(visual_tokens, 0.95) AS visual_tokens_p95,
        quantile_cont(tokens_per_image, 0.95) AS visual_tokens_per_image_p95,
        median(video_tokens / videos) FILTER (videos > 0) AS visual_tokens_per_video_p50,
        median(frames / videos) FILTER (videos > 0) AS frames_per_video_p50,
        sum(visual_tokens) FILTER (input_tokens IS NOT NULL)
            / nullif(sum(input_tokens) FILTER (visual_tokens IS NOT NULL), 0) AS visual_token_share,
        2 * count(visual_tokens + input_tokens) >= count(*) AS tokens_told,
        median(visual_tokens / nullif(input_tokens, 0)) AS visual_token_share_p50,
        sum(excess) / nullif(sum(visual_tokens) FILTER (excess IS NOT NULL), 0) AS visual_tokens_over_4096_share,
        CASE WHEN count(tokens_per_image) > 0 THEN count(DISTINCT tokens_per_image) END AS distinct_visual_token_counts,
        median(text_tokens) AS text_tokens_p50, median(input_tokens) AS prompt_tokens_p50,
        quantile_cont(input_tokens, 0.99) AS prompt_tokens_p99,
        -- (A sum with NULL is NULL: a request that did not tell its answer has no total.)
        quantile_cont(input_tokens + output_tokens, 0.999) AS total_tokens_p999,
        median(output_tokens) AS output_tokens_p50,
        count(*) FILTER (rejected AND coalesce(input_tokens > context_tokens, context_tokens IS NULL AND visual_tokens > 0, false))
            AS rejected_too_long,
        median(audio_ns / 1e9 / clips) FILTER (clips > 0) AS audio_seconds_p50,
        avg((output_tokens > 0.05 * visual_tokens AND output_tokens > 128)::INT) FILTER (images > 0) AS ocr_like_share
    FROM asked GROUP BY scope
)
SELECT s.* EXCLUDE (media_items, media_told, visual_token_share, tokens_told), CASE WHEN media_told THEN media_items END AS n_media,
       CASE WHEN tokens_told THEN visual_token_share END AS visual_token_share, w.audio_window_seconds
FROM summed AS s LEFT JOIN windows AS w USING (scope);
