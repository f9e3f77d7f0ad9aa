-- One row: one process whose steps tell what KV they held: that count beside the one by the stays of its requests.
-- instance           the process
-- engine_token_seconds, requests_token_seconds  tokens x time [s]
-- engine_visual_token_seconds, requests_visual_token_seconds  the image and video part
-- difference         requests / engine - 1: above 0 where requests hold KV between steps or share a prefix, below 0 where
--                    requests were not recorded, or not their tokens
CREATE TABLE kv_reconciled AS
WITH engine AS (
    SELECT instance, sum(held_tokens * ((end_ns - start_ns) / 1e9)) AS engine_token_seconds,
           sum(visual_tokens * ((end_ns - start_ns) / 1e9)) AS engine_visual_token_seconds
    FROM kv_segments WHERE source = 'steps' GROUP BY instance
), requests AS (
    SELECT instance, sum(token_seconds) AS requests_token_seconds,
           sum(token_seconds) FILTER (modality IN ('image', 'video')) AS requests_visual_token_seconds
    FROM kv GROUP BY instance
)
SELECT *, requests_token_seconds / nullif(engine_token_seconds, 0) - 1 AS difference
FROM engine JOIN requests USING (instance);
