"""Folders as transformers saves and as the hub holds them count what the processor that was saved writes, end to end."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from oracle_processors import image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles, read_files
from vtprof_analyzer.models.tokens.count import Item, count_items

torch = pytest.mark.torch
PLAIN: dict[str, Any] = {"do_rescale": False, "do_normalize": False}
SIZES = ((28, 28), (100, 2000), (777, 333), (29, 27), (720, 1280))
CLIPS = ((2, 100, 300), (5, 333, 177), (17, 90, 160))
SAMPLES = (4_999, 47_999, 480_001)
RATE = 16_000
NO_PROMPT = "none"


@dataclass(frozen=True)
class Family:
    """A family's processor with settings that its class does not have by itself, and what of its prompt is counted."""

    kind: str
    processor: str
    image: str
    counted: str
    words: dict[str, str]
    tags: tuple[str, ...] = ()
    prompt: str = ""
    """The counted token where it is empty; `NO_PROMPT` where the processor writes its own."""
    image_settings: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    video: str = ""
    video_settings: dict[str, Any] = field(default_factory=dict)
    video_prompt: str = ""
    video_counted: str = ""
    """The counted token of videos where it is another one than their prompt."""
    pairs: bool = True
    """The processor takes two images in one request."""


def square(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


def edges(shortest: int, longest: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": shortest, "longest_edge": longest}}


PADS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
PLACES = {"image_token": "<image>", "video_token": "<video>"}
ENDS = ("<|vision_start|>", "<|vision_end|>")
GLM = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
GLM_WORDS = {"image_token": "<|image|>", "video_token": "<|video|>"}
CLIP_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
LLAVA = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 9) for column in range(1, 9))
SPLIT_WORDS = {**PLACES, "image_boundary_token": "<fake_token_around_image>"}
SPLIT = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *ROWS)
LFM = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11))
CHAT = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<ctx>", "video_token": "<video>",
}  # fmt: skip
GEMMA = {
    "image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>", "audio_token": "<sound>", "boa_token": "<boa>",
    "eoa_token": "<eoa>",
}  # fmt: skip
SLICES = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
    "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
    "image_id_start_token": "<id>", "image_id_end_token": "</id>",
}  # fmt: skip
MOLMO = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>",
         "<im_low>")  # fmt: skip
