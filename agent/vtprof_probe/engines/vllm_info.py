"""Describes a vLLM engine as resource attributes: its model, its parallel sizes, its KV cache and its settings.

All is read from the VllmConfig and the KV cache config that the scheduler holds; what a version does not have is left
out.
"""

import json
import os
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from vtprof_probe.engines.transformers_info import config_text, dtype_name
from vtprof_schemas import names

_SETTINGS: Tuple[Tuple[str, str], ...] = (
    ("scheduler_config", "max_num_batched_tokens"),
    ("scheduler_config", "max_num_seqs"),
    ("scheduler_config", "enable_chunked_prefill"),
    ("scheduler_config", "disable_chunked_mm_input"),
    ("scheduler_config", "long_prefill_token_threshold"),
    ("scheduler_config", "async_scheduling"),
    ("scheduler_config", "policy"),
    ("model_config", "max_model_len"),
    ("model_config", "enforce_eager"),
    ("model_config", "quantization"),
    ("model_config", "runner_type"),
    ("model_config", "renderer_num_workers"),
    ("cache_config", "enable_prefix_caching"),
    ("cache_config", "gpu_memory_utilization"),
    ("parallel_config", "distributed_executor_backend"),
    ("parallel_config", "enable_expert_parallel"),
    ("parallel_config", "decode_context_parallel_size"),
    ("parallel_config", "prefill_context_parallel_size"),
    ("multimodal_config", "mm_encoder_tp_mode"),
    ("multimodal_config", "mm_encoder_attn_backend"),
    ("multimodal_config", "mm_processor_cache_gb"),
    ("multimodal_config", "mm_processor_cache_type"),
    ("multimodal_config", "limit_per_prompt"),
    ("speculative_config", "method"),
    ("speculative_config", "num_speculative_tokens"),
    ("compilation_config", "cudagraph_mode"),
)
"""What of the configuration leaves the process: sizes and modes, no path and no secret."""


def describe_engine(scheduler: Any, fault: Callable[[], None]) -> Dict[str, Any]:
    """Return what is known at the scheduler; keys of ``names``. A part that cannot be read is a ``fault``, and left out."""
    config = scheduler.vllm_config
    info: Dict[str, Any] = {}
    for part in (
        lambda: model_info(config.model_config),
        lambda: parallel_info(config.parallel_config),
        lambda: kv_info(config, scheduler.kv_cache_config),
        lambda: {names.ENGINE_CONFIG: json.dumps(settings(config), sort_keys=True)},
        lambda: {names.DEVICE_KIND: str(config.device_config.device_type)},
    ):
        try:
            info.update(part())
        except Exception:
            fault()
    return info


def data_parallel_rank(parallel: Any) -> int:
    """Return which of the server's engines this is: ``data_parallel_index`` where the rank is one within the engine."""
    index = getattr(parallel, "data_parallel_index", None)
    return int(index if index is not None else getattr(parallel, "data_parallel_rank", 0) or 0)


def model_info(model: Any) -> Dict[str, Any]:
    """Return the model's served name, configuration and data type."""
    served = getattr(model, "served_model_name", None) or getattr(model, "model", "")
    name = str(served[0] if isinstance(served, (list, tuple)) else served).rstrip("/\\")
    if os.path.isabs(name) or name.startswith("."):
        name = os.path.basename(name)
    return {
        names.REQUEST_MODEL: name,
        names.MODEL_CONFIG: config_text(model.hf_config, name),
        names.WEIGHTS_DTYPE: dtype_name(model.dtype),
    }


def parallel_info(parallel: Any) -> Dict[str, Any]:
    """Return the parallel sizes; experts are split over the tensor- and data-parallel ranks, or not at all."""
    tensor, data = _size(parallel, "tensor_parallel_size"), _size(parallel, "data_parallel_size")
    return {
        names.PARALLEL_TP: tensor,
        names.PARALLEL_PP: _size(parallel, "pipeline_parallel_size"),
        names.PARALLEL_DP: data,
        names.PARALLEL_EP: tensor * data if getattr(parallel, "enable_expert_parallel", False) else 1,
    }


def settings(config: Any) -> Dict[str, Any]:
    """Return the allow-listed settings that this version has."""
    parts = {part: getattr(config, part, None) for part, _ in _SETTINGS}
    parts["multimodal_config"] = getattr(config.model_config, "multimodal_config", None)
    found: Dict[str, Any] = {}
    for part, key in _SETTINGS:
        value = getattr(parts[part], key, None)
        if value is not None:
            found[key] = _plain(value)
    servers = getattr(parts["parallel_config"], "_api_process_count", None)
    if isinstance(servers, int):
        found["api_server_count"] = servers
    if parts["multimodal_config"] is not None:
        found["mm_processor_device"] = _processor_device(parts["multimodal_config"])
    return found


