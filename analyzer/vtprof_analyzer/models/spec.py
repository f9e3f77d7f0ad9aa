"""What the cost model needs to know of a model: layer groups, widths and parameter counts, free of any family's names.

A family file turns a Hugging Face config into a `ModelSpec`; layers that cost the same stand in one group, so that a
model with several kinds of layers is a tuple with several entries.
"""

from dataclasses import dataclass

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
class Attention:
    """Attention of one layer."""

    query_heads: int
    kv_heads: int
    head_dim: int
    window_tokens: int | None = None
    """Cached tokens that a query can see; None is all of them."""

    @property
    def query_width(self) -> int:
        """Return values of one token's queries: ``n_q * d_h``, which need not equal the hidden size (C6)."""
        return self.query_heads * self.head_dim

    @property
    def kv_values_per_token(self) -> int:
        """Return values that one token leaves in this layer's cache: keys and values (C6)."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class LayerGroup:
    """Like layers of the language model."""

    layers: int
    attention: Attention
    linear_params: int
    """Weights of one layer that multiply every token."""
    other_params: int
    """Norms and biases of one layer: read, but no GEMM."""
    activation_values: int
    """Values that one token reads and writes in one layer when every GEMM passes over its in- and output once."""


@dataclass(frozen=True)
class LanguageModel:
    """Decoder, embedding and output head."""

    hidden_size: int
    vocab_size: int
    groups: tuple[LayerGroup, ...]
    final_params: int
    """Parameters after the last layer and before the head: the final norm."""
    tied_embeddings: bool

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return sum(group.layers for group in self.groups)

    @property
    def linear_params(self) -> int:
        """Return weights that multiply every token, head excluded: the parameters of C3."""
        return sum(group.layers * group.linear_params for group in self.groups)

    @property
    def head_params(self) -> int:
        """Return weights of the output head, whether or not they are the embedding's."""
        return self.hidden_size * self.vocab_size

    @property
    def params(self) -> int:
        """Return all parameters; a tied matrix counts once."""
        layers = sum(group.layers * (group.linear_params + group.other_params) for group in self.groups)
        return layers + self.final_params + self.head_params * (1 if self.tied_embeddings else 2)

    @property
    def read_params(self) -> int:
        """Return parameters read in one iteration: all but the embedding table, of which only rows are looked up."""
        return self.params - (0 if self.tied_embeddings else self.head_params)


@dataclass(frozen=True)
class TowerGroup:
    """Like layers of the vision tower."""

    layers: int
    attention_width: int
    linear_params: int
    other_params: int
    activation_values: int
    """Values that one patch reads and writes in one layer."""
    window_patches: int | None = None
    """Patches of a full attention window; None is the whole image (of a video: one temporal patch)."""


@dataclass(frozen=True)
class VisionTower:
    """Vision encoder with its adapter."""

    patch_pixels: int
    """Side of a patch."""
    temporal_patch_frames: int
    merge_patches: int
    """Side of the square of patches that becomes one token."""
    hidden_size: int
    patch_params: int
    """Weights that multiply every patch before the first layer: the patch embedding, a GEMM."""
    groups: tuple[TowerGroup, ...]
    adapter_linear_params: int
    """Weights that multiply every visual token (not patch)."""
    adapter_other_params: int
    adapter_activation_values: int
    """Values that one visual token reads and writes in the adapter."""
    patch_values: int
    """Input values of one patch: channels x frames x side squared (F4)."""

    @property
    def patches_per_token(self) -> int:
        """Return patches that become one visual token."""
        return self.merge_patches**2

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return sum(group.layers for group in self.groups)

    @property
    def params(self) -> int:
        """Return all parameters, adapter included."""
        layers = sum(group.layers * (group.linear_params + group.other_params) for group in self.groups)
        return self.patch_params + layers + self.adapter_linear_params + self.adapter_other_params


@dataclass(frozen=True)
class Params:
    """Parameter counts as `vtprof estimate` prints them; ``vision`` includes the adapter."""

    total: int
    vision: int
    language: int
    active: int
    """Total less the experts that a token is not routed to."""


@dataclass(frozen=True)
class ModelSpec:
    """One model."""

    model_type: str
    vision: VisionTower
    language: LanguageModel
    dtype: str | None
    """Data type that the config names, in our spelling; None where it names none we know."""

    @property
    def params(self) -> Params:
        """Return the parameter counts."""
        vision, language = self.vision.params, self.language.params
        return Params(vision + language, vision, language, vision + language)
