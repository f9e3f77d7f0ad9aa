"""Reads what one token costs in the engine's own KV cache, from the tensors it allocated. Shapes only, no device work."""

from typing import Any, NamedTuple, Optional


class KvLayout(NamedTuple):
    """KV bytes of one sequence: so much a token, and so much whatever its length."""

    bytes_per_token: int
    fixed_bytes: int
    dtype: str


_GROWING = ("DynamicLayer", "StaticLayer")
_WINDOW = ("DynamicSlidingWindowLayer", "StaticSlidingWindowLayer", "SlidingWindowLayer")


def read_layout(cache: Any) -> Optional[KvLayout]:
    """Return the layout of a cache after its first use; None for a quantised, unknown or empty one.

    Layers of full attention cost 2 x heads x head size x item size a token. A sliding window holds at most its window
    and counts as fixed, as do the states of linear attention.
    """
    layers = getattr(cache, "layers", None)
    if not layers:
        return None
    per_token = fixed = 0
    dtype = ""
    for layer in layers:
        kind = type(layer).__name__
        if kind == "DummyLayer":
            continue
        if kind not in _GROWING and kind not in _WINDOW:
            return None
        keys: Any = getattr(layer, "keys", None)
        values: Any = getattr(layer, "values", None)
        if keys is None and values is None:
            # A layer that shares the cache of another one allocates none.
            continue
        if len(getattr(keys, "shape", ())) != 4 or len(getattr(values, "shape", ())) != 4:
            return None
        token = 0
        for part in (keys, values):
            token += int(part.shape[1]) * int(part.shape[3]) * int(part.element_size())
        dtype = dtype or str(keys.dtype).replace("torch.", "")
        if kind in _WINDOW:
            window = getattr(layer, "sliding_window", None) or getattr(layer, "max_cache_len", None)
            if not isinstance(window, int):
                return None
            # The dynamic layer keeps one position fewer than its window: the newest token attends to itself and those.
            fixed += token * (window - 1 if kind == "DynamicSlidingWindowLayer" else window)
        else:
            per_token += token
    if per_token == 0 and fixed == 0:
        return None
    return KvLayout(per_token, fixed, dtype)


def cached_length(cache: Any) -> Optional[int]:
    """Return the columns in the cache if that is known on the host; None where asking would wait for a device."""
    if cache is None:
        return 0
    get = getattr(cache, "get_seq_length", None)
    length = get() if get is not None else None
    # A static cache counts in a tensor on its device: reading it would stall the host.
    return length if type(length) is int else None
