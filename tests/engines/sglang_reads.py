"""What SGLang's hooks read from SGLang's objects, as data: test_sglang_source.py looks each up in SGLang's own source."""

from typing import NamedTuple


class Read(NamedTuple):
    """Attributes of a class (fields, what methods assign to ``self``, methods) in a range of versions."""

    module: str
    owner: str
    attributes: tuple[str, ...]
    since: str = ""
    until: str = ""


_BATCH = "sglang.srt.managers.schedule_batch"
_IO = "sglang.srt.managers.io_struct"
_SCHEDULER = "sglang.srt.managers.scheduler"
RANKS = ("tp_rank", "pp_rank", "dp_rank", "attn_tp_rank", "attn_tp_size", "attn_dp_rank")

READS: tuple[Read, ...] = (
    Read(
        _BATCH,
        "Req",
        ("rid", "origin_input_ids", "output_ids", "finished_reason", "stream", "sampling_params"),
    ),
    Read(_BATCH, "Req", ("multimodal_inputs",)),
    Read(_BATCH, "ScheduleBatch", ("reqs", "forward_mode", "prefix_lens", "extend_lens", "decoding_reqs")),
    Read(_BATCH, "ScheduleBatch", ("seq_lens_sum", "seq_lens_cpu", "spec_algorithm")),
    Read(_BATCH, "ScheduleBatch", ("split_index",), "0.5.6"),
    Read(_BATCH, "MultimodalInputs", ("mm_items",)),
    Read(_BATCH, "MultimodalDataItem", ("modality", "offsets", "feature", "precomputed_embeddings")),
    Read(_BATCH, "MultimodalDataItem", ("model_specific_data",)),
    Read(_BATCH, "Modality", ("IMAGE", "VIDEO", "AUDIO")),
    Read("sglang.srt.sampling.sampling_params", "SamplingParams", ("max_new_tokens",)),
    Read(
        "sglang.srt.model_executor.forward_batch_info",
        "ForwardMode",
        ("is_idle", "is_extend", "is_mixed", "is_split_prefill"),
    ),
    Read("sglang.srt.model_executor.forward_batch_info", "ForwardMode", ("is_prebuilt",), "0.5.6"),
    Read("sglang.srt.speculative.spec_info", "SpeculativeAlgorithm", ("is_none",)),
    Read("sglang.srt.speculative.spec_info", "SpeculativeAlgorithm", ("supports_ragged_verify",), "0.5.16"),
    Read("sglang.srt.speculative.spec_info", "SpeculativeAlgorithm", ("is_uno",), "0.5.20"),
    # How many tokens of each request are verified: what the result says, else the worker, else the arguments.
    Read("sglang.srt.managers.utils", "GenerationBatchResult", ("speculative_num_draft_tokens",), "0.5.12"),
    Read(
        "sglang.srt.speculative.eagle_worker_v2", "EAGLEWorkerV2", ("speculative_num_draft_tokens",), "0.5.4"
    ),
    Read("sglang.srt.speculative.ngram_worker", "NGRAMWorker", ("speculative_num_draft_tokens",), "0.5.14"),
    Read("sglang.srt.server_args", "ServerArgs", ("speculative_num_draft_tokens",), until="0.5.20"),
    Read(_SCHEDULER, "Scheduler", ("forward_ct", "waiting_queue", "is_generation", "page_size", "tp_worker")),
    Read(_SCHEDULER, "Scheduler", ("max_total_num_tokens", "token_to_kv_pool_allocator", "tree_cache")),
    Read(
        _SCHEDULER,
        "Scheduler",
        ("server_args", "model_config", "chunked_prefill_size", "max_running_requests"),
    ),
    Read(_SCHEDULER, "Scheduler", ("draft_worker",)),
    Read(_SCHEDULER, "Scheduler", RANKS, until="0.5.14"),
    Read(_SCHEDULER, "Scheduler", ("ps",), "0.5.14", "0.5.22"),
    Read("sglang.srt.distributed.parallel_state_wrapper", "ParallelState", RANKS, "0.5.14", "0.5.22"),
    Read("sglang.srt.runtime_context", "", ("get_parallel",), "0.5.22"),
    Read("sglang.srt.managers.tp_worker", "TpModelWorker", ("model_runner",)),
    Read("sglang.srt.model_executor.model_runner", "ModelRunner", ("model", "kv_cache_dtype")),
    Read(
        "sglang.srt.mem_cache.base_prefix_cache", "BasePrefixCache", ("evictable_size", "full_evictable_size")
    ),
    Read("sglang.srt.mem_cache.memory_pool", "MHATokenToKVPool", ("k_buffer", "v_buffer")),
    Read("sglang.srt.mem_cache.memory_pool", "MLATokenToKVPool", ("kv_buffer",)),
    Read(
        "sglang.srt.managers.tokenizer_manager",
        "TokenizerManager",
        ("rid_to_state", "server_args", "model_config"),
    ),
    Read("sglang.srt.managers.tokenizer_manager", "ReqState", ("output_ids",)),
    Read(_IO, "GenerateReqInput", ("rid", "stream", "parallel_sample_num", "batch_size")),
    Read(_IO, "GenerateReqInput", ("external_trace_header",), "0.5.8"),
    Read(_IO, "TokenizedGenerateReqInput", ("rid", "input_ids", "mm_inputs", "stream", "sampling_params")),
    Read(_IO, "BatchStrOutput", ("rids", "finished_reasons", "completion_tokens")),
    Read(_IO, "BatchTokenIDOutput", ("rids", "finished_reasons", "completion_tokens")),
    Read(_IO, "BatchEmbeddingOutput", ("rids", "finished_reasons")),
    Read(_IO, "AbortReq", ("rid", "finished_reason")),
    Read("sglang.srt.multimodal.processors.base_processor", "BaseMultiModalProcessorOutput", ("images",)),
    Read("sglang.srt.configs.model_config", "ModelConfig", ("hf_config", "dtype")),
    # Whose encoders are seen by these names; test_sglang_source.py holds all other models to the pattern.
    Read("sglang.srt.models.qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", ("get_image_feature",)),
    Read("sglang.srt.models.internvl", "InternVLChatModel", ("get_image_feature",)),
)
