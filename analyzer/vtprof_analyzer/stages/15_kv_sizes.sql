-- One row: one resource, with the KV bytes of a token and the context window in its process.
-- resource_id        row of `resources`
-- instance           the process: service.instance.id, else the resource itself
-- token_bytes        KV bytes of one token [B/token]: as recorded in this row, else in another row of the same process
--                    (one that was exported before the cache was allocated lacks it), else from the model's config
-- fixed_bytes        likewise, of one sequence [B]
-- capacity_tokens    likewise, tokens that the cache can hold; NULL when not recorded
-- recorded           whether the probe recorded token_bytes
-- context_tokens     the longest sequence that it serves: the engine's limit as recorded, else what the model's config
--                    says; NULL when neither is known
-- own_caches         whether each step tells of a cache of its own: calls of Transformers in threads, all at once
CREATE TABLE kv_sizes AS
WITH named AS (
    SELECT *, coalesce(service_instance_id, resource_id::VARCHAR) AS instance,
           -- vLLM's name for it, and SGLang's.
           CASE WHEN json_valid(engine_config)
                THEN coalesce(TRY_CAST(engine_config ->> '$.max_model_len' AS BIGINT),
                              TRY_CAST(engine_config ->> '$.context_length' AS BIGINT)) END AS limit_tokens
    FROM resources
), sized AS (
    SELECT resource_id, instance, coalesce(engine_name = 'transformers', false) AS own_caches,
           coalesce(kv_bytes_per_token, max(kv_bytes_per_token) OVER process) AS token_bytes,
           coalesce(kv_fixed_bytes, max(kv_fixed_bytes) OVER process) AS fixed_bytes,
           coalesce(kv_capacity_tokens, max(kv_capacity_tokens) OVER process) AS capacity_tokens,
           coalesce(limit_tokens, max(limit_tokens) OVER process) AS limit_tokens
    FROM named
    WINDOW process AS (PARTITION BY instance)
)
SELECT resource_id, instance,
       coalesce(sized.token_bytes, own.token_bytes, settings.kv_bytes_per_token) AS token_bytes,
       coalesce(sized.fixed_bytes, own.fixed_bytes, settings.kv_fixed_bytes, 0) AS fixed_bytes,
       capacity_tokens, sized.token_bytes IS NOT NULL AS recorded,
       coalesce(nullif(limit_tokens, 0), own.context_tokens, settings.context_tokens)::BIGINT AS context_tokens,
       own_caches
FROM settings, sized
LEFT JOIN resource_kv AS own USING (resource_id);
