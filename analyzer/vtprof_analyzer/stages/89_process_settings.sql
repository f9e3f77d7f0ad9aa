-- One row: one process that sent spans: what runs there, as recorded, under the names of vLLM, SGLang and Transformers alike.
-- instance           the process
-- work               requests and steps that it told of: who speaks for a scope where processes differ
-- weights_dtype, quantization  as recorded: from them weight_dtype follows
-- step_tokens_limit  tokens of a step, as given; -1 where prompts are not cut into chunks (SGLang)
-- patch_pixels       pixels of an encoder's patch, by the model's config
-- audio_window_seconds  what an encoder pads a clip to, likewise [s]
-- The others are as in `vtprof_rules/facts.toml`. A setting that the engine did not record is NULL. processor_device, api_server_count and renderer_workers are recorded by
-- nothing yet, under whatever name: they are read where `vtprof.engine.config` has them.
CREATE TABLE process_settings AS
WITH used AS (
    SELECT resource_id, count(*) AS work, mode(dialect) AS dialect FROM request_base GROUP BY resource_id
    UNION ALL
    SELECT resource_id, count(*), 'vtprof' FROM steps GROUP BY resource_id
), worked AS (
    SELECT k.instance, sum(u.work) AS work, max(CASE WHEN u.dialect <> 'vtprof' THEN u.dialect END) AS dialect
    FROM used AS u JOIN kv_sizes AS k USING (resource_id) GROUP BY k.instance
), processes AS (
    -- A resource that was exported before the model was loaded lacks what later ones of its process say.
    SELECT k.instance, max(r.engine_name) AS engine_name, max(r.engine_version) AS engine_version,
           max(r.device_kind) AS device_kind, max(r.device_cores) AS cpu_cores, max(r.parallel_tp) AS tp,
           max(r.parallel_dp) AS dp, max(r.parallel_ep) AS ep, max(r.kv_dtype) AS kv_cache_dtype,
           max(r.weights_dtype) AS weights_dtype, max(k.context_tokens) AS context_tokens,
           -- The latest ring tells; what has none comes before all.
           arg_max(CASE WHEN json_valid(r.engine_config) THEN r.engine_config::JSON END,
                   (coalesce(r.ring_created_ns, -1), r.resource_id)) AS c,
           arg_max(CASE WHEN json_valid(r.model_config) THEN r.model_config::JSON END,
                   (coalesce(r.ring_created_ns, -1), r.resource_id)) AS m
    FROM resources AS r JOIN kv_sizes AS k USING (resource_id)
    GROUP BY k.instance
), named AS (
    SELECT p.*, w.work, coalesce(engine_name, w.dialect) AS engine,
           coalesce(engine_name, w.dialect) IN ('vllm', 'sglang') AS serves
    FROM processes AS p JOIN worked AS w USING (instance)
)
SELECT
    instance, work, engine, engine_version, device_kind, cpu_cores, tp, dp, ep, kv_cache_dtype, weights_dtype,
    coalesce(c ->> '$.quantization', m ->> '$.quantization_config.quant_method') AS quantization,
    TRY_CAST(coalesce(c ->> '$.max_num_batched_tokens', c ->> '$.chunked_prefill_size') AS BIGINT) AS step_tokens_limit,
    -- SGLang's -1 says that prompts are not cut into chunks.
    CASE WHEN step_tokens_limit > 0 THEN step_tokens_limit END AS max_num_batched_tokens,
    TRY_CAST(coalesce(c ->> '$.max_num_seqs', c ->> '$.max_running_requests') AS BIGINT) AS max_num_seqs,
    context_tokens AS max_model_len,
    CASE WHEN serves THEN false END AS reserve_by_max_len,
    coalesce(TRY_CAST(c ->> '$.enable_prefix_caching' AS BOOLEAN), NOT TRY_CAST(c ->> '$.disable_radix_cache' AS BOOLEAN))
        AS prefix_caching,
    coalesce(c ->> '$.mm_encoder_tp_mode', CASE TRY_CAST(c ->> '$.mm_enable_dp_encoder' AS BOOLEAN)
                                           WHEN true THEN 'data' WHEN false THEN 'weights' END) AS mm_encoder_tp_mode,
    coalesce(c ->> '$.mm_encoder_attn_backend', c ->> '$.mm_attention_backend', c ->> '$.attn_implementation')
        AS encode_attn_backend,
    coalesce(c ->> '$.mm_processor_device', c ->> '$.processor_device') AS processor_device,
    TRY_CAST(c ->> '$.mm_processor_cache_gb' AS DOUBLE) AS mm_processor_cache_gb,
    TRY_CAST(coalesce(c ->> '$.limit_per_prompt.image.count', c ->> '$.limit_per_prompt.image') AS BIGINT) AS mm_limit_image,
    TRY_CAST(coalesce(c ->> '$.limit_per_prompt.video.count', c ->> '$.limit_per_prompt.video') AS BIGINT) AS mm_limit_video,
    TRY_CAST(coalesce(c ->> '$.enforce_eager', c ->> '$.disable_cuda_graph') AS BOOLEAN) AS enforce_eager,
    upper(coalesce(c ->> '$.cudagraph_mode', CASE TRY_CAST(c ->> '$.disable_cuda_graph' AS BOOLEAN)
                                             WHEN true THEN 'NONE' WHEN false THEN 'FULL' END)) AS cuda_graph_mode,
    -- Both leave the key out, or empty, where nothing is drafted.
    CASE WHEN c IS NOT NULL AND serves
         THEN lower(coalesce(nullif(coalesce(c ->> '$.method', c ->> '$.speculative_algorithm'), ''), 'none')) END AS spec_method,
    TRY_CAST(c ->> '$.api_server_count' AS BIGINT) AS api_server_count,
    TRY_CAST(c ->> '$.renderer_num_workers' AS BIGINT) AS renderer_workers,
    pow(coalesce(TRY_CAST(m ->> '$.vision_config.patch_size' AS DOUBLE),
                 TRY_CAST(m ->> '$.vision_config.spatial_patch_size' AS DOUBLE)), 2) AS patch_pixels,
    -- Encoders of Whisper's make see a window of fixed length: two mel frames of 10 ms a position.
    CASE WHEN m ->> '$.audio_config.model_type' IN ('whisper', 'qwen2_audio_encoder', 'voxtral_encoder')
         THEN 0.02 * TRY_CAST(m ->> '$.audio_config.max_source_positions' AS DOUBLE) END AS audio_window_seconds
FROM named;
