"""What the engine did in each step, as arrays, and how many bytes a stored value takes."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtprof_analyzer.models.weights import Quantization, dtype_bytes

Floats = NDArray[np.float64]
_UNQUANTISED_BYTES = 2.0
"""What quantised models keep beside the packed weights, when the config does not say: 16 bit."""


@dataclass(frozen=True)
class Precision:
    """Bytes of one value: weights, KV cache, activations."""

    weight_bytes: float
    """Of the language model's layers; the mean over scales and values where they are quantised."""
    kv_bytes: float
    activation_bytes: float
    vision_bytes: float | None = None
    """Of the vision tower's weights, where quantisation leaves it alone; None: like the layers."""
    audio_bytes: float | None = None
    head_bytes: float | None = None
    """Of the output head and the embedding table."""

    @classmethod
    def of(
        cls, weights: str | None, kv: str | None = None, quantization: Quantization | None = None
    ) -> "Precision | None":
        """Return the precision of named data types, or None when one is unknown (C14).

        ``kv`` None, ``auto`` or empty means the activations' type, as engines do. Activations of quantised weights are
        16 bit wide. With ``quantization`` the type named is that of what is not quantised.
        """
        weight_bytes = dtype_bytes(weights)
        if weight_bytes is None and quantization is not None:
            weight_bytes = _UNQUANTISED_BYTES
        if weight_bytes is None:
            return None
        activation_bytes = max(weight_bytes, 2.0)
        kv_bytes = activation_bytes if kv in (None, "", "auto") else dtype_bytes(kv)
        if kv_bytes is None:
            return None
        if quantization is None:
            return cls(weight_bytes, kv_bytes, activation_bytes)
        packed = quantization.bytes_per_param
        kept = dict.fromkeys(quantization.kept, activation_bytes)
        return cls(
            packed, kv_bytes, activation_bytes, kept.get("vision"), kept.get("audio"), kept.get("head")
        )

    @property
    def of_vision(self) -> float:
        """Return the bytes of one weight of the vision tower."""
        return self.weight_bytes if self.vision_bytes is None else self.vision_bytes

    @property
    def of_audio(self) -> float:
        """Return the bytes of one weight of the audio tower."""
        return self.weight_bytes if self.audio_bytes is None else self.audio_bytes

    @property
    def of_head(self) -> float:
        """Return the bytes of one weight of the output head and the embedding."""
        return self.weight_bytes if self.head_bytes is None else self.head_bytes


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
    decode_tokens: Floats
    """Tokens that they compute: one each, and with speculative decoding the drafts that are verified; absent: one each."""
    decode_context_tokens: Floats
    decode_visual_tokens: Floats
    encode_items: Floats
    encode_patches: Floats
    encode_attention_pairs: Floats
    encode_tokens: Floats
    """Visual tokens that leave the adapter; 0: derived from the patches."""
    audio_patches: Floats
    audio_attention_pairs: Floats
    audio_tokens: Floats
    prefill_extra_pairs: Floats
    """Pairs beyond the causal ones where image tokens see one another both ways."""
    prefill_cross_tokens: Floats
    """Positions of cross-attention (image or encoder) that are new and leave keys and values."""
    prefill_cross_pairs: Floats
    """Pairs of new text tokens and cross-attention positions."""
    decode_cross_tokens: Floats
    """Cross-attention positions that the decoding requests see."""

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
        filled["decode_tokens"] = np.maximum(filled["decode_tokens"], filled["decode_requests"])
        return cls(**filled)

    def __len__(self) -> int:
        return len(self.count)
