"""A VllmConfig and KV cache configs as the scheduler holds them; specs are told apart by the names of their classes."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class KVCacheSpec:
    """One layer's cache."""

    block_size: int
    page_size_bytes: int
    dtype: str = "torch.bfloat16"


@dataclass
class FullAttentionSpec(KVCacheSpec):
    """All tokens."""


@dataclass
class MLAAttentionSpec(FullAttentionSpec):
    """All tokens, one latent vector each."""


@dataclass
class SlidingWindowSpec(KVCacheSpec):
    """The last tokens."""

    sliding_window: int = 0


@dataclass
class MambaSpec(KVCacheSpec):
    """A state."""

    def max_memory_usage_bytes(self, config: Any) -> int:
        return self.page_size_bytes


@dataclass
class EncoderOnlyAttentionSpec(KVCacheSpec):
    """Nothing is kept."""


class ModelConfig:
    """A Hugging Face configuration."""

    model_type = "qwen2_5_vl"

    def to_dict(self) -> dict[str, Any]:
        return {"hidden_size": 256, "architectures": ["Qwen2_5_VLForConditionalGeneration"]}

    to_diff_dict = to_dict


@dataclass
class Tensor:
    """An allocation, as versions before 0.33 describe it."""

    size: int
    shared_by: list[str] = field(default_factory=list)


def vllm_config(**parallel: Any) -> SimpleNamespace:
    """Return a configuration; ``parallel`` are sizes other than 1."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=ModelConfig(),
            dtype="torch.bfloat16",
            served_model_name=["tiny", "alias"],
            max_model_len=4096,
            enforce_eager=True,
            multimodal_config=SimpleNamespace(mm_encoder_tp_mode="data", mm_processor_cache_gb=4.0),
        ),
        parallel_config=SimpleNamespace(
            **{"data_parallel_rank": 0, "tensor_parallel_size": 1, "pipeline_parallel_size": 1} | parallel
        ),
        cache_config=SimpleNamespace(cache_dtype="auto", enable_prefix_caching=True),
        scheduler_config=SimpleNamespace(
            max_num_batched_tokens=2048, max_num_seqs=16, async_scheduling=False
        ),
        device_config=SimpleNamespace(device_type="cpu"),
        speculative_config=None,
    )


def kv_config(*groups: tuple[Any, int], blocks: int = 100, tensors: tuple[Any, ...] = ()) -> SimpleNamespace:
    """Return a KV cache config of groups, each a spec and its count of layers."""
    return SimpleNamespace(
        num_blocks=blocks,
        kv_cache_tensors=list(tensors),
        kv_cache_groups=[
            SimpleNamespace(kv_cache_spec=spec, layer_names=[f"layer.{index}" for index in range(layers)])
            for spec, layers in groups
        ],
    )
