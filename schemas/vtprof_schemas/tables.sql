-- Base tables of the analyzer: what was read, as it was recorded, with renames only. Stages derive everything else.
-- Times are integer nanoseconds since the Unix epoch, memory bytes, shares 0..1. NULL is "not recorded", never zero.
-- A column of an attribute is named by vtprof_schemas.names.column_name; a test keeps the two in step.

-- One row: one span of the input. A span of unknown name has dialect NULL and all its attributes in `extra`.
-- Read-only for stages: the reader puts a view in its place, over the columns that the input has.
CREATE TABLE spans (
    file VARCHAR,                    -- the file the span was read from
    trace_id VARCHAR,                -- 32 hex digits
    span_id VARCHAR,                 -- 16 hex digits
    parent_span_id VARCHAR,          -- 16 hex digits; NULL for a root
    name VARCHAR,                    -- span name
    dialect VARCHAR,                 -- vtprof, vllm, sglang, or NULL for a span nobody knows
    resource_id UBIGINT,             -- row of `resources`
    start_ns BIGINT,                 -- begin
    end_ns BIGINT,                   -- end; NULL when the span never ended
    kind UTINYINT,                   -- OTLP span kind, 0 to 5; NULL where it is not told
    status_code UTINYINT,            -- OTLP status: 0 unset, 1 ok, 2 error; NULL where it is not told
    links STRUCT("traceId" VARCHAR, "spanId" VARCHAR)[],  -- requests of a step or window; see `span_links`
    extra VARCHAR,                   -- attributes that have no column here, by key, a JSON object; long values are cut
    unknown_keys VARCHAR[],          -- attribute keys outside the vocabulary
    request_model VARCHAR,           -- request: model asked for
    request_id VARCHAR,              -- request: the engine's or the caller's request id
    request_status VARCHAR,          -- request: ok, aborted, rejected or error
    input_tokens BIGINT,             -- request: prompt tokens, all modalities [tokens]
    output_tokens BIGINT,            -- request: generated tokens [tokens]
    tokens_text BIGINT,              -- request: prompt positions filled from text [tokens]
    tokens_image BIGINT,             -- request: prompt positions filled from images [tokens]
    tokens_video BIGINT,             -- request: prompt positions filled from video [tokens]
    tokens_audio BIGINT,             -- request: prompt positions filled from audio [tokens]
    tokens_cached BIGINT,            -- request: prompt tokens found in the KV prefix cache [tokens]
    items_image BIGINT,              -- request: images in the prompt [items]
    items_video BIGINT,              -- request: videos in the prompt [items]
    items_audio BIGINT,              -- request: audio clips in the prompt [items]
    ttft_ns BIGINT,                  -- request: arrival to first token [ns]
    kv_bytes BIGINT,                 -- request: (input + output - 1 tokens, cached prefix included) x kv.bytes_per_token + kv.fixed_bytes, summed over its sequences [B]
    kv_visual_bytes BIGINT,          -- request: the image and video part of kv.bytes [B]
    sampling_ratio DOUBLE,           -- request: share of like requests that were kept; weigh by its inverse [1]
    phase VARCHAR,                   -- phase: name of the phase
    gpu_time_ns BIGINT,              -- phase: GPU time: of a step its own, encode included; of a phase the request's attributed share [ns]
    gpu_time_quality VARCHAR,        -- phase: measured, attributed or estimated
    preprocess_cpu_ns BIGINT,        -- preprocess: CPU time of the work alone, without waiting [ns]
    preprocess_fetch_ns BIGINT,      -- preprocess: media download [ns]
    preprocess_decode_ns BIGINT,     -- preprocess: media decoding [ns]
    preprocess_cache_hits BIGINT,    -- preprocess: items taken from the processor cache [items]
    preprocess_pixels BIGINT,        -- preprocess: pixels before resizing [pixels]
    preprocess_frames BIGINT,        -- preprocess: frames sampled of its videos [frames]
    preprocess_audio_ns BIGINT,      -- preprocess: length of its audio clips before padding [ns]
    preprocess_media_digests VARCHAR, -- preprocess: keyed digests of its media items, in their order, with commas between
    encode_items BIGINT,             -- encode: images, videos or clips encoded [items]
    encode_patches BIGINT,           -- encode: patches that entered the tower [patches]
    encode_cache_hits BIGINT,        -- encode: items taken from the encoder-output cache [items]
    prefill_chunks BIGINT,           -- prefill: steps that held a part of the prompt [chunks]
    prefill_tokens BIGINT,           -- prefill: prompt tokens computed [tokens]
    prefill_visual_tokens BIGINT,    -- prefill: the image and video part of prefill.tokens [tokens]
    prefill_cached_tokens BIGINT,    -- prefill: prompt tokens not computed: prefix cache [tokens]
    decode_steps BIGINT,             -- decode: decode iterations of this request [iterations]
    decode_preemptions BIGINT,       -- decode: times the request was preempted [times]
    transfer_bytes BIGINT,           -- transfer: bytes moved [B]
    transfer_kind VARCHAR,           -- transfer: embedding or kv
    step_index BIGINT,               -- step: number of the (first) iteration
    step_count BIGINT,               -- step: iterations folded into the span [iterations]
    step_prefill_requests BIGINT,    -- step: requests with a prefill chunk [requests]
    step_prefill_tokens BIGINT,      -- step: prompt tokens computed [tokens]
    step_prefill_visual_tokens BIGINT, -- step: the image and video part [tokens]
    step_prefill_attention_pairs BIGINT, -- step: causal query-key pairs, summed over sequences [pairs]
    step_prefill_visual_attention_pairs BIGINT, -- step: the pairs whose query is visual [pairs]
    step_decode_requests BIGINT,     -- step: decoding requests, summed over iterations [requests]
    step_decode_tokens BIGINT,       -- step: computed by the decoding requests, verified drafts included [tokens]
    step_decode_context_tokens BIGINT, -- step: cached tokens read by decode, without the one being written [tokens]
    step_decode_visual_tokens BIGINT, -- step: the image and video part of it [tokens]
    step_encode_items BIGINT,        -- step: items encoded [items]
    step_encode_patches BIGINT,      -- step: patches encoded [patches]
    step_encode_attention_pairs BIGINT, -- step: sum of patches squared per image [pairs]
    step_encode_ns BIGINT,           -- step: wall time of the encoder in the step [ns]
    step_encode_gpu_time_ns BIGINT,  -- step: GPU time of the encoder in the step [ns]
    step_kv_used_tokens BIGINT,      -- step: tokens in the KV cache [tokens]
    step_kv_used_tokens_max BIGINT,  -- step: the most tokens in the KV cache after any one of the iterations [tokens]
    step_kv_visual_tokens BIGINT,    -- step: visual tokens in the KV cache [tokens]
    step_kv_visual_tokens_max BIGINT, -- step: the visual part of kv_used_tokens_max, at that same iteration [tokens]
    step_kv_used_blocks BIGINT,      -- step: KV blocks in use [blocks]
    step_running DOUBLE,             -- step: requests being served [requests]
    step_waiting DOUBLE,             -- step: requests in the queue [requests]
    step_preemptions BIGINT,         -- step: preemptions in the step [times]
    gpu_dram_bandwidth_ratio DOUBLE, -- gpu: DRAM traffic over its peak, mean over the wall time of the span [1]
    gpu_dram_bandwidth_ratio_low DOUBLE, -- gpu: lower end of the interval [1]
    gpu_dram_bandwidth_ratio_high DOUBLE, -- gpu: upper end of the interval [1]
    gpu_dram_bandwidth_ratio_quality VARCHAR, -- gpu: measured, attributed or estimated
    gpu_tensor_active_ratio DOUBLE,  -- gpu: share of cycles a tensor core was active [1]
    gpu_tensor_active_ratio_low DOUBLE, -- gpu: lower end of the interval [1]
    gpu_tensor_active_ratio_high DOUBLE, -- gpu: upper end of the interval [1]
    gpu_tensor_active_ratio_quality VARCHAR, -- gpu: measured, attributed or estimated
    gpu_sm_active_ratio DOUBLE,      -- gpu: share of cycles an SM had a warp [1]
    gpu_sm_active_ratio_low DOUBLE,  -- gpu: lower end of the interval [1]
    gpu_sm_active_ratio_high DOUBLE, -- gpu: upper end of the interval [1]
    gpu_sm_active_ratio_quality VARCHAR, -- gpu: measured, attributed or estimated
    gpu_energy_mj DOUBLE,            -- gpu: energy; on a phase the request's share [mJ]
    gpu_energy_mj_low DOUBLE,        -- gpu: lower end of the interval [mJ]
    gpu_energy_mj_high DOUBLE,       -- gpu: upper end of the interval [mJ]
    gpu_energy_mj_quality VARCHAR,   -- gpu: measured, attributed or estimated
    vllm_request_id VARCHAR,         -- llm_request: vLLM's request id; shared by the n answers to one request
    vllm_prompt_tokens BIGINT,       -- llm_request: prompt tokens, all modalities [tokens]
    vllm_completion_tokens BIGINT,   -- llm_request: generated tokens [tokens]
    vllm_ttft_s DOUBLE,              -- llm_request: arrival to first token [s]
    vllm_e2e_s DOUBLE,               -- llm_request: arrival to last token [s]
    vllm_queue_s DOUBLE,             -- llm_request: time waiting to be scheduled [s]
    vllm_prefill_s DOUBLE,           -- llm_request: first scheduling to first token, encode and other requests' steps included [s]
    vllm_decode_s DOUBLE,            -- llm_request: first to last token [s]
    sglang_rid VARCHAR,              -- SGLang's request span: its request id, with the id of the API worker before
    sglang_request_id VARCHAR,       -- the same: its request id (since 0.5.10, as all below)
    sglang_model VARCHAR,            -- the same: name of the served model
    sglang_finish_reasons VARCHAR,   -- the same: why it ended, a list as JSON: stop, length or abort
    sglang_prompt_tokens BIGINT,     -- the same: prompt tokens, all modalities [tokens]
    sglang_completion_tokens BIGINT, -- the same: generated tokens [tokens]
    sglang_cached_tokens BIGINT,     -- the same: prompt tokens found in the KV prefix cache [tokens]
    sglang_ttft_s DOUBLE,            -- the same: arrival to first token [s]
    sglang_e2e_s DOUBLE              -- the same: arrival to last token [s]
);

