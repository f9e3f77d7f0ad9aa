"""The bundled models are as large as published, count tokens without a file, and say where their numbers come from."""

import pytest

from vtprof_analyzer.models.bundled import Bundled, bundled_models, find_bundled, suggest_models
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import is_text_only, load_spec
from vtprof_analyzer.models.tokens.count import Item, count_items
from vtprof_schemas.errors import ConfigError

MODELS = pytest.mark.parametrize("model", bundled_models(), ids=lambda model: model.name)


def test_there_are_at_least_sixty_of_different_names() -> None:
    names = [model.name.lower() for model in bundled_models()]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@MODELS
def test_its_parameters_are_those_published(model: Bundled) -> None:
    assert model.files.config is not None
    spec = load_spec(model.files.config)
    assert spec.dtype is not None
    assert spec.params.total == spec.params.vision + spec.params.language + spec.params.audio
    if model.params is None:
        assert model.confidence != "high", "nobody published a number to compare with"
        return
    exact = "params" in model.values
    # A number of billions is rounded to the digits it has.
    digits = str(model.values.get("params_b", "")).partition(".")[2]
    room = 0.001 * model.params if exact else max(0.5 * 10.0 ** (9 - len(digits)), 0.001 * model.params)
    assert abs(spec.params.total - model.params) <= room


@MODELS
def test_it_counts_an_image_or_a_clip_without_a_file(model: Bundled) -> None:
    files = model.files
    assert files.config is not None
    if is_text_only(files.config):
        return
    counted = []
    for item in (Item("image", 448, 448), Item("audio", seconds=10.0), Item("video", 224, 224, 8)):
        try:
            counted.append(count_items(files, [item]).tokens)
        except ConfigError:
            continue
    assert any(counted)


@MODELS
def test_it_says_where_its_numbers_come_from(model: Bundled) -> None:
    assert len(model.source) > 20
    assert model.confidence in ("high", "medium", "low")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Qwen2.5-VL-7B", "Qwen2.5-VL-7B"),
        ("qwen2.5-vl-7b-instruct", "Qwen2.5-VL-7B"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B"),
        ("llava-hf/llava-1.5-7b-hf", "LLaVA-1.5-7B"),
        ("google/gemma-3-4b-it", "Gemma-3-4B"),
    ],
)
def test_a_model_is_found_by_what_users_call_it(said: str, name: str) -> None:
    found = find_bundled(said)
    assert found is not None
    assert found.name == name


def test_a_slip_finds_what_was_meant_and_nothing_is_guessed() -> None:
    assert find_bundled("Qwen2.5-VL-8B") is None
    assert "Qwen2.5-VL-7B" in suggest_models("Qwen2.5-VL-8B")
    assert find_bundled("") is None


def test_a_published_file_without_a_model_type_is_known_by_its_class() -> None:
    found = find_bundled("CogVLM2-19B")
    assert found is not None
    config = {**found.values["config"], "architectures": ["CogVLMForCausalLM"]}
    del config["model_type"]
    assert load_spec(config).params == load_spec(found.values["config"]).params
    files = ModelFiles("nameless", config)
    assert (
        count_items(files, [Item("image", 99, 99)]).tokens
        == count_items(found.files, [Item("image", 99, 99)]).tokens
    )
