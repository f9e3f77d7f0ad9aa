"""Data types and weight formats: how many bytes a stored value takes, quantised weights with their scales included."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vtprof_schemas.errors import DataError

DTYPE_BYTES: dict[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "float8": 1.0,
    "int8": 1.0,
    "float4": 0.5,
    "int4": 0.5,
}
"""Bytes of one stored value, scales and zero points of quantised formats left out."""

_DTYPE_ALIASES: dict[str, str] = {
    "fp32": "float32",
    "float": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp8": "float8",
    "fp8_e4m3": "float8",
    "fp8_e5m2": "float8",
    "float8_e4m3fn": "float8",
    "float8_e5m2": "float8",
    "fp4": "float4",
    "nvfp4": "float4",
}


def canonical_dtype(name: str | None) -> str | None:
    """Return our name of a data type (``torch.bfloat16``, ``bf16`` and ``bfloat16`` are one), or None if unknown."""
    if name is None:
        return None
    short = name.strip().lower().removeprefix("torch.")
    short = _DTYPE_ALIASES.get(short, short)
    return short if short in DTYPE_BYTES else None


def dtype_bytes(name: str | None) -> float | None:
    """Return the bytes of one value of a data type, or None when the type is not known (C14)."""
    canonical = canonical_dtype(name)
    return None if canonical is None else DTYPE_BYTES[canonical]


@dataclass(frozen=True)
class Quantization:
    """Quantised weights as a config's ``quantization_config`` describes them."""

    method: str
    bits: float
    """Of one stored weight, scales not included."""
    group_size: int | None
    """Weights that share a scale; None: a scale per row or matrix, which is too little to count."""
    scale_bits: float
    """Of one group: its scale, and its zero point where there is one."""
    kept: tuple[str, ...] = ()
    """Parts that keep the model's data type: ``vision``, ``audio``, ``head``."""
    compute_dtype: str | None = None
    """Data type of the arithmetic where activations are quantised too (float8, int8, float4); None: weights only."""

    @property
    def bytes_per_param(self) -> float:
        """Return the bytes of one quantised weight with its share of the scales."""
        scales = self.scale_bits / self.group_size if self.group_size else 0.0
        return (self.bits + scales) / 8.0


def quantization(section: Any) -> Quantization | None:
    """Read a ``quantization_config``; None where there is none or where it quantises no weights.

    Raises `DataError` of one line for a method that is not known (C14) and for a field at fault.
    """
    if section is None or section == {}:
        return None
    if not isinstance(section, Mapping):
        raise DataError(
            f"model config: quantization_config is {type(section).__name__} instead of an object;"
            " use the config.json of the model as published"
        )
    from vtprof_analyzer.models import quantizers  # which needs the class above

    return quantizers.read(section)