-- One row: one resource (a process, mostly) that sent spans or metrics.
CREATE TABLE resources (
    resource_id UBIGINT,             -- hash of all its attributes
    vllm_process_kind VARCHAR,       -- vLLM's process; NULL in its API server
    service_name VARCHAR,            -- service the spans belong to
    service_instance_id VARCHAR,     -- one process: boot id, PID and start time
    ring_created_ns BIGINT,          -- which ring of the process, as every attach makes one: its creation by the monotonic clock [ns]
    host_name VARCHAR,               -- name of the host
    process_pid BIGINT,              -- PID of the inference process
    schema_version BIGINT,           -- version of this vocabulary
    engine_name VARCHAR,             -- transformers, vllm or sglang
    engine_version VARCHAR,          -- version of the engine
    engine_config VARCHAR,           -- allow-listed settings: chunk budget, sequence limit, encoder TP mode, eager [JSON]
    role VARCHAR,                    -- api, engine, worker, encoder or all
    rank BIGINT,                     -- rank of the process in its parallel group
    parallel_tp BIGINT,              -- tensor-parallel size [ranks]
    parallel_pp BIGINT,              -- pipeline-parallel size [ranks]
    parallel_dp BIGINT,              -- data-parallel size [ranks]
    parallel_ep BIGINT,              -- expert-parallel size [ranks]
    model_config VARCHAR,            -- the model's config.json as text [JSON]
    weights_dtype VARCHAR,           -- data type of the weights
    kv_dtype VARCHAR,                -- data type of the KV cache
    kv_block_tokens BIGINT,          -- tokens of a KV block [tokens]
    kv_capacity_tokens BIGINT,       -- tokens that the KV cache can hold [tokens]
    kv_bytes_per_token BIGINT,       -- KV bytes of one token over the full-attention layers and all TP ranks, read from the allocated cache [B/token]
    kv_fixed_bytes BIGINT,           -- window, state and cross-attention caches of one sequence [B]
    device_peak_flops_per_s DOUBLE,  -- attainable compute in the weights' data type, measured on this device before the run [FLOP/s]
    device_bandwidth_bytes_per_s DOUBLE, -- attainable copy bandwidth, measured on this device before the run [B/s]
    device_peak_source VARCHAR,      -- how the two were measured
    device_kind VARCHAR,             -- cuda or cpu: where the model runs
    device_cores BIGINT,             -- CPU cores open to the process [cores]
    info_truncated BIGINT,           -- values left out of the ring's header: it was full [values]
    hw_id VARCHAR,                   -- UUID of the GPU
    hw_name VARCHAR,                 -- name of the device that runs the model
    extra VARCHAR,                   -- attributes that have no column here, by key, a JSON object; long values are cut
    mistyped_keys VARCHAR[]          -- attributes with a value of another type, taken as unknown; NULL without any
);