def _processor_device(multimodal: Any) -> str:
    """Return where images are processed: ``cpu`` unless the processor's arguments name another device."""
    arguments = getattr(multimodal, "mm_processor_kwargs", None)
    device = arguments.get("device") if isinstance(arguments, dict) else None
    return str(device).partition(":")[0] if device else "cpu"


def kv_info(config: Any, kv_config: Any) -> Dict[str, Any]:
    """Return the layout of the KV cache: bytes over all ranks of one engine, tokens as the scheduler counts them.

    A token lies on every tensor-parallel rank, with decode context parallelism on one of several. The other pipeline
    stages are taken to be like the first, which is all that the scheduler knows.
    """
    parallel = config.parallel_config
    split = _size(parallel, "decode_context_parallel_size")
    ranks = _size(parallel, "tensor_parallel_size") * _size(parallel, "pipeline_parallel_size")
    full, fixed, tokens = 0.0, 0, 0
    full_spec: Optional[Any] = None
    for spec, layers in _layers(kv_config):
        if _is(spec, "FullAttentionSpec"):
            full += layers * spec.page_size_bytes / spec.block_size
            full_spec = full_spec or spec
        else:
            fixed += layers * _bytes_of_sequence(spec, config)
    groups = kv_config.kv_cache_groups
    if full_spec is not None and len(groups) == 1:
        full = _allocated(kv_config, full_spec.block_size) or full
    info: Dict[str, Any] = {
        names.KV_DTYPE: _kv_dtype(config, full_spec),
        names.KV_BYTES_PER_TOKEN: round(full * ranks / split),
        names.KV_FIXED_BYTES: fixed * ranks,
    }
    if full_spec is not None:
        tokens = full_spec.block_size * split * _size(parallel, "prefill_context_parallel_size")
        info[names.KV_BLOCK_TOKENS] = tokens
        info[names.KV_CAPACITY_TOKENS] = kv_config.num_blocks // len(groups) * tokens
    return info


def _layers(kv_config: Any) -> Iterator[Tuple[Any, int]]:
    for group in kv_config.kv_cache_groups:
        by_layer = getattr(group.kv_cache_spec, "kv_cache_specs", None)
        if by_layer:
            for spec in by_layer.values():
                yield spec, 1
        else:
            yield group.kv_cache_spec, len(group.layer_names)


def _is(spec: Any, kind: str) -> bool:
    """Tell a spec's kind by the names of its classes: nothing of vLLM is imported here."""
    return any(cls.__name__ == kind for cls in type(spec).__mro__)


def _bytes_of_sequence(spec: Any, config: Any) -> int:
    """Return what one long sequence holds of a layer that is no full attention."""
    if _is(spec, "EncoderOnlyAttentionSpec"):
        return 0
    for kind, key in (
        ("SlidingWindowSpec", "sliding_window"),
        ("ChunkedLocalAttentionSpec", "attention_chunk_size"),
    ):
        if _is(spec, kind):
            blocks = -(-getattr(spec, key) // spec.block_size)
            return int(blocks * spec.page_size_bytes)
    # A state, or the encoder's keys and values: the engine's own figure.
    return int(spec.max_memory_usage_bytes(config))


def _allocated(kv_config: Any, block_tokens: int) -> float:
    """Return the bytes of a token over the tensors that are allocated; 0 where they say nothing of their own size.

    Layers of one group may differ in size, and the scheduler's config names but one of them.
    """
    tensors: List[Any] = list(kv_config.kv_cache_tensors)
    if not tensors or not all(hasattr(tensor, "shared_by") for tensor in tensors):
        return 0.0
    return float(sum(tensor.size for tensor in tensors) / kv_config.num_blocks / block_tokens)


def _kv_dtype(config: Any, spec: Any) -> str:
    stated = str(getattr(config.cache_config, "cache_dtype", "auto"))
    if stated != "auto":
        return stated
    return dtype_name(getattr(spec, "dtype", None) or config.model_config.dtype)


def _size(parallel: Any, key: str) -> int:
    return max(int(getattr(parallel, key, 1) or 1), 1)


def _plain(value: Any) -> Any:
    """Return a setting as JSON can hold it: an enumeration by its name, anything odd as its class."""
    if isinstance(value, (bool, int, float, str)):
        return getattr(value, "name", value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__)
