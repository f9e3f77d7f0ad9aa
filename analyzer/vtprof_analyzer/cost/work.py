"""What the engine did in each step, as arrays, and how many bytes a stored value takes."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtprof_analyzer.models.spec import dtype_bytes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Precision:
    """Bytes of one value: weights, KV cache, activations."""

    weight_bytes: float
    kv_bytes: float
    activation_bytes: float

    @classmethod
    def of(cls, weights: str | None, kv: str | None = None) -> "Precision | None":
        """Return the precision of named data types, or None when one is unknown (C14).

        ``kv`` None, ``auto`` or empty means the activations' type, as engines do. Activations of quantised weights are
        16 bit wide.
        """
        weight_bytes = dtype_bytes(weights)
        if weight_bytes is None:
            return None
        activation_bytes = max(weight_bytes, 2.0)
        kv_bytes = activation_bytes if kv in (None, "", "auto") else dtype_bytes(kv)
        return None if kv_bytes is None else cls(weight_bytes, kv_bytes, activation_bytes)


@dataclass(frozen=True)
class StepWork:
    """Composition of steps, one entry each; the fields are those of the spans ``vtprof.step`` and ``vtprof.window``.

    All are sums over the iterations folded into the entry; ``count`` says how many these are. Attention pairs are
    causal query-key pairs over sequences; ``encode_attention_pairs`` is the sum of patches squared per image.
    """

    count: Floats
    prefill_requests: Floats
    prefill_tokens: Floats
    prefill_visual_tokens: Floats
    prefill_attention_pairs: Floats
    prefill_visual_attention_pairs: Floats
    decode_requests: Floats
    decode_context_tokens: Floats
    decode_visual_tokens: Floats
    encode_items: Floats
    encode_patches: Floats
    encode_attention_pairs: Floats

    @classmethod
    def of(cls, **columns: ArrayLike) -> Self:
        """Build from columns of equal length; absent columns are 0, ``count`` is 1.

        Missing values (NaN) count as 0 and negative ones too: a broken record may not turn a sum negative.
        """
        known = [field.name for field in fields(cls)]
        unknown = set(columns) - set(known)
        if unknown:
            raise TypeError(f"unknown columns of steps: {', '.join(sorted(unknown))}")
        arrays = {name: np.atleast_1d(np.asarray(column, np.float64)) for name, column in columns.items()}
        length = max((len(array) for array in arrays.values()), default=0)
        filled = {
            name: np.clip(np.nan_to_num(np.broadcast_to(arrays[name], (length,)), nan=0.0), 0.0, None)
            if name in arrays
            else np.full(length, 1.0 if name == "count" else 0.0)
            for name in known
        }
        filled["count"] = np.maximum(filled["count"], 1.0)
        return cls(**filled)

    def __len__(self) -> int:
        return len(self.count)