-- One row: one point of a metric of the vocabulary (GPU and host counters, the agent's own counts).
CREATE TABLE metric_samples (
    file VARCHAR,                    -- the file it was read from
    name VARCHAR,                    -- metric name
    resource_id UBIGINT,             -- row of `resources`
    hw_id VARCHAR,                   -- UUID of the device, from the point; NULL where it has none
    phase VARCHAR,                   -- phase that an amount was given to, from the point; NULL where it has none
    start_ns BIGINT,                 -- since when a running total counts; NULL for other values and where it is not told
    ts_ns BIGINT,                    -- time of the reading
    value DOUBLE,                    -- the reading, in the unit of the vocabulary
    known BOOLEAN                    -- false while foreign metrics wait to be counted and removed
);

-- One row: one input file.
CREATE TABLE ingest_files (
    file VARCHAR,                    -- path as given
    bytes BIGINT,                    -- size on disk
    lines BIGINT,                    -- lines that are not blank
    malformed_lines BIGINT,          -- lines that are no OTLP JSON; left out
    truncated_lines BIGINT,          -- lines cut off at the end of the file; left out
    ignored_signals BIGINT,          -- log records, profiles and foreign metrics
    dropped_spans BIGINT,            -- spans without id, name or start, or of a newer vocabulary; left out
    damaged BOOLEAN,                 -- its end could not be read: packed data with a fault, or no permission
    values_out_of_range BIGINT,      -- values that nothing real has, or of another type, taken as unknown
    format VARCHAR,                  -- json, protobuf or parquet
    messages BIGINT,                 -- protobuf: messages in the file; NULL for other formats
    dropped_messages BIGINT          -- protobuf: messages, and stretches between them, that are none of OTLP; left out
);

-- One row for the whole input: what was met that belongs to no file alone.
CREATE TABLE ingest_counts (
    duplicates BIGINT,               -- spans that came twice: equal ids, name and times; one of each is kept
    conflicting_ids BIGINT,          -- ids under which spans of different name or times came; all of them are kept
    cut_values BIGINT,               -- values in `extra` of spans that were longer than 16 Ki characters and are cut
    schema_versions BIGINT[],        -- versions of the vocabulary that the recorders wrote, ascending
    cached BOOLEAN                   -- the tables come from the cache: no file was parsed
);

-- One row: one thing that was wrong with the input.
CREATE TABLE ingest_notes (
    file VARCHAR,                    -- path as given
    line BIGINT,                     -- line number from 1; NULL where it concerns the whole file
    what VARCHAR                     -- what was wrong and what was done
);

-- One row: a request that a step or window links to.
-- linked_trace_id, linked_span_id  of the request's span; trace_id, span_id are the step's or window's
CREATE VIEW span_links AS
SELECT trace_id, span_id, link."traceId" AS linked_trace_id, link."spanId" AS linked_span_id
FROM (SELECT trace_id, span_id, unnest(links) AS link FROM spans);

-- One row: one value that an engine told of itself on its metrics page, read by the agent (names: vtprof.engine.*).
-- instance           engine that told it, as service_instance_id of `resources`
CREATE VIEW engine_samples AS
SELECT m.resource_id, r.service_instance_id AS instance, r.engine_name, r.engine_version, m.name, m.ts_ns, m.value
FROM metric_samples AS m LEFT JOIN resources AS r USING (resource_id)
WHERE starts_with(m.name, 'vtprof.engine.');

-- One row: one reading of a GPU counter (names: vtprof.gpu.*).
CREATE VIEW gpu_samples AS
SELECT hw_id, name, resource_id, start_ns, ts_ns, value FROM metric_samples WHERE starts_with(name, 'vtprof.gpu.');
