"""Tokens of the families of native resolution, to the token, against transformers' processors on real images and videos."""

import functools
from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_schemas.errors import ConfigError

pytestmark = pytest.mark.torch

FAST: dict[str, Any] = {"do_rescale": False, "do_normalize": False}
IMAGES = tuple(size for size in SIZES if size != (4096, 4096))
"""What is large only costs time: the largest is tried with the first family alone."""
CLIPS = (
    (4, 56, 56), (2, 720, 1280), (5, 100, 100), (8, 360, 640), (7, 481, 641), (16, 224, 224), (3, 336, 336),
    (6, 29, 27), (10, 200, 1000), (12, 640, 360), (32, 112, 112), (4, 1080, 1920), (9, 150, 300), (20, 90, 160),
    (2, 28, 28), (11, 333, 177), (14, 400, 300), (24, 128, 96), (4, 37, 1999), (6, 801, 799), (64, 64, 64),
)  # fmt: skip
"""Frames, height and width [pixels]."""


def _qwen(image_processor: Any, video_processor: Any, name: str) -> Any:
    import transformers

    words = tokenizer(
        "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    return getattr(transformers, name)(image_processor, words, video_processor)


@functools.cache
def _processor(kind: str) -> Any:
    """Return the processor of a family as transformers has it where nothing is configured but patch sizes."""
    import torch  # noqa: F401 - before torchvision
    import transformers as t

    if kind in ("qwen2_vl", "qwen2_5_vl"):
        name = "Qwen2VLProcessor" if kind == "qwen2_vl" else "Qwen2_5_VLProcessor"
        return _qwen(t.Qwen2VLImageProcessorPil(), t.Qwen2VLVideoProcessor(), name)
    if kind == "qwen3_vl":
        return _qwen(t.Qwen2VLImageProcessorPil(patch_size=16), t.Qwen3VLVideoProcessor(), "Qwen3VLProcessor")
    words = tokenizer(
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        image_token="<|image|>",
        video_token="<|video|>",
    )
    if kind == "glm4v":
        return t.Glm4vProcessor(t.Glm4vImageProcessorPil(), words, t.Glm4vVideoProcessor())
    if kind == "glm46v":
        return t.Glm46VProcessor(t.Glm46VImageProcessorPil(), words, t.Glm46VVideoProcessor())
    if kind == "video_llama_3":
        words = tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>")
        return t.VideoLlama3Processor(
            t.VideoLlama3ImageProcessorPil(), words, t.VideoLlama3VideoProcessor(use_token_compression=False)
        )
    if kind == "paddleocr_vl":
        return t.PaddleOCRVLProcessor(t.PaddleOCRVLImageProcessorPil(), tokenizer(image_token="<|image|>"))
    if kind == "hunyuan_vl":
        words = tokenizer(image_token="<image>", image_start_token="<start>", image_end_token="<end>")
        return t.HunYuanVLProcessor(t.HunYuanVLImageProcessorPil(), words)
    if kind == "ernie4_5_vl_moe":
        words = tokenizer(
            image_token="<image>", image_start_token="<istart>", image_end_token="<iend>",
            video_token="<video>", video_start_token="<vstart>", video_end_token="<vend>",
        )  # fmt: skip
        return t.Ernie4_5_VLMoeProcessor(
            t.Ernie4_5_VLMoeImageProcessorPil(), words, t.Ernie4_5_VLMoeVideoProcessor(draw_on_frames=False)
        )
    if kind in ("qwen2_5_omni", "qwen3_omni_moe"):
        words = tokenizer(
            image_token="<|IMAGE|>", video_token="<|VIDEO|>", audio_token="<|AUDIO|>", vision_bos_token="<vb>",
            vision_eos_token="<ve>", audio_bos_token="<ab>", audio_eos_token="<ae>",
        )  # fmt: skip
        small = t.Qwen2VLVideoProcessor(**SMALL)
        ears = t.WhisperFeatureExtractor(feature_size=128)
        if kind == "qwen3_omni_moe":
            eyes = t.Qwen2VLImageProcessorPil(patch_size=16)
            return t.Qwen3OmniMoeProcessor(eyes, t.Qwen2VLVideoProcessor(patch_size=16), ears, words)
        return t.Qwen2_5OmniProcessor(t.Qwen2VLImageProcessorPil(), small, ears, words)
    assert kind == "kimi_k25"
    words = tokenizer(
        "<|media_begin|>",
        "<|media_content|>",
        "<|media_end|>",
        image_token="<|media_pad|>",
        video_token="<|kimi_k25_video_placeholder|>",
    )
    return t.Kimi_K25Processor(t.Kimi_K25ImageProcessor(), words, t.Kimi_K25VideoProcessor())


SMALL = {"size": {"shortest_edge": 3136, "longest_edge": 50_176}}
"""Limits of a video processor that Qwen2.5-Omni's processor overrules with its own."""


def _count(kind: str) -> Any:
    # No vision section: patch sizes are the classes' own.
    video = SMALL if kind == "qwen2_5_omni" else None
    return load_counter(ModelFiles("model", {"model_type": kind}, video_preprocessor=video))


IMAGE_KINDS = (
    "qwen2_vl",
    "qwen2_5_omni",
    "qwen3_omni_moe",
    "qwen3_vl",
    "glm4v",
    "video_llama_3",
    "paddleocr_vl",
    "hunyuan_vl",
    "ernie4_5_vl_moe",
    "kimi_k25",
)
VIDEO_KINDS = (
    "qwen2_vl",
    "qwen2_5_omni",
    "qwen3_omni_moe",
    "qwen3_vl",
    "glm4v",
    "glm46v",
    "ernie4_5_vl_moe",
    "video_llama_3",
    "kimi_k25",
)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_image_tokens_and_grid_are_the_processors(kind: str) -> None:
    counter, made = _count(kind), _processor(kind)
    text = made.image_token
    if kind == "hunyuan_vl":
        text = f"<start>{text}<end>"
    wrong = []
    for height, width in IMAGES:
        try:
            out = made(images=[image(height, width)], text=[text], images_kwargs=FAST)
        except ValueError as error:
            assert "aspect ratio" in str(error)
            with pytest.raises(ConfigError, match="200 times"):
                counter.image(height, width)
            continue
        found = counter.image(height, width)
        grid = out["image_grid_thw"][0].tolist()
        theirs = (positions(out["input_ids"], made.image_token_id), grid)
        mine = (found.tokens, [found.grids[0].count, found.grids[0].height, found.grids[0].width])
        if mine != theirs:
            wrong.append((height, width, mine, theirs))
    assert not wrong


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_video_tokens_and_grid_are_the_processors(kind: str) -> None:
    import numpy

    counter, made = _count(kind), _processor(kind)
    wrong = []
    for frames, height, width in CLIPS:
        clip = numpy.zeros((frames, height, width, 3), numpy.uint8)
        metadata = [
            {
                "fps": 2.0,
                "total_num_frames": frames,
                "frames_indices": list(range(frames)),
                "duration": frames / 2,
            }
        ]
        try:
            out = made(
                videos=[clip], text=[made.video_token], video_metadata=metadata,
                videos_kwargs={**FAST, "do_sample_frames": False},
            )  # fmt: skip
        except ValueError as error:
            wrong.append((frames, height, width, str(error)))
            continue
        found = counter.video(frames, height, width)
        ids = [made.video_token_id, made.image_token_id]
        mine: Any = (found.tokens, found.patches)
        theirs: Any = (positions(out["input_ids"], ids), int(out["video_grid_thw"].prod(-1).sum()))
        if mine != theirs:
            wrong.append((frames, height, width, mine, theirs))
    assert not wrong


def test_the_largest_image_and_the_forms_of_pixel_limits() -> None:
    import torch  # noqa: F401 - before torchvision
    import transformers

    for fields in (
        {"min_pixels": 3136, "max_pixels": 12_845_056},
        {"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}},
        {"size": {"shortest_edge": 1, "longest_edge": 784}, "min_pixels": 200_704, "max_pixels": 1_003_520},
        {"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}, "patch_size": 16},
    ):
        theirs = transformers.Qwen2VLImageProcessorPil(**fields)
        counter = load_counter(ModelFiles("model", {"model_type": "qwen2_5_vl"}, fields))
        for height, width in ((4096, 4096), (300, 200), (1, 150)):
            grid = theirs([image(height, width)], **FAST)["image_grid_thw"][0].tolist()
            found = counter.image(height, width).grids[0]
            assert [1, found.height, found.width] == grid


@pytest.mark.parametrize(
    ("kind", "limits", "more"),
    [
        ("qwen2_vl", (100_352, 602_112), {}),
        ("qwen2_vl", (100_352, 602_112), {"max_video_tokens": 1000}),
        ("qwen3_vl", (131_072, 25_165_824), {}),
        ("qwen3_vl", (65_536, 1_000_000), {}),
    ],
)
def test_capped_frames_are_the_video_processors(
    kind: str, limits: tuple[int, int], more: dict[str, int]
) -> None:
    import torch
    import transformers

    name = "Qwen2VLVideoProcessor" if kind == "qwen2_vl" else "Qwen3VLVideoProcessor"
    size = {"shortest_edge": limits[0], "longest_edge": limits[1]}
    fields = {"size": size, "cap_pixels_per_frame": True, **more}
    theirs = getattr(transformers, name)(**fields)
    counter = load_counter(ModelFiles("model", {"model_type": kind}, video_preprocessor=fields))
    for frames, height, width in (
        (2, 720, 1280),
        (31, 280, 420),  # the even share is below the floor of 1.05 times the least
        (13, 720, 1280),
        (300, 90, 160),
        (500, 60, 100),
        (4, 1080, 1920),
    ):
        clip = torch.zeros((frames, 3, height, width), dtype=torch.uint8)
        grid = theirs([clip], do_sample_frames=False, **FAST)["video_grid_thw"][0].tolist()
        found = counter.video(frames, height, width).grids[0]
        assert [found.count, found.height, found.width] == grid


@pytest.mark.parametrize(
    ("kind", "text", "tags", "words"),
    [
        ("qwen2_vl", "<|vision_start|>{}<|vision_end|>", ("<|vision_start|>", "<|vision_end|>"), 0),
        # Three temporal patches: "<0.2 seconds>" is six tokens of Qwen's tokenizer.
        ("qwen3_vl", "<|vision_start|>{}<|vision_end|>", ("<|vision_start|>", "<|vision_end|>"), 3 * 6),
        # Seconds alone; then with a fraction and the unit: "0", ".", "0", " seconds".
        ("glm4v", "<|begin_of_video|>{}<|end_of_video|>", None, 3),
        ("glm46v", "<|begin_of_video|>{}<|end_of_video|>", None, 3 * 4),
    ],
)
def test_tags_of_a_video_of_five_frames(
    kind: str, text: str, tags: tuple[str, ...] | None, words: int
) -> None:
    import numpy

    made = _processor(kind)
    metadata = [{"fps": 2.0, "total_num_frames": 5, "frames_indices": list(range(5)), "duration": 2.5}]
    out = made(
        videos=[numpy.zeros((5, 112, 112, 3), numpy.uint8)], text=[text.format(made.video_token)],
        video_metadata=metadata, videos_kwargs={**FAST, "do_sample_frames": False},
    )  # fmt: skip
    tags = tags or ("<|begin_of_video|>", "<|end_of_video|>", "<|begin_of_image|>", "<|end_of_image|>")
    special = positions(out["input_ids"], made.tokenizer.convert_tokens_to_ids(list(tags)))
    assert _count(kind).video(5, 112, 112).extra_tokens == special + words
