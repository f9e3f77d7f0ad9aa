"""What the processors of native resolution do, family by family: class defaults, ways to resize, tags and time stamps."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from vtprof_analyzer.models.tokens.cells import clip_resize, enlarge, smart_resize


@dataclass(frozen=True)
class Geometry:
    """Patch side, patches merged to a side of a token, frames of a temporal patch, and the pixel limits."""

    patch: int
    merge: int
    temporal: int
    limits: tuple[int, int]
    frame_tokens: int | None = None
    """``max_video_tokens`` where ``cap_pixels_per_frame`` is set."""

    @property
    def cell(self) -> int:
        """Return the side of the square of pixels that becomes one token."""
        return self.patch * self.merge


Resize = Callable[[Geometry, int, int, int], tuple[int, int]]
"""Height and width [pixels] of each of so many frames of a height and width."""


def by_frame(geometry: Geometry, frames: int, height: int, width: int) -> tuple[int, int]:
    """Resize frames one by one; capped, a share of 90 % of a context of ``max_video_tokens`` limits them too."""
    least, most = geometry.limits
    if geometry.frame_tokens is not None:
        budget = int(geometry.frame_tokens * geometry.cell * geometry.cell * 0.9)
        most = max(min(most, budget * geometry.temporal // frames), int(least * 1.05))
    return smart_resize(height, width, geometry.cell, least, most)


def by_clip(geometry: Geometry, frames: int, height: int, width: int) -> tuple[int, int]:
    """Resize with limits for all frames together; capped, ``max_video_tokens`` limit each frame too."""
    least, most = geometry.limits
    if geometry.frame_tokens is not None:
        cell = geometry.frame_tokens * geometry.cell * geometry.cell
        most = frames * max(min(cell, most // frames), int(least * 1.05))
    return clip_resize(frames, height, width, geometry.temporal, geometry.cell, least, most)


def by_share(geometry: Geometry, frames: int, height: int, width: int) -> tuple[int, int]:
    """Resize frames one by one to an even share of the clip's pixels (VideoLLaMA 3)."""
    least, most = geometry.limits
    return smart_resize(height, width, geometry.cell, least, max(1, most // frames))


def enlarged(geometry: Geometry, frames: int, height: int, width: int) -> tuple[int, int]:
    """Resize as `by_frame` after a side below a cell has been enlarged to it (PaddleOCR-VL, Keye-VL)."""
    return by_frame(geometry, frames, *enlarge(height, width, geometry.cell))


@dataclass(frozen=True)
class Rule:
    """What a family's processor classes do where their config is silent, and the tags around what they count."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    image_limits: tuple[int, int] = (56 * 56, 28 * 28 * 1280)
    image_resize: Resize = by_frame
    images_share: bool = False
    """The limits hold for all images of a request together."""
    image_tags: int = 2
    row_vectors: int = 0
    """Learned vectors behind each row of tokens of an image."""
    end_vectors: int = 0
    """Learned vectors around an image where ``cat_extra_token`` is set."""
    video_limits: tuple[int, int] = (128 * 28 * 28, 768 * 28 * 28)
    """Of a frame or of a clip, as ``video_resize`` takes it."""
    video_resize: Resize | None = by_frame
    """None: no video."""
    video_merge: int | None = None
    """Patches merged to a side of a token where videos differ from images."""
    video_tokens: int = 128_000
    """``max_video_tokens`` of the class."""
    fixed_video: bool = False
    """The processor hands its own limits to the video processor, whatever that one's config says."""
    merges_frames: bool = False
    """Frames pass the tower one by one; a temporal patch is merged behind it."""
    video_tags: int = 2
    """Tags around a whole clip."""
    frame_tags: int = 0
    """Tags and text around each temporal patch, digits of the time stamp's seconds excluded."""
    digits: int | None = None
    """Digits of a time stamp's whole seconds that are one text token; None: no time stamp."""
    hears: str | None = None
    """Model type of the rule for audio."""


_QWEN_2 = Rule()
# Around each temporal patch ``<12.5 seconds>`` and two tags: "<", ".", a digit behind it, " seconds", ">".
_QWEN_3 = Rule(
    patch=16,
    video_limits=(128 * 32 * 32, 768 * 32 * 32),
    video_resize=by_clip,
    video_tokens=768,
    frame_tags=2 + 5,
    digits=1,
)
_QWEN_2_OMNI = dataclasses.replace(_QWEN_2, fixed_video=True, hears="qwen2_5_omni")
_QWEN_3_OMNI = dataclasses.replace(
    _QWEN_2, patch=16, video_limits=(128 * 32 * 32, 768 * 32 * 32), fixed_video=True, hears="qwen3_omni_moe"
)
_GLM = Rule(
    image_limits=(112 * 112, 28 * 28 * 15000),
    image_resize=by_clip,
    video_limits=(112 * 112, 28 * 28 * 2 * 30000),
    video_resize=by_clip,
    frame_tags=2,
    digits=3,
)
# The time stamp has a fraction and a unit: ".", a digit, " seconds".
_GLM_46 = dataclasses.replace(_GLM, frame_tags=2 + 3)
_KEYE = Rule(
    temporal=1, image_limits=(28 * 28 * 4, 28 * 28 * 1280), image_resize=enlarged, video_resize=enlarged
)
_ERNIE = Rule(
    image_limits=(56 * 56, 28 * 28 * 6177),
    # "Picture 1:" before an image and "Video 1:" before a video are four pieces each.
    image_tags=2 + 4,
    video_limits=(299 * 28 * 28, 1196 * 28 * 28),
    merges_frames=True,
    video_tags=2 + 4,
)
# A line break behind an image; "Time 12.5s:" and a comma for each frame, one line break behind all of them.
_VIDEO_LLAMA_3 = Rule(
    merge=1,
    temporal=1,
    image_tags=1,
    video_resize=by_share,
    video_merge=2,
    video_tags=0,
    frame_tags=7,
    digits=1,
)
RULES: dict[str, Rule] = {
    "qwen2_vl": _QWEN_2,
    "qwen2_5_vl": _QWEN_2,
    "exaone4_5": _QWEN_2,
    "qwen2_5_omni": _QWEN_2_OMNI,
    "qwen2_5_omni_thinker": _QWEN_2_OMNI,
    "qwen3_omni_moe": _QWEN_3_OMNI,
    "qwen3_omni_moe_thinker": _QWEN_3_OMNI,
    "dots_ocr": dataclasses.replace(_QWEN_2, temporal=1, video_resize=None),
    "qwen3_vl": _QWEN_3,
    "qwen3_vl_moe": _QWEN_3,
    "qwen3_5": _QWEN_3,
    "qwen3_5_moe": _QWEN_3,
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm46v": _GLM_46,
    "glm_ocr": _GLM_46,
    "paddleocr_vl": Rule(
        temporal=1, image_limits=(384 * 384, 1536 * 1536), image_resize=enlarged, video_resize=None
    ),
    "keye": _KEYE,
    "Keye": _KEYE,
    "hunyuan_vl": Rule(
        patch=16,
        temporal=1,
        image_limits=(512 * 512, 2048 * 2048),
        row_vectors=1,
        end_vectors=2,
        video_resize=None,
    ),
    "ernie4_5_vl_moe": _ERNIE,
    "ernie4_5_moe_vl": _ERNIE,
    "video_llama_3": _VIDEO_LLAMA_3,
    # Its own code limits tokens, and all images of a request together.
    "videollama3_qwen2": dataclasses.replace(
        _VIDEO_LLAMA_3,
        image_limits=(16 * 14 * 14, 16_384 * 14 * 14),
        image_resize=by_share,
        images_share=True,
        video_limits=(16 * 28 * 28, 16_384 * 28 * 28),
    ),
}
"""Model type to what its processors do."""
STAMPED = {"glm4v": "glm46v", "glm4v_moe": "glm46v"}
"""Families whose later checkpoints (GLM-4.6V) have the processor of another one."""
