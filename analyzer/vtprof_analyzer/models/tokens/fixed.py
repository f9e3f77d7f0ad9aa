"""Families whose images or clips become the same number of tokens whatever their size: Q-Formers, resamplers, fixed grids.

The number is the processor's or the config's own (queries, placeholders), or the grid of the one size that images get.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.item import (
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.sides import sides, whole_config
from vtprof_schemas.errors import DataError

TEXT_TAGS = 6
"""``<Img>`` and ``</Img>`` as plain text: three Llama tokens each."""
Clips = Literal["no", "fixed", "frames"]


@dataclass(frozen=True)
class Fixed(Unsupported):
    """Counter of one model: tokens of an image, tags around them, what the encoder runs on."""

    model: str = field()
    tokens: int
    extra: int
    grid: tuple[int, int]
    """Patches of one image or frame."""
    clips: Clips = "no"
    """Whether videos are taken: a fixed count for a clip, or the image's for every frame."""
    clip_tokens: int = 0
    images: bool = True

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image: its size does not matter."""
        if not self.images:
            return super().image(height, width, images)
        check_image(height, width)
        return ItemTokens(self.tokens, self.extra, (PatchGrid(1, *self.grid),))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a clip: by frames, or the same whatever their number (a Q-Former over the clip)."""
        if self.clips == "no":
            return super().video(frames, height, width)
        check_video(frames, height, width)
        tokens = self.tokens * frames if self.clips == "frames" else self.clip_tokens
        return ItemTokens(tokens, self.extra, (PatchGrid(frames, *self.grid),))


def counter(files: ModelFiles) -> Fixed:
    """Read the count of a model type; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    return _RULES[kind](files, whole_config(files, kind))


def _grid(files: ModelFiles, section: Fields | None, size: int, patch: int) -> tuple[int, int]:
    """Return the encoder's grid: the side that images get, by the processor or else the model, over the patch."""
    vision = section or Fields({}, "vision_config", "config.json", files.assumed)
    given = files.image_fields()
    model_side = vision.integer("image_size", default=size)
    if given.first("size") is not None:
        height, width = sides(given, "size", (model_side, model_side))
    else:
        height = width = model_side
    side = vision.integer("patch_size", default=patch)
    if min(height, width) < side:
        raise vision.fault("patch_size", f"is {side}, more than the image's {height}x{width} pixels")
    return height // side, width // side


def _queries(files: ModelFiles, config: Fields, default: int = 32) -> int:
    """Return the Q-Former's queries: the processor's number, or else the model's."""
    given = files.processor_fields()
    if given.first("num_query_tokens") is not None:
        return given.integer("num_query_tokens")
    return config.integer("num_query_tokens", default=default)


def _blip(files: ModelFiles, config: Fields) -> Fixed:
    queries = _queries(files, config)
    return Fixed("BLIP-2", queries, 0, _grid(files, config.section("vision_config"), 224, 14))


def _instructblip_video(files: ModelFiles, config: Fields) -> Fixed:
    # The processor writes placeholders for four frames, whatever it is given; the model takes four.
    queries = _queries(files, config)
    grid = _grid(files, config.section("vision_config"), 224, 14)
    return Fixed("InstructBLIP-Video", queries, 0, grid, "fixed", 4 * queries, images=False)


def _minigpt_4(files: ModelFiles, config: Fields) -> Fixed:
    grid = _grid(files, config.section("vision_config"), 224, 14)
    return Fixed("MiniGPT-4", _queries(files, config), TEXT_TAGS, grid)