PAD, CLIP_PAD, PLACE, SOFT = "<|image_pad|>", "<|video_pad|>", "<image>", "<soft>"
FAMILIES = (
    Family("qwen2_vl", "Qwen2VLProcessor", "Qwen2VLImageProcessor", PAD, PADS, ENDS, "",
           {"min_pixels": 200_704, "max_pixels": 1_003_520}, {}, "Qwen2VLVideoProcessor",
           edges(100_352, 602_112), CLIP_PAD),
    Family("qwen2_5_vl", "Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", PAD, PADS, ENDS, "",
           edges(3136, 12_845_056), {}, "Qwen2VLVideoProcessor", edges(3136, 1_204_224), CLIP_PAD),
    Family("qwen3_vl", "Qwen3VLProcessor", "Qwen2VLImageProcessor", PAD, PADS, ENDS, "",
           {"patch_size": 16, **edges(65_536, 1_048_576)}, {}, "Qwen3VLVideoProcessor", edges(4096, 1_048_576),
           CLIP_PAD),
    Family("glm4v", "Glm4vProcessor", "Glm4vImageProcessor", "<|image|>", GLM_WORDS, GLM, "",
           edges(12_544, 1_000_000), {}, "Glm4vVideoProcessor", edges(12_544, 400_000), "<|video|>", "<|image|>"),
    Family("glm46v", "Glm46VProcessor", "Glm46VImageProcessor", "<|image|>", GLM_WORDS, GLM, "",
           edges(12_544, 1_000_000), {}, "Glm46VVideoProcessor", edges(12_544, 400_000), "<|video|>", "<|image|>"),
    Family("video_llama_3", "VideoLlama3Processor", "VideoLlama3ImageProcessor", PAD, PADS, (), "",
           edges(3136, 1_204_224), {}, "VideoLlama3VideoProcessor",
           {"use_token_compression": False, **edges(3136, 602_112)}, CLIP_PAD),
    Family("paddleocr_vl", "PaddleOCRVLProcessor", "PaddleOCRVLImageProcessor", PAD, PADS, (), "",
           edges(147_384, 2_822_400)),
    Family("hunyuan_vl", "HunYuanVLProcessor", "HunYuanVLImageProcessor", PLACE,
           {"image_token": PLACE, "image_start_token": "<start>", "image_end_token": "<end>"}, (),
           "<start><image><end>", {}, {"cat_extra_token": False}),
    Family("kimi_k25", "Kimi_K25Processor", "Kimi_K25ImageProcessor", PAD, PADS,
           ("<|media_begin|>", "<|media_content|>", "<|media_end|>"), "", {"max_patches": 1024}, {},
           "Kimi_K25VideoProcessor", {"max_patches": 256}, CLIP_PAD),
    Family("llava", "LlavaProcessor", "CLIPImageProcessor", PLACE, PLACES, (), "", CLIP_336, LLAVA),
    Family("llava_next", "LlavaNextProcessor", "LlavaNextImageProcessor", PLACE, PLACES, (), "",
           {**CLIP_336, "image_grid_pinpoints": PINPOINTS}, LLAVA),
    Family("llava_next_video", "LlavaNextVideoProcessor", "LlavaNextImageProcessor", PLACE, PLACES, (), "",
           {**CLIP_336, "image_grid_pinpoints": PINPOINTS}, LLAVA, "LlavaNextVideoVideoProcessor",
           {**CLIP_336, "do_center_crop": True}, "<video>"),
    Family("llava_onevision", "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor", PLACE, PLACES, (), "",
           {"image_grid_pinpoints": [[384, 384], [384, 768], [768, 384], [768, 768]]},
           {"num_image_tokens": 729, "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_4"}, "LlavaOnevisionVideoProcessor", {}, "<video>"),
    Family("perception_lm", "PerceptionLMProcessor", "PerceptionLMImageProcessor", PLACE, PLACES, (), "",
           {"tile_size": 448, "max_num_tiles": 9, "vision_input_type": "thumb+tile", **square(448)},
           {"patch_size": 14}, "PerceptionLMVideoProcessor", square(448), "<video>", "", False),
    Family("gemma3", "Gemma3Processor", "Gemma3ImageProcessor", SOFT, GEMMA, (), "<boi>", square(448),
           {"image_seq_length": 64}),
    Family("gemma4", "Gemma4Processor", "Gemma4ImageProcessor", SOFT, GEMMA, ("<|video|>",), "",
           {"max_soft_tokens": 560}, {}, "Gemma4VideoProcessor", {"max_soft_tokens": 140}, "<|video|>"),
    Family("paligemma", "PaliGemmaProcessor", "SiglipImageProcessor", PLACE, PLACES, (), "<image>caption",
           {**square(448), "image_seq_length": 1024}, {}, pairs=False),
    Family("idefics2", "Idefics2Processor", "Idefics2ImageProcessor", PLACE, SPLIT_WORDS, SPLIT, "",
           {"do_image_splitting": True}, {"image_seq_len": 32}),
    Family("idefics3", "Idefics3Processor", "Idefics3ImageProcessor", PLACE, SPLIT_WORDS, SPLIT, "",
           {"max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 2048}}, {"image_seq_len": 64}),
    Family("internvl", "InternVLProcessor", "GotOcr2ImageProcessor", "<ctx>", CHAT, (), "",
           {**square(448), "crop_to_patches": True, "max_patches": 6}, {"image_seq_length": 64},
           "InternVLVideoProcessor", square(448), "<video>", "<ctx>"),
    Family("qianfan_ocr", "QianfanOCRProcessor", "GotOcr2ImageProcessor", "<ctx>", CHAT, (), PLACE, square(448)),
    Family("got_ocr2", "GotOcr2Processor", "GotOcr2ImageProcessor", "<imgpad>", {},
           ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"), NO_PROMPT, square(1024), pairs=False),
    Family("aya_vision", "AyaVisionProcessor", "GotOcr2ImageProcessor", "<|IMG_PATCH|>", {},
           ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL", PLACE),
           PLACE, {**square(364), "crop_to_patches": True},
           {"patch_size": 14, "img_size": 364, "downsample_factor": 2}),
    Family("cohere2_vision", "Cohere2VisionProcessor", "Cohere2VisionImageProcessor", PLACE,
           {"image_token": PLACE, "boi_token": "<boi>", "eoi_token": "<eoi>", "img_line_break_token": "<br>"}, (), "",
           {"max_patches": 6}),
    Family("mistral3", "PixtralProcessor", "PixtralImageProcessor", "[IMG]", {}, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
           "", {"size": {"longest_edge": 1024}, "patch_size": {"height": 16, "width": 16}},
           {"patch_size": 16, "spatial_merge_size": 2}),
    Family("llama4", "Llama4Processor", "Llama4ImageProcessor", "<|patch|>", {},
           ("<|image|>", "<|patch|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
           "<|image|>", {**square(336), "max_patches": 5}),
    Family("aria", "AriaProcessor", "AriaImageProcessor", PLACE, PLACES, (), "", {},
           {"size_conversion": {"490": 64, "980": 144}}),
    Family("lfm2_vl", "Lfm2VlProcessor", "Lfm2VlImageProcessor", PLACE,
           {"image_token": PLACE, "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>"}, LFM, "", {"use_thumbnail": False, "max_tiles": 4}),
    Family("ovis2", "Ovis2Processor", "Ovis2ImageProcessor", "<IMG_ATOM>", {"image_token": PLACE},
           ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"), PLACE,
           {"crop_to_patches": True, "use_covering_area_grid": False}, {"image_seq_length": 128}),
    Family("molmo2", "Molmo2Processor", "Molmo2ImageProcessor", "<im_patch>", GLM_WORDS, MOLMO, "<|image|>",
           {"max_crops": 4}, {}, "Molmo2VideoProcessor", {}, "<|video|>", "<im_patch>"),
    Family("minicpmv4_6", "MiniCPMV4_6Processor", "MiniCPMV4_6ImageProcessor", PAD, SLICES, (), "",
           {"downsample_mode": "4x", "max_slice_nums": 36}, {}, "MiniCPMV4_6VideoProcessor", {}),
    Family("deepseek_ocr2", "DeepseekOcr2Processor", "DeepseekOcr2ImageProcessor", PLACE, PLACES),
    Family("deepseek_vl", "DeepseekVLProcessor", "DeepseekVLImageProcessor", PLACE, PLACES, (), "", {},
           {"num_image_tokens": 144}),
    Family("janus", "JanusProcessor", "JanusImageProcessor", PLACE,
           {"image_token": PLACE, "boi_token": "<boi>", "eoi_token": "<eoi>"}, (), "", {}, {"num_image_tokens": 144}),
    Family("chameleon", "ChameleonProcessor", "ChameleonImageProcessor", PLACE,
           {"image_token": PLACE, "boi_token": "<boi>", "eoi_token": "<eoi>", "sep_token": "<sep>"}, (), "", {},
           {"image_seq_length": 256}),
    Family("emu3", "Emu3Processor", "Emu3ImageProcessor", PLACE,
           {"image_token": PLACE, "boi_token": "<boi>", "eoi_token": "<eoi>", "image_wrapper_token": "<wrap>",
            "eof_token": "<eof>"}, (), "", {"min_pixels": 262_144, "max_pixels": 518_400}),
)  # fmt: skip
IDS = [family.kind for family in FAMILIES]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Import torch ahead of torchvision, whose operators are declared only then; the library's advice is not wanted."""
    pytest.importorskip("torch")
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def build(family: Family) -> Any:
    import transformers

    words = tokenizer(*family.tags, **family.words)
    # The model's files decide the count; a vocabulary is none of them.
    words.save_pretrained = lambda *_, **__: ()
    parts = {"tokenizer": words}
    pixels = getattr(transformers, family.image)(**family.image_settings, **PLAIN)
    if "image_seq_length" in family.image_settings:
        pixels.image_seq_length = family.image_settings["image_seq_length"]
    parts["image_processor"] = pixels
    if family.video:
        frames = {} if family.video.startswith("MiniCPM") else PLAIN
        parts["video_processor"] = getattr(transformers, family.video)(**family.video_settings, **frames)
    if family.kind == "gemma4":
        parts["feature_extractor"] = transformers.Gemma4AudioFeatureExtractor()
    return getattr(transformers, family.processor)(**parts, **family.settings)


def saved_forms(processor: Any, kind: str, root: Path) -> dict[str, Path]:
    """Save a processor and its config's defaults; return the folder, the hub's older form, and both without config.json."""
    from transformers import CONFIG_MAPPING

    saved, flat = root / "saved", root / "flat"
    processor.save_pretrained(saved)
    CONFIG_MAPPING[kind]().save_pretrained(saved)
    flat.mkdir()
    whole = json.loads((saved / "processor_config.json").read_text())
    named = {"processor_class": whole["processor_class"]}
    sections = [whole.pop(key, {}) for key in ("feature_extractor", "audio_processor", "image_processor")]
    pixels: dict[str, Any] = {key: value for part in sections for key, value in part.items()}
    (flat / "preprocessor_config.json").write_text(json.dumps({**pixels, **named}))
    if "video_processor" in whole:
        frames = json.dumps({**whole.pop("video_processor"), **named})
        (flat / "video_preprocessor_config.json").write_text(frames)
    if len(whole) > 1:
        (flat / "processor_config.json").write_text(json.dumps(whole))
    forms = {"saved": saved, "flat": flat}
    for name, folder in dict(forms).items():
        forms[f"{name}, no config.json"] = Path(shutil.copytree(folder, root / f"bare-{name}"))
        (root / f"bare-{name}" / "config.json").unlink(missing_ok=True)
    (flat / "config.json").write_text(json.dumps({"model_type": kind}))
    return forms


def check(forms: dict[str, Path], items: list[Item], expected: int) -> None:
    found = {name: count_items(read_files(folder), items).tokens for name, folder in forms.items()}
    assert found == dict.fromkeys(forms, expected), items


@torch
@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_images_of_every_saved_form(family: Family, tmp_path: Path) -> None:
    processor = build(family)
    forms = saved_forms(processor, family.kind, tmp_path)
    counted = processor.tokenizer.convert_tokens_to_ids(family.counted)
    prompt = family.prompt or family.counted

    def written(*sizes: tuple[int, int]) -> int:
        images = [image(*size) for size in sizes]
        asked = (
            {"images": images} if prompt == NO_PROMPT else {"images": [images], "text": [prompt * len(sizes)]}
        )
        return positions(processor(**asked, return_tensors="pt")["input_ids"], counted)

    for size in SIZES:
        check(forms, [Item("image", *size)], written(size))
    if family.pairs:
        pair = ((777, 333), (720, 1280))
        check(forms, [Item("image", *size) for size in pair], written(*pair))


@torch
@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.video_prompt], ids=lambda f: f.kind
)
def test_videos_of_every_saved_form(family: Family, tmp_path: Path) -> None:
    import torch

    processor = build(family)
    forms = saved_forms(processor, family.kind, tmp_path)
    counted = processor.tokenizer.convert_tokens_to_ids(family.video_counted or family.video_prompt)
    for frames, height, width in CLIPS:
        clip = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
        made = processor(videos=[clip], text=[family.video_prompt], do_sample_frames=False)
        check(forms, [Item("video", height, width, frames)], positions(made["input_ids"], counted))


HEARING: tuple[tuple[str, str, str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("qwen2_audio", "Qwen2AudioProcessor", "feature_extractor", "WhisperFeatureExtractor",
     {"feature_size": 128, "chunk_length": 15}, {}),
    ("audioflamingo3", "AudioFlamingo3Processor", "feature_extractor", "WhisperFeatureExtractor",
     {"feature_size": 128}, {"max_audio_len": 40, "audio_token": "<sound>"}),
    ("glmasr", "GlmAsrProcessor", "feature_extractor", "WhisperFeatureExtractor", {"feature_size": 128},
     {"max_audio_len": 40, "audio_token": "<sound>"}),
    ("qwen3_asr", "Qwen3ASRProcessor", "feature_extractor", "Qwen3ASRFeatureExtractor",
     {"hop_length": 200, "min_length": 4000}, {}),
    # Its section is called otherwise.
    ("phi4_multimodal", "Phi4MultimodalProcessor", "audio_processor", "Phi4MultimodalFeatureExtractor",
     {"audio_compression_rate": 4, "audio_feat_stride": 2}, {}),
)  # fmt: skip


@torch
@pytest.mark.parametrize(
    ("kind", "name", "section", "extractor", "audio", "settings"), HEARING, ids=[row[0] for row in HEARING]
)
def test_audio_of_every_saved_form(
    kind: str, name: str, section: str, extractor: str, audio: Any, settings: Any, tmp_path: Path
) -> None:
    import numpy as np
    import transformers

    words = tokenizer(
        audio_token="<sound>", audio_bos_token="<begin>", audio_eos_token="<end>", image_token="<image>"
    )
    words.save_pretrained = lambda *_, **__: ()
    parts = {section: getattr(transformers, extractor)(**audio), "tokenizer": words}
    if section == "audio_processor":
        parts["image_processor"] = transformers.Phi4MultimodalImageProcessor()
    processor = getattr(transformers, name)(**parts, **settings)
    forms = saved_forms(processor, kind, tmp_path)
    for heard in SAMPLES:
        made = processor(text=["<sound>"], audio=[np.zeros(heard, np.float32)], return_tensors="pt")
        expected = positions(made["input_ids"], words.audio_token_id)
        check(forms, [Item("audio", seconds=heard / RATE)], expected)


ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("aria", {"max_image_size": 490, "split_image": True}),
    ("gemma3", {"do_pan_and_scan": True}),
    ("got_ocr2", {"crop_to_patches": True, "max_patches": 4}),
    ("deepseek_ocr2", {"crop_to_patches": False}),
    ("deepseek_ocr2", {"max_patches": 9, "min_patches": 1}),
)


@torch
@pytest.mark.parametrize(("kind", "call"), ASKED)
def test_settings_that_only_a_call_can_make_count_as_made_and_are_noted(
    kind: str, call: dict[str, Any], tmp_path: Path
) -> None:
    family = next(family for family in FAMILIES if family.kind == kind)
    processor = build(replace(family, image_settings={**family.image_settings, **call}))
    forms = saved_forms(processor, kind, tmp_path)
    counted = processor.tokenizer.convert_tokens_to_ids(family.counted)
    text = {} if family.prompt == NO_PROMPT else {"text": [family.prompt or family.counted]}
    differs = False
    for size in ((100, 2000), (777, 333)):
        made, asked = (
            positions(
                processor(images=[image(*size)], **text, **given, return_tensors="pt")["input_ids"], counted
            )
            for given in ({}, call)
        )
        check(forms, [Item("image", *size)], asked)
        differs |= made != asked
    assert differs  # the saved setting alone changes nothing in the processor
    notes = count_items(read_files(forms["saved"]), [Item("image", 9, 9)]).notes
    assert any(note.startswith(f"{next(iter(call))} counts as if each call asked") for note in notes)
    unset = saved_forms(build(family), kind, tmp_path / "unset")["saved"]
    assert count_items(read_files(unset), [Item("image", 9, 9)]).notes == ()


@torch
def test_files_of_an_older_save_count_nothing_beside_nested_sections(tmp_path: Path) -> None:
    import torch
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    family = FAMILIES[0]
    folder = saved_forms(build(family), family.kind, tmp_path)["saved"]
    old = json.dumps({"min_pixels": 50_176, "max_pixels": 100_352, "merge_size": 1})
    (folder / "preprocessor_config.json").write_text(old)
    (folder / "video_preprocessor_config.json").write_text(old)
    pixels = Qwen2VLImageProcessor.from_pretrained(folder, **PLAIN)
    frames = Qwen2VLVideoProcessor.from_pretrained(folder, do_sample_frames=False, **PLAIN)
    for height, width in SIZES:
        grid = pixels(images=[image(height, width)], return_tensors="pt")["image_grid_thw"]
        check({"both": folder}, [Item("image", height, width)], int(grid.prod()) // 4)
    clip = torch.zeros(4, 3, 720, 1280, dtype=torch.uint8)
    grid = frames(videos=[clip], return_tensors="pt")["video_grid_thw"]
    check({"both": folder}, [Item("video", 720, 1280, 4)], int(grid.prod()) // 4)


@pytest.mark.parametrize(
    ("name", "kind"), [("Wav2Vec2BertProcessor", "wav2vec2-bert"), ("WhisperProcessor", "whisper")]
)
def test_a_speech_processors_class_tells_the_family(name: str, kind: str) -> None:
    items = [Item("audio", seconds=3.21)]
    alone = ModelFiles("folder", None, processor={"processor_class": name})
    assert (
        count_items(alone, items).tokens == count_items(ModelFiles("m", {"model_type": kind}), items).tokens
    )


def test_what_a_paper_leaves_open_is_a_note_of_its_own_and_no_field() -> None:
    notes = count_items(ModelFiles("m", {"model_type": "dynamic_vlm"}), [Item("video", 360, 640, 8)]).notes
    caveat = next(note for note in notes if "budget and bounds assumed" in note)
    assert caveat.startswith("Dynamic-VLM; ")
