"""Calls that are no plain request: several sequences, nested and uncached calls, several models, dropped models."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from probe_doubles import ListRing

import vtprof_probe
from vtprof_schemas import names

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vtprof_analyzer.demo import tiny_model  # noqa: E402

pytestmark = pytest.mark.torch

KV_BYTES = 2 * 4 * 2 * 64 * 4
"""Key and value x 4 layers x 2 KV heads x head size 64 x 4 bytes."""
PROMPT = 12


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model.build_model()


@pytest.fixture
def ring() -> Iterator[ListRing]:
    ring = ListRing()
    assert vtprof_probe.enable(open_ring=lambda: ring)
    yield ring
    vtprof_probe.disable()
    assert ring.hook_errors == 0


def generate(model: Any, tokens: int = 4, **options: Any) -> Any:
    ids = torch.arange(PROMPT).reshape(1, PROMPT)
    with torch.inference_mode():
        return model.generate(input_ids=ids, max_new_tokens=tokens, min_new_tokens=tokens, **options)


def held(ring: ListRing) -> tuple[int, int]:
    kv = ring.one("request_kv")
    return kv["tokens"], kv["tokens"] * kv["bytes_per_token"] + kv["fixed_bytes"]


def test_kv_of_a_request_is_its_prompt_and_all_tokens_but_the_last(model: Any, ring: ListRing) -> None:
    cache = generate(model, 4, return_dict_in_generate=True).past_key_values
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held(ring) == (PROMPT + 3, (PROMPT + 3) * KV_BYTES) == (PROMPT + 3, allocated)


def test_every_returned_sequence_holds_the_prompt(model: Any, ring: ListRing) -> None:
    result = generate(model, 4, num_return_sequences=3, do_sample=True, return_dict_in_generate=True)
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in result.past_key_values.layers)
    assert held(ring) == (3 * (PROMPT + 3), allocated)
    assert ring.one("request_finished")["output_tokens"] == 12


def test_every_beam_holds_the_prompt(model: Any, ring: ListRing) -> None:
    result = generate(model, 4, num_beams=2, return_dict_in_generate=True)
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in result.past_key_values.layers)
    assert held(ring) == (2 * (PROMPT + 3), allocated)


def test_without_a_cache_nothing_is_held_and_the_next_call_is_measured_again(
    model: Any, ring: ListRing
) -> None:
    generate(model, 3, use_cache=False)
    assert held(ring) == (0, 0)
    ring.rows.clear()
    generate(model, 3)
    assert held(ring) == (PROMPT + 2, (PROMPT + 2) * KV_BYTES)


def test_a_call_within_a_call_leaves_the_outer_one_alone(model: Any, ring: ListRing) -> None:
    from transformers import LogitsProcessor, LogitsProcessorList

    class Asks(LogitsProcessor):  # type: ignore[misc]
        asked = False

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            if not self.asked:
                self.asked = True
                generate(model, 5)
            return scores

    generate(model, 4, logits_processor=LogitsProcessorList([Asks()]))
    assert len(ring.of("request_arrived")) == 1
    assert [step["prefill_tokens"] for step in ring.of("step")] == [PROMPT, 0, 0, 0]


def test_a_dropped_model_is_freed(ring: ListRing) -> None:
    dropped = tiny_model.build_model()
    generate(dropped, 2)
    alive = weakref.ref(dropped)
    del dropped
    gc.collect()
    assert alive() is None


def test_two_models_in_one_process_are_told_apart(model: Any, ring: ListRing) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = tiny_model.build_config()
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    config._name_or_path = "half"
    other = Qwen2_5_VLForConditionalGeneration(config).eval()
    generate(model, 3)
    generate(other, 3)
    generate(model, 3)
    assert [kv["bytes_per_token"] for kv in ring.of("request_kv")] == [KV_BYTES, KV_BYTES // 2, KV_BYTES]
    named = [row["text"][: row["length"]].decode() for row in ring.of("request_model")]
    assert named == ["half", tiny_model.MODEL_NAME]
    # One header cannot hold two configurations.
    assert ring.info[names.MODEL_CONFIG] == ""


def test_inputs_of_an_unknown_kind_cost_the_items_and_not_the_request(model: Any) -> None:
    ring = ListRing()
    assert vtprof_probe.enable(open_ring=lambda: ring)
    try:
        with pytest.raises(AttributeError):
            generate(model, 2, pixel_values=torch.zeros(4, 1176), image_grid_thw=[[1, 2, 2]])
    finally:
        vtprof_probe.disable()
    assert [name for name, _ in ring.rows].count("request_finished") == 1
