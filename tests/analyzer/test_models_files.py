"""A model's folder as users have it: odd names and files are one line that says what to do, and mixtures are noted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from qwen_configs import QWEN2_5_VL_7B, TINY_2_5

from vtprof_analyzer.models.config_file import MAX_BYTES, read_config_text, shown_path
from vtprof_analyzer.models.files import ModelFiles, read_files
from vtprof_analyzer.models.find import find_model
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.tokens.count import Item, count_items
from vtprof_schemas.errors import ConfigError, DataError

OWN = {
    "processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
FILES = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
IMAGE, VIDEO, CLIP = Item("image", 280, 280), Item("video", 280, 280, 4), Item("audio", seconds=3.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN2_5_VL_7B))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OWN))
    return tmp_path


def image_notes(files: ModelFiles) -> tuple[str, ...]:
    return count_items(files, [IMAGE]).notes


MIX = "the config's model_type is qwen2_5_vl: the counts mix two families"


@pytest.mark.parametrize(
    ("part", "fields", "note"),
    [
        ("preprocessor", OWN | {"processor_class": "SmolVLMProcessor"}, "preprocessor_config.json is SmolVLMProcessor's"),
        ("preprocessor", OWN | {"image_processor_type": "Idefics3ImageProcessor"},
         "preprocessor_config.json is Idefics3ImageProcessor's"),
        ("preprocessor", OWN | {"image_processor_type": "SmolVLMImageProcessorFast"},
         "preprocessor_config.json is SmolVLMImageProcessorFast's"),
        ("processor", {"processor_class": "InternVLProcessor"}, "processor_config.json is InternVLProcessor's"),
        ("processor", {"image_processor": OWN | {"image_processor_type": "LlavaOnevisionImageProcessor"}},
         "processor_config.json is LlavaOnevisionImageProcessor's"),
    ],
)  # fmt: skip
def test_the_processor_of_another_family_is_noted(part: str, fields: dict[str, Any], note: str) -> None:
    files = ModelFiles("m", QWEN2_5_VL_7B, **{"preprocessor": OWN, part: fields})
    assert f"{note}, {MIX}" in image_notes(files)


def test_another_familys_video_processor_matters_to_videos_alone() -> None:
    files = ModelFiles("m", QWEN2_5_VL_7B, OWN, OWN | {"video_processor_type": "SmolVLMVideoProcessor"})
    assert image_notes(files) == ()
    noted = f"video_preprocessor_config.json is SmolVLMVideoProcessor's, {MIX}"
    assert noted in count_items(files, [VIDEO]).notes


@pytest.mark.parametrize(
    ("kind", "preprocessor"),
    [  # Classes that the models' own published files name.
        ("qwen2_5_vl", {"processor_class": "Qwen2VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}),
        ("qwen2_5_vl", {"processor_class": "AProcessorOfMine", "image_processor_type": ["odd"]}),
        ("idefics3", {"processor_class": "SmolVLMProcessor"}),
        ("vipllava", {"processor_class": "LlavaProcessor", "image_processor_type": "CLIPImageProcessor"}),
        ("aya_vision", {"processor_class": "AyaVisionProcessor", "image_processor_type": "GotOcr2ImageProcessor"}),
        ("internvl", {"processor_class": "InternVLProcessor", "image_processor_type": "GotOcr2ImageProcessorFast"}),
        ("llava_next_video", {"processor_class": "LlavaNextVideoProcessor"}),
    ],
)  # fmt: skip
def test_a_familys_own_shared_and_unknown_classes_are_no_mixture(
    kind: str, preprocessor: dict[str, Any]
) -> None:
    notes = image_notes(ModelFiles("m", {"model_type": kind}, preprocessor))
    assert not any("mix" in note for note in notes)


def test_a_preprocessor_left_beside_a_whole_processor_config_is_no_mixture() -> None:
    left = OWN | {"processor_class": "SmolVLMProcessor"}
    files = ModelFiles("m", QWEN2_5_VL_7B, left, processor={"image_processor": OWN})
    assert not any("mix" in note for note in image_notes(files))


def test_only_the_assumptions_of_what_is_counted_are_noted() -> None:
    plain = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    files = ModelFiles("m", QWEN2_5_VL_7B, OWN, plain)
    assert image_notes(files) == ()
    (video,) = count_items(files, [VIDEO]).notes
    assert video.startswith(
        "not in the files, the family's defaults stand in: video_preprocessor_config.json: "
    )
    assert count_items(files, [IMAGE, VIDEO]).notes == (video,)
    assert image_notes(files) == ()


def test_an_image_of_a_model_that_hears_notes_nothing_of_audio() -> None:
    thinker = {"model_type": "qwen2_5_omni", "thinker_config": {"model_type": "qwen2_5_omni_thinker"}}
    files = ModelFiles("m", thinker, OWN)
    heard = count_items(files, [CLIP]).notes
    assert any("sampling_rate" in note or "hop_length" in note for note in heard)
    assert image_notes(files) == ()


def test_a_null_in_the_section_that_hears_matters_to_audio_alone() -> None:
    thinker = {"audio_config": {"n_window": None}}
    files = ModelFiles("m", {"model_type": "qwen2_5_omni", "thinker_config": thinker}, OWN)
    assert image_notes(files) == ()
    assert any("n_window" in note for note in count_items(files, [CLIP]).notes)


def test_a_setting_of_frames_in_the_processor_config_matters_to_videos_alone() -> None:
    said = {"image_use_col_tokens": True, "use_single_crop_col_tokens": True}
    files = ModelFiles("m", {"model_type": "molmo2"}, processor=said)
    assert not any("video" in note for note in image_notes(files))
    assert any("video_use_col_tokens" in note for note in count_items(files, [VIDEO]).notes)


def test_a_budget_of_frames_matters_to_videos_alone() -> None:
    budget = {"max_soft_tokens": 280, "patch_size": 16, "pooling_kernel_size": 3}
    files = ModelFiles("m", {"model_type": "gemma4"}, budget)
    assert image_notes(files) == ()
    assert any("max_soft_tokens" in note for note in count_items(files, [VIDEO]).notes)


@pytest.mark.parametrize(
    ("fields", "item", "what"),
    [
        ({"min_pixels": 2**39, "max_pixels": 2**40}, IMAGE, "tokens of one image|patches of one image"),
        ({"patch_size": 1, "merge_size": 1, "min_pixels": 2**35, "max_pixels": 2**40}, IMAGE, "of one image"),
        ({"patch_size": 1, "merge_size": 1, "min_pixels": 2**35, "max_pixels": 2**40}, VIDEO, "of one video"),
    ],
)
def test_sizes_that_multiply_beyond_any_model_are_refused(
    fields: dict[str, Any], item: Item, what: str
) -> None:
    with pytest.raises(
        DataError, match=f"m: the sizes in the processor config multiply to .*{what}"
    ) as caught:
        count_items(ModelFiles("m", QWEN2_5_VL_7B, OWN | fields, OWN | fields), [item])
    assert "as published" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_image_of_real_limits_is_still_counted() -> None:
    # 16,384 cells of 28 pixels is the limit of the released models (G181).
    counted = count_items(ModelFiles("m", QWEN2_5_VL_7B, OWN), [Item("image", 30_000, 30_000)])
    assert 16_000 < counted.tokens <= 16_384


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_an_empty_name_is_said_to_be_empty(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="MODEL is empty; give"):
        find_model(name)


def test_a_name_forges_no_line_and_its_bytes_reach_json() -> None:
    path = Path(os.fsdecode(b"a\nvtprof: error: b\x1b[2J\r\xe2\x80\xa8\xff/c"))
    name = shown_path(path)
    assert name.isprintable()
    assert name.startswith("a\\nvtprof: error: b\\x1b[2J\\r\\u2028")
    json.dumps(name, ensure_ascii=False).encode("utf-8")
    with pytest.raises(ConfigError) as caught:
        find_model(str(path))
    assert str(caught.value).isprintable()
    assert shown_path(Path("/models/Größe 7B")) == "/models/Größe 7B"


def test_a_folder_of_an_odd_name_has_a_name_of_one_line(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"x\n\xff")
    odd.mkdir()
    (odd / "config.json").write_text(json.dumps(QWEN2_5_VL_7B))
    assert read_files(odd).name.isprintable()
    (odd / "config.json").write_text("{")
    with pytest.raises(DataError) as caught:
        read_files(odd)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leads_nowhere_is_not_taken_for_an_absent_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/no/such/blob")
    with pytest.raises(DataError, match=f"/{name}: is a link that leads nowhere; give the model's {name}"):
        find_model(str(folder))


def test_a_name_that_is_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="model: is a link that leads nowhere"):
        find_model(str(tmp_path / "model"))
    with pytest.raises(DataError, match="model: is a link that leads nowhere"):
        read_config_text(tmp_path / "model")


def test_keys_named_twice_are_noted_wherever_they_stand(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(
        '{"size": {"height": 1, "height": 2}, "a b": 1, "a b": 2}'
    )
    (folder / "config.json").write_text(
        '{"model_type": "llava", "x": [], "x": 2, "model_type": "qwen2_5_vl"}'
    )
    files = find_model(str(folder))
    assert files.config == {"model_type": "qwen2_5_vl", "x": 2}
    assert files.notes == (
        "config.json names model_type, x twice; the last counts",
        "preprocessor_config.json names height, 'a b' twice; the last counts",
    )
    many = ", ".join(f'"k{number}": 0, "k{number}": 1' for number in range(9))
    (folder / "one.json").write_text(f"{{{many}}}")
    (note,) = find_model(str(folder / "one.json")).notes
    assert note == "config.json names k0, k1, k2 and 6 more twice; the last counts"


def test_a_plain_folder_has_nothing_to_note(folder: Path) -> None:
    assert find_model(str(folder)).notes == ()


@pytest.mark.parametrize("name", FILES)
def test_the_remedy_names_the_file_at_fault(folder: Path, name: str) -> None:
    for content, said in ((b"\xff", "is not UTF-8"), (b" " * (MAX_BYTES + 1), "larger than 2 MiB")):
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=f"/{name}: {said}.*; give the model's {name} as published"):
            find_model(str(folder))


def test_a_name_that_is_nothing_hears_of_the_bundled_ones(tmp_path: Path) -> None:
    for read in (find_model, lambda name: read_config_text(Path(name))):
        with pytest.raises(ConfigError, match="--list-models"):
            read("no-such-model")
    for read in (find_model, lambda name: read_config_text(Path(name))):
        with pytest.raises(ConfigError, match=r"no config\.json there.*--list-models"):
            read(str(tmp_path))


def test_a_byte_order_mark_is_read_over(folder: Path) -> None:
    for name in FILES[:2]:
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert count_items(find_model(str(folder)), [IMAGE]).tokens == 100
    assert json.loads(read_config_text(folder)) == QWEN2_5_VL_7B


def test_a_number_of_thousands_of_digits_is_said_to_be_one(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen2_vl", "hidden_size": ' + "9" * 5_000 + "}")
    with pytest.raises(DataError, match="a number in it has thousands of digits; use the file") as caught:
        find_model(str(folder))
    assert "sys." not in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"vision_config": {"hidden_size": 64}, "text_config": {"model_type": "llama"}}, "vision_config.model_type"),
        ({"vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "?"}}, "is '?', a decoder"),
        ({"visual": {"width": 64}, "text_config": {"model_type": "llama"}}, "vision_config is missing"),
    ],
)  # fmt: skip
def test_a_type_that_is_not_known_is_what_is_said_of_sections_without_one(
    sections: dict[str, Any], why: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_spec({"model_type": "unheard_of", **sections})
    said = str(caught.value)
    assert said.startswith(
        "model config: model_type 'unheard_of' is not known, and its sections do not make a model: "
    )
    assert why in said
    assert said.endswith("; give a model of a known type, or a bundled name (--list-models)")


def test_a_decoder_without_a_type_is_noted_as_the_one_it_is_taken_for() -> None:
    parts = {"text_config": {"hidden_size": 64}, "vision_config": {"model_type": "siglip_vision_model"}}
    typed = {**parts, "text_config": {"model_type": "llama", "hidden_size": 64}}
    assert any(
        "counted as llama's" in note for note in load_spec({"model_type": "unheard_of", **parts}).notes
    )
    assert not any("llama" in note for note in load_spec({"model_type": "unheard_of", **typed}).notes)


def test_a_type_put_together_forges_no_line() -> None:
    parts = {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "siglip_vision_model"}}
    spec = load_spec({"model_type": "x\nnote: y\ud800", **parts})
    assert spec.model_type.isprintable()
    assert all(note.isprintable() for note in spec.notes)


def test_a_field_under_a_forged_key_is_one_line() -> None:
    groups = {"a\nvtprof: error": {"weights": {"num_bits": "x"}}}
    quantised = {"quant_method": "compressed-tensors", "config_groups": groups}
    with pytest.raises(DataError, match="num_bits") as caught:
        load_spec(TINY_2_5 | {"quantization_config": quantised})
    assert str(caught.value).isprintable()
