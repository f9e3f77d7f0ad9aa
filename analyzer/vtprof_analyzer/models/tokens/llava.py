"""Visual tokens of LLaVA-1.5 and its kin: one resized and cropped image, a token for each patch.

Read by the same rule: VipLLaVA, BakLLaVA, FastVLM (patches of 64 pixels) and Video-LLaVA, whose frames keep their class
token. LLaVA with Pixtral's tower follows Pixtral's rule; the original projects' configs, which name their tower in
``mm_vision_tower``, have a rule of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.original_llava import is_original
from vtprof_analyzer.models.tokens.item import (
    Counter,
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.resize import Resize, read_resize
from vtprof_analyzer.models.tokens.sides import whole_config
from vtprof_analyzer.models.tokens.size_fields import section
from vtprof_schemas.errors import ConfigError


@dataclass(frozen=True)
class Tower:
    """What a token rule reads of the tower, from the processor's fields or else from the config."""

    side: int
    """Pixels of the square image that the tower was made for."""
    patch: int
    extra: int
    """Class tokens of the tower that the processor adds to the patches."""
    drops_first: bool
    """Strategy ``default``: the class token is cut off again."""

    def patches(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches; raise `ConfigError` where the image has none."""
        rows, columns = height // self.patch, width // self.patch
        if rows < 1 or columns < 1:
            raise ConfigError(
                f"image of {height}x{width} pixels after resizing: smaller than a patch of {self.patch} pixels;"
                " check crop_size"
            )
        return rows, columns

    @property
    def added(self) -> int:
        """Return what class tokens add to the tokens of an image, or take from them."""
        return self.extra - int(self.drops_first)


def read_tower(files: ModelFiles, family: str, side: int = 336, patch: int = 14) -> Tower:
    """Read the tower's numbers; ``side`` and ``patch`` stand in where neither processor nor config has them."""
    config = whole_config(files, family)
    vision = section(config, "vision_config")
    processor = files.processor_fields()
    kind = vision.text("model_type", default="") or ""
    class_token = 1 if "clip" in kind else 0
    strategy = processor.text("vision_feature_select_strategy") or config.text(
        "vision_feature_select_strategy"
    )
    if processor.first("num_additional_image_tokens") is not None:
        extra = processor.integer("num_additional_image_tokens", minimum=0)
    else:
        # Older processor configs leave it out; the model's own count of positions decides then.
        extra = class_token
    if processor.first("patch_size") is not None and not isinstance(processor.first("patch_size"), Mapping):
        patch = processor.integer("patch_size")
    elif vision.first("patch_size") is not None:
        patch = vision.integer("patch_size")
    else:
        processor.assume("patch_size")
    if vision.first("image_size") is not None:
        side = vision.integer("image_size")
    return Tower(side, patch, extra, drops_first=strategy != "full")


class _Llava(Unsupported):
    """One image, one encoder sequence."""

    model = "LLaVA"

    def __init__(self, tower: Tower, resize: Resize) -> None:
        self._tower = tower
        self._resize = resize

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        rows, columns = self._tower.patches(*self._resize.sides(height, width))
        tokens = max(0, rows * columns + self._tower.added)
        return ItemTokens(tokens, grids=(PatchGrid(1, rows, columns),))


class _VideoLlava(_Llava):
    """The same, and videos whose frames are images with their class token."""

    model = "Video-LLaVA"

    def __init__(self, tower: Tower, resize: Resize, frames: Resize) -> None:
        super().__init__(tower, resize)
        self._frames = frames

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: every frame handed over is encoded."""
        check_video(frames, height, width)
        rows, columns = self._tower.patches(*self._frames.sides(height, width))
        tokens = frames * (rows * columns + self._tower.extra)
        return ItemTokens(tokens, grids=(PatchGrid(frames, rows, columns),))


def counter(files: ModelFiles) -> Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    config = files.config or {}
    kind = config.get("model_type")
    if is_original(config):
        from vtprof_analyzer.models.tokens import llava_original

        return llava_original.counter(files)
    vision = config.get("vision_config")
    if isinstance(vision, Mapping) and vision.get("model_type") == "pixtral":
        from vtprof_analyzer.models.tokens import pixtral

        return pixtral.counter(files)
    if kind == "video_llava" or _processor(files) == "VideoLlavaProcessor":
        tower = read_tower(files, "video_llava", side=224)
        frames = read_resize(files.video_fields(), tower.side, crops=True)
        return _VideoLlava(tower, read_resize(files.image_fields(), tower.side, crops=True), frames)
    if kind == "fast_vlm":
        tower = read_tower(files, "fast_vlm", side=1024, patch=64)
    else:
        tower = read_tower(files, "vipllava" if kind == "vipllava" else "llava")
    # SigLIP's processor, which some LLaVA fine-tunes have, does not crop.
    crops = files.image_fields().first("image_processor_type") not in (
        "SiglipImageProcessor",
        "SiglipImageProcessorFast",
    )
    return _Llava(tower, read_resize(files.image_fields(), tower.side, crops=crops))


def _processor(files: ModelFiles) -> object:
    return files.processor_fields().first("processor_class") if files.has_processor else None
