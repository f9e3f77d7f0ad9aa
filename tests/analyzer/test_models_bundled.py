"""The bundled models are as large as published, count tokens without a file, and say where their numbers come from."""

import pytest

from vtprof_analyzer.models import names
from vtprof_analyzer.models.bundled import Bundled, bundled_models, find_bundled, known_keys, suggest_models
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.find import find_model
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
        ("gemma3:27b", "Gemma-3-27B"),
        ("gemma3-27b", "Gemma-3-27B"),
        ("gemma3n:e4b", "Gemma-3n-E4B"),
        ("Qwen2_5-VL-7B", "Qwen2.5-VL-7B"),
        ("qwen2.5vl:7b", "Qwen2.5-VL-7B"),
        ("qwen25vl7b", "Qwen2.5-VL-7B"),
        ("https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B"),
        ("Qwen3-VL-30B", "Qwen3-VL-30B-A3B"),
        ("qwen3vl30ba3b", "Qwen3-VL-30B-A3B"),
        ("llava1.5-7b", "LLaVA-1.5-7B"),
        ("Llama 3.2 11B Vision", "Llama-3.2-11B-Vision"),
        ("llama3.2-vision:11b", "Llama-3.2-11B-Vision"),
        ("mistralai/Pixtral-12B-2409", "Pixtral-12B"),
        ("minicpmv2.6", "MiniCPM-V-2.6"),
        ("deepseekvl2", "DeepSeek-VL2"),
        ("SmolVLM-Instruct", "SmolVLM-2.2B"),
        ("whisper_base", "whisper-base"),
        ("Kimi-VL-A3B-Thinking", "Kimi-VL-A3B"),
        ("Kimi-VL-A3B-Thinking-2506", "Kimi-VL-A3B-Thinking-2506"),
    ],
)
def test_a_model_is_found_by_what_users_call_it(said: str, name: str) -> None:
    found = find_bundled(said)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Qwen2.5-VL-7B-Instruct-AWQ", "Qwen2.5-VL-7B"),
        ("Qwen/Qwen2-VL-7B-Instruct-GPTQ-Int4", "Qwen2-VL-7B"),
        ("unsloth/Qwen2.5-VL-7B-Instruct-unsloth-bnb-4bit", "Qwen2.5-VL-7B"),
        ("RedHatAI/Qwen2.5-VL-7B-Instruct-quantized.w4a16", "Qwen2.5-VL-7B"),
        ("Qwen2.5-VL-72B-Instruct-FP8-dynamic", "Qwen2.5-VL-72B"),
        ("openbmb/MiniCPM-V-2_6-int4", "MiniCPM-V-2.6"),
        ("gemma3:27b-it-q4_K_M", "Gemma-3-27B"),
        ("ggml-org/SmolVLM2-2.2B-Instruct-GGUF:Q4_K_M", "SmolVLM2-2.2B"),
    ],
)
def test_a_quantised_variant_is_the_same_model_and_a_note_says_what_is_not_bundled(
    said: str, name: str
) -> None:
    files = find_model(said)
    assert files.name == name
    assert files.notes == (f"{said}: bundled without its quantisation; see --dtype",)


def test_what_is_bundled_as_it_is_called_has_no_note() -> None:
    assert find_model("Qwen/Qwen2.5-VL-7B-Instruct").notes == ()
    (note,) = find_model("nvidia/Kimi-K2.5-NVFP4").notes
    assert note == "nvidia/Kimi-K2.5-NVFP4: bundled in the quantisation of Kimi-K2.5; see --dtype"


@MODELS
def test_every_name_and_id_finds_its_own_model_and_so_do_their_variants(model: Bundled) -> None:
    for called in (model.name, *model.ids):
        assert find_bundled(called) is model
        assert find_bundled(called.upper().replace("-", "_")) is model
        for variant in ("-AWQ", "-GPTQ-Int4", "-FP8", "-bnb-4bit", "-w4a16", "-int8"):
            assert find_bundled(called + variant) is model


def test_no_two_models_have_a_key_in_common() -> None:
    owners: dict[names.Key, set[str]] = {}
    for model in bundled_models():
        for called in (model.name, *model.ids):
            for way in (names.bare(called), names.untuned(names.bare(called))):
                for key in names.keys(way):
                    owners.setdefault(key, set()).add(model.name)
    assert {key: found for key, found in owners.items() if len(found) > 1} == {}
    assert set(known_keys()) <= set(owners)


@pytest.mark.parametrize(
    ("said", "all_of"),
    [
        (
            "Whisper",
            "whisper-tiny whisper-base whisper-small whisper-medium whisper-large-v2 whisper-large-v3-turbo",
        ),
        ("internvl3", "InternVL3-1B InternVL3-2B InternVL3-8B InternVL3-14B InternVL3-38B InternVL3-78B"),
        ("Molmo", "Molmo-7B-D Molmo-72B"),
        ("llava1.5", "LLaVA-1.5-7B LLaVA-1.5-13B"),
        ("SmolVLM", "SmolVLM-256M SmolVLM-500M SmolVLM-2.2B"),
        ("llama3.2-vision", "Llama-3.2-11B-Vision Llama-3.2-90B-Vision"),
        ("Florence-2", "Florence-2-base Florence-2-large"),
        ("Qwen2.5-VL-AWQ", "Qwen2.5-VL-3B Qwen2.5-VL-7B Qwen2.5-VL-32B Qwen2.5-VL-72B"),
    ],
)
def test_a_series_is_no_model_and_its_sizes_are_suggested(said: str, all_of: str) -> None:
    assert find_bundled(said) is None
    assert set(all_of.split()) <= set(suggest_models(said))
    with pytest.raises(ConfigError, match=all_of.split()[0]):
        find_model(said)


@pytest.mark.parametrize(
    "said",
    [
        "Qwen2-57B",  # a version and a size that together have the digits of Qwen2.5-7B
        "SmolVLM2-22B",
        "Ovis2-3.4B",
        "gemma-29b",
        "Qwen3-VL-30B-A6B",
        "whisper-base.en",
        "7b",
        "Kimi-VL",
        "-AWQ",
        "./Qwen2.5-VL-7B",
        "../Qwen2.5-VL-7B",
        "/data/Qwen2.5-VL-7B",
        "data/models/Qwen2.5-VL-7B",
        "\x1b[31m/Qwen2.5-VL-7B",
        "Qwen2.5-VL-7B" + "-awq" * 100_000,
    ],
)
def test_another_model_or_a_folder_that_is_not_there_is_none(said: str) -> None:
    assert find_bundled(said) is None
    assert len(suggest_models(said)) <= 8


def test_kimi_k2_5_has_the_int4_experts_of_its_release() -> None:
    found = find_bundled("Kimi-K2.5")
    assert found is not None
    spec = load_spec(found.values["config"])
    assert spec.quantization is not None
    # 4 bits and a 16-bit scale for each 32 weights; no zero point.
    assert spec.quantization.bytes_per_param == (4 + 16 / 32) / 8
    assert {"vision", "head"} <= set(spec.quantization.kept)
    # The files published are 0.6 TB.
    assert 0.55e12 < spec.params.language * spec.quantization.bytes_per_param < 0.62e12


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


def test_a_name_of_another_owner_is_said_to_be_taken_for_the_bundled_one() -> None:
    assert find_model("Qwen/Qwen2.5-VL-7B-Instruct").notes == find_model("Qwen2.5-VL-7B").notes == ()
    assert find_model("elsewhere/Qwen2.5-VL-7B").notes == (
        "elsewhere/Qwen2.5-VL-7B: taken for the bundled Qwen2.5-VL-7B",
    )
