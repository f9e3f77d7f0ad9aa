"""The hooks on other families and caches: LLaVA, sliding windows, text-only models, compiled calls."""

from collections.abc import Iterator
from typing import Any

import pytest
from probe_doubles import ListRing

import vtprof_probe
from vtprof_schemas import names

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

IMAGE_TOKEN = 60
TEXT_CONFIG = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def ring() -> Iterator[ListRing]:
    ring = ListRing()
    assert vtprof_probe.enable(open_ring=lambda: ring)
    yield ring
    vtprof_probe.disable()
    assert ring.hook_errors == 0


def tiny_llava(text_type: str = "llama", **text_options: Any) -> Any:
    config = transformers.LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16,
        },
        text_config={"model_type": text_type, **TEXT_CONFIG, **text_options},
        image_token_index=IMAGE_TOKEN, image_token_id=IMAGE_TOKEN,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config).eval()


def test_llava_counts_by_its_own_placeholder_and_patch_size(ring: ListRing) -> None:
    # 28 x 28 pixels are 2 x 2 patches of 14, one LLM position each.
    model = tiny_llava()
    ids = torch.tensor([[5, 6, *[IMAGE_TOKEN] * 4, 7, *[IMAGE_TOKEN] * 4, 8]])
    with torch.inference_mode():
        model.generate(
            input_ids=ids, pixel_values=torch.zeros(2, 3, 28, 28), max_new_tokens=3, min_new_tokens=3
        )
    prompt, encode, prefill = ring.one("request_input"), ring.one("encode"), ring.one("prefill")
    assert (prompt["input_tokens"], prompt["text_tokens"], prompt["image_tokens"]) == (12, 4, 8)
    assert prompt["image_items"] == encode["items"] == 2
    assert (encode["patches"], encode["attention_pairs"]) == (8, 2 * 4**2)
    assert prefill["visual_attention_pairs"] == (3 + 4 + 5 + 6) + (8 + 9 + 10 + 11)
    assert [step["decode_context_tokens"] for step in ring.of("step")] == [0, 12, 13]
    # Without a processor call the request begins with generate itself.
    assert ring.one("request_arrived")["time_ns"] == ring.of("step")[0]["start_ns"]
    assert ring.info[names.KV_BYTES_PER_TOKEN] == 2 * 2 * 2 * 8 * 4


def test_sliding_windows_cost_a_fixed_amount_and_nothing_a_token(ring: ListRing) -> None:
    model = tiny_llava("mistral", sliding_window=8)
    with torch.inference_mode():
        model.generate(input_ids=torch.arange(3, 23)[None], max_new_tokens=3, min_new_tokens=3)
    # Two layers keep 7 positions (their window without the newest token) of 2 x 2 heads x 8 x 4 bytes.
    assert ring.info[names.KV_BYTES_PER_TOKEN] == 0
    assert ring.info[names.KV_FIXED_BYTES] == 2 * 7 * (2 * 2 * 8 * 4)
    assert [step["decode_context_tokens"] for step in ring.of("step")] == [0, 20, 21]


def test_static_cache_is_followed_without_asking_it(ring: ListRing) -> None:
    model = tiny_llava()
    with torch.inference_mode():
        model.generate(
            input_ids=torch.arange(3, 13)[None],
            max_new_tokens=3,
            min_new_tokens=3,
            cache_implementation="static",
        )
    assert [step["decode_context_tokens"] for step in ring.of("step")] == [0, 10, 11]
    assert ring.info[names.KV_BYTES_PER_TOKEN] == 2 * 2 * 2 * 8 * 4


def test_text_only_model_passes_through(ring: ListRing) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT_CONFIG)).eval()
    with torch.inference_mode():
        model.generate(input_ids=torch.arange(3, 13)[None], max_new_tokens=3)
    assert ring.rows == []


def test_compiled_call_is_a_step_as_a_whole(ring: ListRing, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llava()
    # What torch.compile would return, without its compiler: a function of its own around the model's call.
    monkeypatch.setattr(
        torch, "compile", lambda call, **_options: lambda *args, **kwargs: call(*args, **kwargs)
    )
    monkeypatch.setattr(type(model), "_valid_auto_compile_criteria", lambda *_args: True, raising=False)
    with torch.inference_mode():
        model.generate(input_ids=torch.arange(3, 13)[None], max_new_tokens=4, min_new_tokens=4)
    assert [step["decode_context_tokens"] for step in ring.of("step")] == [0, 10, 11, 12]
