"""KV cache bytes of a model (C6): exact, by kind of attention, from layers, KV heads, head size and data type."""

import math
from dataclasses import dataclass

from vtprof_analyzer.cost.parallel import kv_replication
from vtprof_analyzer.models.spec import LanguageModel, LayerGroup


def group_token_bytes(group: LayerGroup, kv_bytes: float, tensor_parallel: int = 1) -> float:
    """Return bytes that one token leaves in all layers of a group, copies on further ranks included [B/token]."""
    copies = kv_replication(group.attention, tensor_parallel)
    return group.layers * group.attention.kv_values_per_token * kv_bytes * copies


def group_state_bytes(group: LayerGroup, kv_bytes: float) -> float:
    """Return bytes of the constant state of one sequence in all layers of a group [B/sequence]."""
    value_bytes = group.attention.state_bytes_per_value or kv_bytes
    return group.layers * group.attention.state_values * value_bytes


def kv_bytes_per_token(language: LanguageModel, kv_bytes: float, tensor_parallel: int = 1) -> float:
    """Return bytes that one cached token takes over all full-attention layers and all ranks [B/token].

    Layers with a window, a constant state or cross-attention stop growing: `kv_fixed_bytes` and `cross_bytes_per_token`.
    """
    return sum(
        group_token_bytes(group, kv_bytes, tensor_parallel)
        for group in language.groups
        if group.attention.window_tokens is None and not group.attention.cross
    )


def kv_fixed_bytes(language: LanguageModel, kv_bytes: float, tensor_parallel: int = 1) -> float:
    """Return bytes that a sequence takes in its window layers once these are full, and in its states [B/sequence]."""
    return sum(
        group_state_bytes(group, kv_bytes)
        + group_token_bytes(group, kv_bytes, tensor_parallel) * (group.attention.window_tokens or 0)
        for group in language.groups
        if not group.attention.cross
    )


def cross_bytes_per_token(language: LanguageModel, kv_bytes: float, tensor_parallel: int = 1) -> float:
    """Return bytes that one visual position takes in the cross-attention layers [B/position]; 0 without such layers."""
    return sum(
        group_token_bytes(group, kv_bytes, tensor_parallel)
        for group in language.groups
        if group.attention.cross
    )


@dataclass(frozen=True)
class RequestCache:
    """KV cache of one request [B], over all ranks."""

    bytes: float
    visual_bytes: float
    """The part that image and video positions fill; of windows and states in proportion."""
    rounding_bytes: float
    """Included in ``bytes``: the unused rest of the last block."""


def request_cache(
    language: LanguageModel,
    kv_bytes: float,
    tokens: int,
    visual_tokens: int = 0,
    block_tokens: int = 1,
    tensor_parallel: int = 1,
) -> RequestCache:
    """Return what one request of ``tokens`` cached positions keeps, ``visual_tokens`` of them visual.

    For models with cross-attention the visual positions are beside the text and not among ``tokens``. Pages round
    full-attention layers up to whole blocks of ``block_tokens``.
    """
    cross = cross_bytes_per_token(language, kv_bytes, tensor_parallel)
    per_token = kv_bytes_per_token(language, kv_bytes, tensor_parallel)
    paged = math.ceil(tokens / block_tokens) * block_tokens
    windows = sum(
        group_token_bytes(group, kv_bytes, tensor_parallel) * min(tokens, group.attention.window_tokens)
        for group in language.groups
        if group.attention.window_tokens is not None and not group.attention.cross
    )
    states = sum(group_state_bytes(group, kv_bytes) for group in language.groups) if tokens else 0.0
    share = min(1.0, visual_tokens / tokens) if tokens and not cross else 0.0
    grown = per_token * tokens + windows + states
    rounding = per_token * (paged - tokens)
    visual = grown * share + cross * visual_tokens
    return RequestCache(grown + cross * visual_tokens + rounding, visual, rounding)