def _minigpt_v2(files: ModelFiles, config: Fields) -> Fixed:
    rows, columns = _grid(files, config.section("vision_config"), 448, 14)
    joined = config.integer("joined_tokens", default=4)
    return Fixed("MiniGPT-v2", rows * columns // joined, TEXT_TAGS, (rows, columns))


def _video_qformer(files: ModelFiles, config: Fields) -> Fixed:
    """Video-LLaMA and VideoChat: queries over the whole clip; an image is a clip of one frame."""
    queries = config.integer("num_video_query_tokens", "num_query_tokens", default=32)
    grid = _grid(files, config.section("vision_config"), 224, 14)
    return Fixed("a model with a video Q-Former", queries, TEXT_TAGS, grid, "fixed", queries)


def _placeholders(
    model: str, key: str, default: int, extra: int, size: int, patch: int
) -> Callable[[ModelFiles, Fields], Fixed]:
    """Return the rule of a processor that writes a number of placeholders of its own."""

    def rule(files: ModelFiles, config: Fields) -> Fixed:
        tokens = files.processor_fields().integer(key, default=default)
        return Fixed(model, tokens, extra, _grid(files, config.section("vision_config"), size, patch))

    return rule


def _chameleon(files: ModelFiles, _config: Fields) -> Fixed:
    tokens = files.processor_fields().integer("image_seq_length", default=1024)
    # The codebook's grid; in front of it stand convolutions over the pixels.
    return Fixed("Chameleon", tokens, 2, (32, 32))


def _kosmos_2(files: ModelFiles, config: Fields) -> Fixed:
    queries = config.integer("latent_query_num", default=64)
    vision = config.section("vision_config")
    return Fixed("Kosmos-2", queries, 2, _grid(files, vision, 224, 14))


def _kosmos_2_5(files: ModelFiles, config: Fields) -> Fixed:
    # The number of placeholders is the model's; patches fill up to a fixed number that the encoder computes.
    given = files.processor_fields()
    if given.first("num_image_tokens") is not None:
        tokens = given.integer("num_image_tokens")
    else:
        tokens = config.integer("latent_query_num", default=2048)
    patches = files.image_fields().integer("max_patches", default=4096)
    return Fixed("Kosmos-2.5", tokens, 2, (1, patches))


def _florence_2(files: ModelFiles, _config: Fields) -> Fixed:
    tokens = files.image_fields().integer("image_seq_length", default=577)
    side = sides(files.image_fields(), "size", (768, 768))
    return Fixed("Florence-2", tokens, 0, (max(1, side[0] // 4), max(1, side[1] // 4)))


def _git(files: ModelFiles, config: Fields) -> Fixed:
    vision = config.section("vision_config")
    grid = _grid(files, vision, 224, 16)
    # All patches and the class token; frames of a video one behind the other.
    return Fixed("GIT", grid[0] * grid[1] + 1, 0, grid, "frames")


def _glm_4v(files: ModelFiles, config: Fields) -> Fixed:
    if config.first("vision_config") is None:
        raise DataError(
            f"{files.name}: a text-only chatglm takes no media; give a vision-language model's folder"
        )
    # Four patches become one by a convolution; learned begin and end vectors take the places of their tags.
    grid = _grid(files, config.section("vision_config"), 1120, 14)
    return Fixed("GLM-4V", (grid[0] // 2) * (grid[1] // 2) + 2, 0, grid)


def _cogvlm(files: ModelFiles, config: Fields) -> Fixed:
    # Learned begin and end vectors; CogVLM2 (grouped queries) joins four patches by a convolution.
    second = config.first("num_multi_query_heads") is not None
    grid = _grid(files, config.section("vision_config"), 1344 if second else 490, 14)
    step = 2 if second else 1
    return Fixed("CogVLM", (grid[0] // step) * (grid[1] // step) + 2, 0, grid)


def _owl_2(files: ModelFiles, config: Fields) -> Fixed:
    """mPLUG-Owl2: the queries of the abstractor and a learned end vector."""
    parts = config.section("visual_config") or Fields({}, "visual_config", "config.json", files.assumed)
    vision, abstractor = parts.section("visual_model"), parts.section("visual_abstractor")
    queries = (abstractor or parts).integer("num_learnable_queries", default=64)
    return Fixed("mPLUG-Owl2", queries + 1, 0, _grid(files, vision, 448, 14))


def _moondream(files: ModelFiles, config: Fields) -> Fixed:
    grid = _grid(files, config.section("vision_config"), 378, 14)
    return Fixed("Moondream", grid[0] * grid[1], 0, grid)


def _flamingo(files: ModelFiles, config: Fields) -> Fixed:
    """The resampler's latents are positions of the cross-attention; the text holds one tag."""
    latents = config.integer("num_latents", default=64)
    grid = _grid(files, config.section("vision_config"), 224, 14)
    return Fixed("Flamingo", latents, 1, grid, "fixed", latents)


def _honeybee(files: ModelFiles, config: Fields) -> Fixed:
    projector = config.section("projector_config") or Fields(
        {}, "projector_config", "config.json", files.assumed
    )
    queries = projector.integer("num_query_tokens", default=144)
    ends = projector.integer("num_eos_tokens", default=0, minimum=0)
    return Fixed("Honeybee", queries + ends, 0, _grid(files, config.section("vision_config"), 336, 14))


_RULES: dict[str, Callable[[ModelFiles, Fields], Fixed]] = {
    "blip-2": _blip,
    "instructblip": _blip,
    "instructblipvideo": _instructblip_video,
    "minigpt4": _minigpt_4,
    "minigpt_v2": _minigpt_v2,
    "video_llama": _video_qformer,
    "videochat": _video_qformer,
    "deepseek_vl": _placeholders("DeepSeek-VL", "num_image_tokens", 576, 0, 384, 16),
    "deepseek_vl_hybrid": _placeholders("DeepSeek-VL", "num_image_tokens", 576, 0, 384, 16),
    "janus": _placeholders("Janus", "num_image_tokens", 576, 2, 384, 16),
    "chameleon": _chameleon,
    "kosmos-2": _kosmos_2,
    "kosmos-2.5": _kosmos_2_5,
    "florence2": _florence_2,
    "git": _git,
    "chatglm": _glm_4v,
    "cogvlm": _cogvlm,
    "mplug_owl2": _owl_2,
    "moondream1": _moondream,
    "flamingo": _flamingo,
    "honeybee": _honeybee,
}
