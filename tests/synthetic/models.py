"""Vision-language models that synthetic engines serve: the config that a trace carries, and sizes derived from it here."""

from dataclasses import dataclass, field
from typing import Any

_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "temporal_patch_size": 2,
}


@dataclass(frozen=True)
class Model:
    """A model of the Qwen2.5-VL family in bf16."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision: dict[str, Any] = field(default_factory=lambda: _VISION)

    @property
    def config(self) -> dict[str, Any]:
        """Return the ``config.json`` as published, reduced to what sets sizes."""
        return {
            "model_type": "qwen2_5_vl",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "use_sliding_window": False,
            "sliding_window": 32768,
            "max_window_layers": self.layers,
            "vision_config": {**self.vision, "out_hidden_size": self.hidden},
        }

    @property
    def head_width(self) -> int:
        """Return the width of one attention head."""
        return self.hidden // self.heads

    @property
    def linear_parameters(self) -> float:
        """Return the parameters of all layers: q, k, v, o and the gated MLP."""
        attention = self.hidden * (2 * self.heads + 2 * self.kv_heads) * self.head_width
        return float(self.layers * (attention + 3 * self.hidden * self.intermediate))

    @property
    def head_parameters(self) -> float:
        """Return the parameters of the output head."""
        return float(self.hidden * self.vocabulary)

    @property
    def kv_bytes_per_token(self) -> int:
        """Return the bytes of keys and values of one token: 2 x layers x heads x width x 2 B."""
        return 2 * self.layers * self.kv_heads * self.head_width * 2

    @property
    def tower_parameters(self) -> float:
        """Return the parameters of the vision tower's blocks: q, k, v, o and the gated MLP."""
        width = self.vision["hidden_size"]
        return float(self.vision["depth"] * (4 * width**2 + 3 * width * self.vision["intermediate_size"]))

    @property
    def merger_parameters(self) -> float:
        """Return the parameters of the adapter, which runs once for four patches."""
        wide = 4 * self.vision["hidden_size"]
        return float(wide * wide + wide * self.hidden)


QWEN_7B = Model("Qwen/Qwen2.5-VL-7B-Instruct", 3584, 18944, 28, 28, 4, 152064, False)
QWEN_SMALL = Model("small-qwen2.5-vl", 896, 4864, 24, 14, 2, 151936, True)
"""The language model of Qwen2.5-0.5B behind the same tower: so small that launches take longer than its work."""
QWEN_3B = Model("Qwen/Qwen2.5-VL-3B-Instruct", 2048, 11008, 36, 16, 2, 151936, True)


@dataclass(frozen=True)
class Device:
    """A GPU: what well-run kernels attain on it, and what its launches cost."""

    name: str
    flops_per_s: float
    """Data sheet, bf16 dense."""
    bytes_per_s: float
    """Data sheet."""
    eager_launch_s: float = 4.0e-6
    """Between the starts of two kernels that the host launches one by one."""
    graph_launch_s: float = 0.7e-6
    """Within a captured graph, as decoding runs."""
    gemm_ratio: float = 0.70
    """Of the data sheet, what the largest GEMMs attain."""
    copy_ratio: float = 0.88

    @property
    def attainable_flops_per_s(self) -> float:
        """Return what a calibration on this device would measure."""
        return self.flops_per_s * self.gemm_ratio

    @property
    def attainable_bytes_per_s(self) -> float:
        """Likewise, of a large copy."""
        return self.bytes_per_s * self.copy_ratio

    @property
    def ridge(self) -> float:
        """Return the intensity at which arithmetic and memory take equally long [FLOP/B]."""
        return self.attainable_flops_per_s / self.attainable_bytes_per_s


H200 = Device("NVIDIA H200", 989e12, 4.8e12)
A100 = Device("NVIDIA A100-SXM4-80GB", 312e12, 2.039e12)
