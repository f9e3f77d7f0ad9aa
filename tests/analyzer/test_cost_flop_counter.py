"""FLOPs against torch's own counter: every matmul of the real modules, eager attention, on the meta device or CPU."""

import copy
from typing import Any

import pytest
from qwen_configs import TINY_2, TINY_2_5

from vtprof_analyzer.cost.steps import step_costs
from vtprof_analyzer.cost.work import Precision, StepWork
from vtprof_analyzer.models.registry import load_spec

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FP32 = Precision(4.0, 4.0, 4.0)
PREFIXES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}
CONFIGS = pytest.mark.parametrize("config", [TINY_2, TINY_2_5], ids=["qwen2_vl", "qwen2_5_vl"])


def build(config: dict[str, Any]) -> Any:
    prefix = PREFIXES[config["model_type"]]
    built = getattr(transformers, prefix + "Config")(**copy.deepcopy(config), attn_implementation="eager")
    return getattr(transformers, prefix + "ForConditionalGeneration")(built).eval()


def counted(call: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@CONFIGS
def test_prefill_flops_within_one_percent(config: dict[str, Any]) -> None:
    model, tokens = build(config), 96
    ids = torch.randint(3, 500, (2, tokens))
    measured = counted(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1))
    work = StepWork.of(
        prefill_requests=2, prefill_tokens=2 * tokens, prefill_attention_pairs=tokens * (tokens + 1)
    )
    part = step_costs(load_spec(config), work, FP32, full_attention=True).prefill
    assert part.flops[0] == pytest.approx(measured, rel=0.01)


@CONFIGS
def test_decode_flops_within_one_percent(config: dict[str, Any]) -> None:
    model, context = build(config), 80
    with torch.no_grad():
        cache = model(input_ids=torch.randint(3, 500, (1, context)), use_cache=True).past_key_values
    ids = torch.randint(3, 500, (1, 1))
    measured = counted(lambda: model(input_ids=ids, past_key_values=cache, use_cache=True))
    work = StepWork.of(decode_requests=1, decode_context_tokens=context)
    part = step_costs(load_spec(config), work, FP32).decode
    assert part.flops[0] == pytest.approx(measured, rel=0.01)


@CONFIGS
@pytest.mark.parametrize("grids", [[(1, 16, 16)], [(1, 16, 24), (2, 8, 16)]])
def test_encode_flops_within_one_percent(config: dict[str, Any], grids: list[tuple[int, int, int]]) -> None:
    model = build(config)
    patches = sum(t * h * w for t, h, w in grids)
    pixels = torch.randn(patches, 3 * 2 * 14 * 14)
    measured = counted(lambda: model.model.visual(pixels, grid_thw=torch.tensor(grids)))
    work = StepWork.of(
        encode_items=len(grids),
        encode_patches=patches,
        encode_attention_pairs=sum(t * (h * w) ** 2 for t, h, w in grids),
    )
    part = step_costs(load_spec(config), work, FP32).encode
    # Torch counts the patch embedding as a convolution and windows of 8x8 patches exactly: these grids are whole windows.
    assert part.flops[0] == pytest.approx(measured, rel=0.01)
