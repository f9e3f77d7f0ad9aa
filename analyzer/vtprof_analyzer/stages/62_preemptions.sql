-- One row: one step or window in which requests lost their KV to make room.
-- step_id            row of `steps`
-- instance           the process
-- count              preemptions in it
-- visual_kv_share    visual part of the KV that it held, 0..1, at its fullest iteration where that was recorded, else on
--                    average; NULL where it does not tell
-- attributed_to_images  the preemptions that visual KV answers for: each token held has its part in the lack of room
CREATE TABLE preemptions AS
SELECT step_id, instance, preemptions AS count,
       -- The two maxima are of one iteration: neither is mixed with a mean.
       CASE WHEN kv_used_tokens_max > 0 AND kv_visual_tokens_max IS NOT NULL
            THEN least(1, kv_visual_tokens_max / kv_used_tokens_max)
            WHEN kv_used_tokens > 0 THEN least(1, kv_visual_tokens / kv_used_tokens) END AS visual_kv_share,
       preemptions * visual_kv_share AS attributed_to_images
FROM steps JOIN kv_sizes USING (resource_id)
WHERE preemptions > 0;
