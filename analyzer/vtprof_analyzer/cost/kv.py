"""KV cache bytes of a model (C6): exact, from layers, KV heads, head size and the cache's data type."""

from vtprof_analyzer.models.spec import Attention, LanguageModel


def kv_replication(attention: Attention, tensor_parallel: int) -> float:
    """Return how often each KV head is stored: more ranks than KV heads hold copies."""
    return max(1.0, tensor_parallel / attention.kv_heads)


def kv_bytes_per_token(language: LanguageModel, kv_bytes: float, tensor_parallel: int = 1) -> float:
    """Return bytes that one cached token takes over all full-attention layers and all ranks [B/token]."""
    return sum(
        group.layers
        * group.attention.kv_values_per_token
        * kv_bytes
        * kv_replication(group.attention, tensor_parallel)
        for group in language.groups
        if group.attention.window_tokens is None
    )


def kv_fixed_bytes(language: LanguageModel, kv_bytes: float, tensor_parallel: int = 1) -> float:
    """Return bytes that a sequence takes in its sliding-window layers once their windows are full [B/sequence]."""
    return sum(
        group.layers
        * group.attention.kv_values_per_token
        * kv_bytes
        * group.attention.window_tokens
        * kv_replication(group.attention, tensor_parallel)
        for group in language.groups
        if group.attention.window_tokens is not None
    )
