"""Configs of every family, broken at random: a count or one line, never a traceback, never a wait."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.cost.estimate import Workload, estimate, square_item
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.bundled import Bundled, bundled_models
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.known import FAMILIES, TOKEN_RULES
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.text.registry import DECODERS
from vtprof_analyzer.models.tokens.count import Item, count_items
from vtprof_schemas.errors import VtprofError

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**40, 2**64, 10**400, 0.5, -2.5, float("nan"), float("inf")]),
    st.sampled_from(["", "7", "llama", "siglip_vision_model", "auto", "x" * 500]),
    st.lists(st.one_of(st.integers(-3, 99), st.text(max_size=3), st.none()), max_size=4),
    st.just([[[[]]]]),
    st.just({}),
    st.dictionaries(st.sampled_from(["height", "width", "shortest_edge", "longest_edge"]), st.integers(-9, 9999)),
)  # fmt: skip
KINDS = sorted({*FAMILIES, *TOKEN_RULES, *DECODERS})
ITEMS = (
    Item("image", 333, 777),
    Item("video", 480, 640, 9),
    Item("audio", seconds=3.7),
    Item("image", 1, 150),
)
PARTS = ("config", "preprocessor", "video_preprocessor", "processor")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], odd: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = odd


def ask(files: ModelFiles) -> None:
    """Do with files what the commands do; what a user did wrong is one short line."""
    try:
        assert files.config is not None
        spec = load_spec(files.config)
        workload = Workload(10, (square_item(spec, 100),) if spec.vision else ())
        estimate(spec, Precision(2.0, 2.0, 2.0), workload)
    except VtprofError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600
    for item in ITEMS:
        try:
            counted = count_items(files, [item])
        except VtprofError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 600
        else:
            assert counted.tokens >= 0
            assert counted.extra_tokens >= 0


@settings(max_examples=400)
@given(st.sampled_from(bundled_models()), st.data())
def test_a_broken_field_of_a_released_model_is_one_line_at_most(model: Bundled, data: st.DataObject) -> None:
    parts = {
        part: copy.deepcopy(dict(model.values[part])) if part in model.values else None for part in PARTS
    }
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([part for part in PARTS if parts[part]]))
        path = data.draw(st.sampled_from(places(parts[part])))
        try:
            put(parts[part], path, data.draw(ODD))
        except (KeyError, TypeError):
            continue  # the first change took the second's place away
    ask(ModelFiles("broken", *(parts[part] for part in PARTS)))  # type: ignore[arg-type]


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.data())
def test_a_config_of_random_fields_is_one_line_at_most(kind: str, data: st.DataObject) -> None:
    keys = st.sampled_from([
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "head_dim",
        "intermediate_size", "patch_size", "image_size", "layer_types", "sliding_window", "num_experts", "size",
        "quantization_config", "tie_word_embeddings", "text_config", "vision_config", "audio_config", "model_type",
        "num_local_experts", "num_experts_per_tok", "kv_lora_rank", "image_grid_pinpoints", "llm_config", "visual",
    ])  # fmt: skip
    section = st.dictionaries(keys, ODD, max_size=5)
    config = data.draw(st.dictionaries(keys, st.one_of(ODD, section), max_size=6))
    ask(ModelFiles("random", {**config, "model_type": kind}, data.draw(st.one_of(st.none(), section))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_of_nothing_but_its_type_is_one_line_at_most(kind: str) -> None:
    ask(ModelFiles("bare", {"model_type": kind}))
    ask(
        ModelFiles(
            "bare", json.loads(json.dumps({"model_type": kind, "vision_config": {}, "text_config": {}}))
        )
    )
