"""Models without a class in transformers: tokens, KV bytes and parameters of config fixtures against hand calculation.

Each test is a row of the checklist of systems; the arithmetic stands beside the number. KV bytes are of two-byte values.
"""

import json
import math
from importlib import resources
from typing import Any

import pytest

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter, load_spec
from vtprof_analyzer.models.spec import ModelSpec

CATALOGUES = ("phi_deepseek", "minicpm_molmo", "classic")


def entries() -> dict[str, dict[str, Any]]:
    """Return the bundled models of these families by name."""
    folder = resources.files("vtprof_analyzer.models").joinpath("catalogue")
    found: dict[str, dict[str, Any]] = {}
    for name in CATALOGUES:
        found.update(json.loads(folder.joinpath(f"{name}.json").read_text("utf-8")))
    return found


def kv_bytes(spec: ModelSpec) -> int:
    """Return the bytes that a token leaves in the caches of layers of self-attention."""
    return 2 * sum(
        group.layers * group.attention.kv_values_per_token
        for group in spec.language.groups
        if not group.attention.cross
    )


def model(name: str) -> tuple[ModelSpec, ModelFiles]:
    """Return a bundled model's spec and files."""
    entry = entries()[name]
    files = ModelFiles(name, entry["config"], entry.get("preprocessor"), None, entry.get("processor"))
    return load_spec(entry["config"]), files


# Name, tokens of a 1024 x 1024 image, KV bytes a token, parameters.
LLAMA_7B = 2 * 32 * 32 * 128 * 2
ROWS: dict[str, tuple[str, int, int, float]] = {
    "S058 Moondream": ("Moondream2", 27 * 27, 2 * 24 * 2048 * 2, 1_857_482_608),
    # Grouped queries: 8 heads of 128.
    "S060 CogVLM2": ("CogVLM2-19B", 48 * 48 + 2, 2 * 32 * 8 * 128 * 2, 19.503e9),
    "S052 DeepSeek-VL2": ("DeepSeek-VL2", 2017, 30 * (512 + 64) * 2, 27.48e9),
    "S052 DeepSeek-VL2-tiny": ("DeepSeek-VL2-tiny", 2017, 2 * 12 * 1280 * 2, 3.37e9),
    "S063 InternLM-XComposer2": (
        "InternLM-XComposer2-VL-7B",
        35 * 35,
        2 * 32 * 8 * 128 * 2,
        # InternLM2-7B, CLIP ViT-L/14 with 35 x 35 + 1 positions, two matrices, and 256 of rank beside every matrix.
        7_737_708_544
        + (303_507_456 + (1226 - 577) * 1024)
        + (1024 * 4096 + 4096**2 + 2 * 4096)
        + 32 * 256 * ((4096 + 6144) + 2 * 4096 + 3 * (4096 + 14336)),
    ),
    "S064 Ovis": ("Ovis2-8B", 2560, 2 * 28 * 4 * 128 * 2, 8.94e9),
    "S065 BLIP-2": ("BLIP-2-OPT-2.7B", 32, 2 * 32 * 2560 * 2, 3.744e9),
    "S066 InstructBLIP": ("InstructBLIP-Vicuna-7B", 32, LLAMA_7B, 7.914e9),
    # Llama 7B, EVA ViT-g of BLIP-2, its Q-Former, 768 x 4096 and a bias.
    "S067 MiniGPT-4": (
        "MiniGPT-4-7B",
        32,
        LLAMA_7B,
        6_738_415_616 + 985_952_256 + 105_137_664 + 768 * 4096 + 4096,
    ),
    # Positions of 32 x 32 patches in place of 16 x 16; four patches side by side.
    "S068 MiniGPT-v2": (
        "MiniGPT-v2-7B",
        256,
        LLAMA_7B,
        6_738_415_616 + 985_952_256 + 768 * 1408 + 4 * 1408 * 4096 + 4096,
    ),
    "S069 mPLUG-Owl2": ("mPLUG-Owl2-7B", 65, LLAMA_7B, 8.2e9),
    "S070 Honeybee": ("Honeybee-C-7B", 144, LLAMA_7B, 7.08e9),
    "S076 Video-LLaMA": ("Video-LLaMA-7B", 32, LLAMA_7B, 7.85e9),
    "S081 VideoChat": ("VideoChat-7B", 96, LLAMA_7B, 7.83e9),
}


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    name, tokens, kv, params = ROWS[row]
    spec, files = model(name)
    assert load_counter(files).image(1024, 1024).tokens == tokens
    assert kv_bytes(spec) == kv
    assert spec.params.total == pytest.approx(params, rel=1e-3)


