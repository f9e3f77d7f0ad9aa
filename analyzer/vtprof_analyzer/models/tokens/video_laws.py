"""Video models of the LLaVA kind from papers: a law each from frames to tokens, with where its constants come from.

Frames are those handed to the encoder. Where a paper samples a fixed number of frames, its count holds for that number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import (
    Counter,
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_schemas.errors import DataError

Growth = Literal["fixed", "linear", "sub-linear"]


@dataclass(frozen=True)
class Law:
    """Tokens of a clip from its frames."""

    name: str
    growth: Growth
    """With more frames."""
    patches: int
    """On a side of a frame, in the encoder."""
    image: int
    """Tokens of an image; 0 where the model takes none."""
    clip: Callable[[int, Fields], int]
    """Frames and the config's fields to tokens."""
    source: str
    tags_per_frames: int = 0
    """Text tags: one for each so many frames; 0 is none."""
    caveat: str = ""
    """What the count leaves open, said beside it."""


def _spatio_temporal(frames: int, _: Fields) -> int:
    return frames + 256


def _unires(frames: int, _: Fields) -> int:
    return 144 * frames


def _slow_fast(frames: int, fields: Fields) -> int:
    slow = min(frames, fields.integer("slow_frames", default=10))
    return slow * 12 * 24 + frames * 4 * 4


def _segments(frames: int, fields: Fields) -> int:
    return min(frames, fields.integer("segments", default=10)) * 30 + 5


def _clips_of_four(frames: int, fields: Fields) -> int:
    local = fields.integer("mm_local_num_frames", default=4)
    return math.ceil(frames / local) * fields.integer("mm_num_compress_latents", default=64)


def _memory(_: int, fields: Fields) -> int:
    return fields.integer("num_video_query_token", default=32)


def _synthesised(frames: int, _: Fields) -> int:
    return math.ceil(frames / 4) * 14 * 14


def _budget(frames: int, fields: Fields) -> int:
    most = fields.integer("max_visual_tokens", default=16384)
    low, high = (
        fields.integer("min_frame_tokens", default=16),
        fields.integer("max_frame_tokens", default=576),
    )
    return frames * max(low, min(high, most // frames))


LAWS: dict[str, Law] = {
    "VideoChatGPT": Law(
        "Video-ChatGPT", "linear", 16, 0, _spatio_temporal,
        "Paper: means over space give a token a frame, means over time 256 of 224/14; 356 at its 100 frames.",
    ),
    "longva": Law(
        "LongVA", "linear", 24, 144, _unires,
        "Paper (UniRes): 24 x 24 patches of 336/14 pooled 2 x 2, 144 a frame or tile.",
    ),
    "slowfast_llava": Law(
        "SlowFast-LLaVA", "linear", 24, 576, _slow_fast,
        "Paper: a slow path of 10 frames at 12 x 24 and a fast one of all at 4 x 4; 3680 at its 50 frames.",
    ),
    "longvlm": Law(
        "LongVLM", "fixed", 16, 0, _segments,
        "Paper: 10 segments merged to 30 tokens each and 5 global tokens, 305 at its 100 frames.",
    ),
    "videochat_flash_qwen": Law(
        "VideoChat-Flash", "linear", 14, 64, _clips_of_four,
        "Paper and config: clips of 4 frames merged to 64 tokens, 16 a frame.",
        caveat="the language model drops further tokens by depth, by content",
    ),
    "moviechat": Law(
        "MovieChat", "fixed", 16, 0, _memory,
        "Paper: a bounded memory of frames, read by a video Q-Former of 32 queries.",
    ),
    "video_xl_2": Law(
        "Video-XL-2", "linear", 27, 729, _synthesised,
        "Project page: its synthesis module compresses 4 times; that 4 frames become 14 x 14 tokens is an assumption.",
        tags_per_frames=4,
        caveat="tokens of four frames assumed from the published factor 4; a time stamp before each group",
    ),
    "dynamic_vlm": Law(
        "Dynamic-VLM", "sub-linear", 24, 576, _budget,
        "Paper: a frame has the fewer tokens the longer the video, at most the 576 of 336/14; no budget published.",
        caveat="budget and bounds assumed; config.json may give max_visual_tokens, min_ and max_frame_tokens",
    ),
}  # fmt: skip
"""By model type: that of the project's config, or the project's name where its weights come without one."""


class _Clip(Unsupported):
    def __init__(self, law: Law, fields: Fields) -> None:
        self.model = law.name
        self._law = law
        self._fields = fields

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image, of models that take them."""
        if not self._law.image:
            return super().image(height, width, images)
        check_image(height, width)
        return ItemTokens(self._law.image, grids=(PatchGrid(1, self._law.patches, self._law.patches),))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a clip by the model's law."""
        check_video(frames, height, width)
        law = self._law
        tags = math.ceil(frames / law.tags_per_frames) if law.tags_per_frames else 0
        grid = PatchGrid(frames, law.patches, law.patches)
        return ItemTokens(law.clip(frames, self._fields), tags, (grid,))


def counter(files: ModelFiles) -> Counter:
    """Return the law of a model type, and note what it leaves open; raise `DataError` for a type without one."""
    kind = (files.config or {}).get("model_type")
    law = LAWS.get(kind) if isinstance(kind, str) else None
    if law is None:
        raise DataError(
            f"{files.name}: config.json: model_type has no law of video tokens; known are {', '.join(LAWS)}"
        )
    if law.caveat:
        files.assumed.append(f"{law.name}; {law.caveat}")
    fields = Fields(files.config or {}, "", "config.json")
    law.clip(1, fields)  # a field at fault is named when the files are read, not with the first clip
    return _Clip(law, fields)
