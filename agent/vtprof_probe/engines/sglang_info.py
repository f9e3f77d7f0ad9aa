"""Describes an SGLang server as resource attributes: its model, its parallel sizes, its KV cache, its settings.

What SGLang settles at start-up is read from the scheduler, the rest from ServerArgs; what a version lacks is left out.
"""

import json
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional

from vtprof_probe.engines.transformers_info import config_text, device_info, dtype_name
from vtprof_schemas import names, records

_SETTINGS = (
    "attention_backend", "chunked_prefill_size", "context_length", "disable_cuda_graph", "disable_overlap_schedule",
    "disable_radix_cache", "disaggregation_mode", "enable_dp_attention", "enable_mixed_chunk", "max_prefill_tokens",
    "max_running_requests", "mem_fraction_static", "mm_attention_backend", "mm_enable_dp_encoder", "quantization",
    "schedule_policy", "speculative_algorithm",
)  # fmt: skip
"""What of ServerArgs leaves the process: sizes and modes, no path and no secret."""
_SETTLED = ("chunked_prefill_size", "max_running_requests", "max_prefill_tokens", "schedule_policy")
"""Settings that the scheduler holds as they came out."""


class Ranks(NamedTuple):
    """Which of the server's schedulers this is."""

    tp: int
    dp: int
    attention_tp_size: int
    pp_size: int
    reports: bool
    """True for the one rank that speaks for those that schedule the same."""


def find_ranks(scheduler: Any) -> Ranks:
    """Read a scheduler's ranks: from itself, from 0.5.14 from its ``ps``, from 0.5.22 from the process's context."""
    where = scheduler if hasattr(scheduler, "attn_tp_rank") else getattr(scheduler, "ps", None)
    if where is None:
        context = sys.modules.get("sglang.srt.runtime_context")
        where = scheduler if context is None else context.get_parallel()
    dp = _number(where, "dp_rank")
    return Ranks(
        tp=_number(where, "tp_rank") or 0,
        dp=(_number(where, "attn_dp_rank") or 0) if dp is None else dp,
        attention_tp_size=_number(where, "attn_tp_size") or 1,
        pp_size=_number(scheduler.server_args, "pp_size") or 1,
        reports=not any(_number(where, rank) for rank in ("pp_rank", "attn_tp_rank", "attn_cp_rank")),
    )


def _number(where: Any, name: str) -> Optional[int]:
    """Return a rank or size; None where there is none. SGLang's context raises errors of its own for what is not set."""
    try:
        value = getattr(where, name)
    except (AttributeError, RuntimeError, ValueError):
        return None
    return value if isinstance(value, int) else None


def describe_engine(scheduler: Any, ranks: Ranks) -> Dict[str, Any]:
    """Return what is known at the scheduler; keys of ``names``."""
    info = {**_describe(scheduler), **_kv(scheduler, ranks)}
    settings = json.loads(info[names.ENGINE_CONFIG])
    for key in _SETTLED:
        value = getattr(scheduler, key, None)
        if isinstance(value, (int, str)):
            settings[key] = value
    info[names.ENGINE_CONFIG] = json.dumps(settings, sort_keys=True)
    torch = sys.modules.get("torch")
    if torch is not None:
        cuda = torch.cuda.is_initialized()
        info.update(
            device_info(torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu"))
        )
    return info


def describe_api(manager: Any) -> Dict[str, Any]:
    """Return what is known at the tokenizer manager; keys of ``names``."""
    return _describe(manager)


def kv_used_tokens(scheduler: Any) -> int:
    """Return the tokens in the KV cache, without what the prefix cache could give up at once; -1 if it does not tell.

    A model with window or state layers has pools of several kinds: the one of full attention counts.
    """
    allocator, tree = scheduler.token_to_kv_pool_allocator, scheduler.tree_cache
    try:
        if hasattr(allocator, "full_available_size"):
            free = allocator.full_available_size() + tree.full_evictable_size()
        else:
            free = allocator.available_size() + _evictable(tree)
        return int(scheduler.max_total_num_tokens - free)
    except (AttributeError, NotImplementedError, TypeError):
        return records.UNKNOWN


def _evictable(tree: Any) -> int:
    try:
        return int(tree.evictable_size())
    except NotImplementedError:
        return int(tree.full_evictable_size())


def _describe(owner: Any) -> Dict[str, Any]:
    args, model = owner.server_args, owner.model_config
    name = str(getattr(args, "served_model_name", None) or getattr(args, "model_path", "")).rstrip("/\\")
    if os.path.isabs(name) or name.startswith("."):
        name = os.path.basename(name)
    found = {key: getattr(args, key, None) for key in _SETTINGS}
    return {
        names.REQUEST_MODEL: name,
        names.MODEL_CONFIG: config_text(model.hf_config, name),
        names.WEIGHTS_DTYPE: dtype_name(model.dtype),
        names.PARALLEL_TP: int(getattr(args, "tp_size", 1) or 1),
        names.PARALLEL_PP: int(getattr(args, "pp_size", 1) or 1),
        names.PARALLEL_DP: int(getattr(args, "dp_size", 1) or 1),
        names.PARALLEL_EP: int(getattr(args, "ep_size", 1) or 1),
        names.ENGINE_CONFIG: json.dumps(
            {key: value for key, value in found.items() if isinstance(value, (bool, int, float, str))},
            sort_keys=True,
        ),
    }


def _kv(scheduler: Any, ranks: Ranks) -> Dict[str, Any]:
    info: Dict[str, Any] = {}
    page, capacity = getattr(scheduler, "page_size", None), getattr(scheduler, "max_total_num_tokens", None)
    if isinstance(page, int) and isinstance(capacity, int):
        info = {names.KV_BLOCK_TOKENS: page, names.KV_CAPACITY_TOKENS: capacity}
    runner = getattr(getattr(scheduler, "tp_worker", None), "model_runner", None)
    dtype = getattr(runner, "kv_cache_dtype", None)
    if dtype is not None:
        info[names.KV_DTYPE] = dtype_name(dtype)
    allocator = scheduler.token_to_kv_pool_allocator
    pool = allocator.get_kvcache() if hasattr(allocator, "get_kvcache") else None
    pool = getattr(pool, "full_kv_pool", pool)
    buffers: List[Any] = []
    for name in ("k_buffer", "v_buffer", "kv_buffer"):
        layers = getattr(pool, name, None)
        buffers += layers if isinstance(layers, (list, tuple)) else ()
    if buffers:
        # Each holds one layer, a row a token; the stages of a pipeline are taken to be like this one.
        own = sum(buffer.nbytes / buffer.shape[0] for buffer in buffers)
        info[names.KV_BYTES_PER_TOKEN] = round(own * ranks.attention_tp_size * ranks.pp_size)
        # A model with windows or states keeps those in pools of its own, whose share of a sequence is not told.
        if not hasattr(allocator, "full_available_size"):
            info[names.KV_FIXED_BYTES] = 0
    return info