@pytest.mark.parametrize(
    "name", ["BLIP-2-OPT-2.7B", "MiniGPT-4-7B", "mPLUG-Owl2-7B", "Honeybee-C-7B", "Kosmos-2"]
)
def test_s103_s105_s106_queries_are_as_many_at_every_size(name: str) -> None:
    _, files = model(name)
    counter = load_counter(files)
    assert len({counter.image(*size).tokens for size in ((28, 28), (100, 2000), (4096, 4096))}) == 1


@pytest.mark.parametrize(("name", "tokens"), [("Video-LLaMA-7B", 32), ("VideoChat-7B", 96)])
def test_s104_video_queries_are_as_many_for_every_clip(name: str, tokens: int) -> None:
    _, files = model(name)
    counter = load_counter(files)
    assert [counter.video(frames, 224, 224).tokens for frames in (1, 8, 64)] == [tokens] * 3


def test_s066_the_instruction_is_said_to_matter() -> None:
    spec, _ = model("InstructBLIP-Vicuna-7B")
    assert any("cannot be shared" in note for note in spec.notes)
    assert not model("BLIP-2-OPT-2.7B")[0].notes


def test_s060_s063_extra_weights_are_visual_tokens_own() -> None:
    spec, _ = model("CogVLM2-19B")
    (group,) = spec.language.groups
    assert group.visual_linear_params == group.linear_params
    spec, _ = model("InternLM-XComposer2-VL-7B")
    (group,) = spec.language.groups
    assert group.visual_linear_params == 256 * ((4096 + 6144) + 2 * 4096 + 3 * (4096 + 14336))


def test_s072_flamingo_keeps_keys_of_its_latents_in_cross_attention_only() -> None:
    spec, files = model("OpenFlamingo-9B")
    crossed = [group for group in spec.language.groups if group.attention.cross]
    # A layer before every fourth of 32, 8 heads of 64: 2 x 512 values of each of 64 latents.
    assert [group.layers for group in crossed] == [8]
    assert crossed[0].attention.kv_values_per_token == 2 * 8 * 64
    assert load_counter(files).image(1024, 1024).tokens == 64


def test_s106_c_abstractor_has_a_chosen_number_of_tokens() -> None:
    config = entries()["Honeybee-C-7B"]["config"]
    for queries in (64, 144, 256):
        chosen = {**config, "projector_config": {**config["projector_config"], "num_query_tokens": queries}}
        assert load_counter(ModelFiles("folder", chosen)).image(100, 900).tokens == queries
        tower = load_spec(chosen).vision
        assert tower is not None
        assert [stage.queries for stage in tower.adapter] == [0, queries, queries]


@pytest.mark.parametrize(
    "name", [name for name, entry in entries().items() if "params" in entry or "params_b" in entry]
)
def test_published_parameters(name: str) -> None:
    entry = entries()[name]
    total = load_spec(entry["config"]).params.total
    published = entry.get("params") or entry["params_b"] * 1e9
    # Where it is rounded, to three digits at least: half of the third counts beside the 0.1 %.
    rounding = 0.0 if "params" in entry else 0.5 * 10.0 ** (math.floor(math.log10(published)) - 2)
    assert total == pytest.approx(published, abs=1e-3 * published + rounding)


@pytest.mark.parametrize("name", [name for name, entry in entries().items() if "params" in entry])
def test_published_parameters_to_the_last_one(name: str) -> None:
    assert load_spec(entries()[name]["config"]).params.total == entries()[name]["params"]


def test_phi_4_has_low_rank_matrices_for_images_and_speech() -> None:
    spec, files = model("Phi-4-multimodal")
    # Ranks 256 and 320 beside qkv (3072 to 5120), output, gate with up (to 16384) and down, in 32 layers.
    sides = (3072 + 5120) + (3072 + 3072) + (3072 + 16384) + (8192 + 3072)
    plain = load_spec({**entries()["Phi-4-multimodal"]["config"], "model_type": "phi4_multimodal"})
    assert spec.params.total - plain.params.total == 32 * (256 + 320) * sides
    assert spec.audio is not None
    assert load_counter(files).audio(8.0).tokens > 0
