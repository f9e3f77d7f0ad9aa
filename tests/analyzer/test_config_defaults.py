"""What a config.json leaves out is filled in as transformers does, whatever form the file has."""

import json

import pytest
from refresh_config_defaults import FILE, text

from vtprof_analyzer.models.config_defaults import complete


@pytest.mark.torch
def test_the_bundled_defaults_are_those_of_the_installed_transformers() -> None:
    pytest.importorskip("transformers")
    assert FILE.read_text("utf-8") == text(), "run python tests/analyzer/refresh_config_defaults.py"


def test_sections_that_are_absent_are_those_the_family_chooses() -> None:
    done = complete({"model_type": "llava"})
    # LLaVA-1.5: CLIP ViT-L/14 at 336 pixels, and Llama's own defaults.
    assert (done["vision_config"]["image_size"], done["vision_config"]["hidden_size"]) == (336, 1024)
    assert (done["text_config"]["model_type"], done["text_config"]["hidden_size"]) == ("llama", 4096)


def test_a_section_that_is_given_takes_its_own_types_defaults() -> None:
    done = complete(
        {"model_type": "llava", "text_config": {"model_type": "mistral"}, "vision_config": {"patch_size": 16}}
    )
    assert done["text_config"]["num_key_value_heads"] == 8
    # Not LLaVA's choice of 24 layers, which holds only where the section is absent: CLIP's 12.
    assert (done["vision_config"]["num_hidden_layers"], done["vision_config"]["patch_size"]) == (12, 16)


def test_a_null_that_was_written_is_meant() -> None:
    assert complete({"model_type": "mistral", "sliding_window": None})["sliding_window"] is None
    assert complete({"model_type": "mistral"})["sliding_window"] == 4096


def test_a_flat_config_keeps_its_text_at_the_top() -> None:
    done = complete({"model_type": "qwen2_vl", "hidden_size": 3584, "vision_config": {"depth": 3}})
    assert "text_config" not in done
    assert done["vision_config"]["depth"] == 3


def test_other_spellings_become_the_main_one() -> None:
    # The map of attributes of CLIP-like and GPT-like configs: n_embd is hidden_size.
    assert complete({"model_type": "gpt2", "hidden_size": 64})["n_embd"] == 64


@pytest.mark.parametrize(
    "odd", [{}, {"model_type": 3}, {"model_type": "x" * 999}, {"model_type": "llava", "text_config": 7}]
)
def test_what_no_model_is_comes_back_as_it_is(odd: dict[str, object]) -> None:
    done = complete(odd)
    assert all(done[key] == value for key, value in odd.items())


def test_a_config_nested_in_itself_ends() -> None:
    inner: dict[str, object] = {"model_type": "llava"}
    for _ in range(50):
        inner = {"model_type": "llava", "text_config": inner}
    assert json.dumps(complete(inner))
