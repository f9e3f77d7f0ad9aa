"""Patch arithmetic (F1, F2, F6): the fallback for models without a token rule of their own, said so wherever it answers.

A fixed size that the preprocessor names is resized to; else the image keeps its own. Incomplete patches and incomplete
merged cells count whole (`Rounding` ``ceil``), as if padded; separators, tiles and pixel limits are not known.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.config_file import CONFIG_FILE
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image, check_video
from vtprof_analyzer.models.tokens.sides import sides
from vtprof_schemas.errors import DataError

Rounding = Literal["floor", "ceil", "exact"]
_SECTIONS = ("vision_config", "visual", "vision_tower", "mm_vision_tower", "vision_tower_cfg")
_PATCH = ("patch_size", "spatial_patch_size")
_MERGE = ("spatial_merge_size", "merge_size", "scale_factor")


def patch_grid(height: int, width: int, patch: int, rounding: Rounding = "exact") -> tuple[int, int]:
    """Return rows and columns of patches [patches] of an image [pixels] (F1).

    ``exact`` raises `ValueError` for a side that is no multiple of the patch: which way it rounds is the model's choice.
    """
    if rounding == "exact" and (height % patch or width % patch):
        raise ValueError(
            f"{height}x{width} is no multiple of patches of {patch} pixels: floor or ceil must be chosen"
        )
    if rounding == "ceil":
        return -(-height // patch), -(-width // patch)
    return height // patch, width // patch


def patch_values(patch: int, channels: int = 3, frames: int = 1) -> int:
    """Return the input values of one flattened patch (F4)."""
    return patch * patch * channels * frames


def video_tokens(seconds: float, frames_per_second: float, tokens_per_frame: float) -> float:
    """Return tokens of a video whose frames are encoded alone (F6)."""
    return seconds * frames_per_second * tokens_per_frame


@dataclass(frozen=True, kw_only=True)
class PatchCounter(Unsupported):
    """Counter of a model of which only its patches are known."""

    model: str
    patch: int
    merge: int
    """Patches of a side of the cell that becomes one token."""
    frames: int
    """Frames of a temporal patch."""
    size: tuple[int, int] | None
    """Height and width that every image is resized to; None: its own."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        return self._count(1, height, width)

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video; an incomplete temporal patch is padded."""
        check_video(frames, height, width)
        return self._count(-(-frames // self.frames), height, width)

    def _count(self, sequences: int, height: int, width: int) -> ItemTokens:
        rows, columns = patch_grid(*(self.size or (height, width)), self.patch * self.merge, "ceil")
        grid = PatchGrid(sequences, rows * self.merge, columns * self.merge)
        return ItemTokens(sequences * rows * columns, 0, (grid,))


def counter(files: ModelFiles) -> PatchCounter:
    """Read patch, merge and fixed size; raise `DataError` where not even a patch size is known."""
    top = Fields(complete(files.config or {}), "", CONFIG_FILE, files.assumed)
    kind = reprlib.repr(top.first("model_type"))
    image = files.image_fields()
    vision = next((section for key in _SECTIONS if (section := _section(top, key)) is not None), top)
    places = (vision, image, files.processor_fields(), top)
    patch = _first(places, _PATCH)
    if patch is None:
        raise DataError(
            f"{files.name}: model type {kind} has no token rule, and its files name no patch size to count by;"
            " add vision_config.patch_size to its config.json, or use a model of a known type"
        )
    files.assumed.append(
        f"model type {kind} has no token rule of its own, counted by patch arithmetic (incomplete patches rounded up)"
    )
    return PatchCounter(
        model=f"a model of type {kind}, which has no token rule of its own,",
        patch=patch,
        merge=_first(places, _MERGE) or _shuffle(top),
        frames=_first((vision, files.video_fields()), ("temporal_patch_size",)) or 1,
        size=_fixed_size(files, image, vision),
    )


def _section(top: Fields, key: str) -> Fields | None:
    """Return a section that is an object; some models name a checkpoint there."""
    return top.section(key) if isinstance(top.first(key), Mapping) else None


def _first(places: tuple[Fields, ...], keys: tuple[str, ...]) -> int | None:
    for fields in places:
        if fields.first(*keys) is not None:
            return fields.integer(*keys)
    return None


def _shuffle(top: Fields) -> int:
    """Return the merge that a ratio of pixel shuffle stands for: 0.5 is two patches a side."""
    ratio = top.number("downsample_ratio", "pixel_shuffle_ratio", default=1.0)
    return max(1, round(1.0 / ratio)) if 0.0 < ratio <= 1.0 and ratio > 1e-3 else 1


def _fixed_size(files: ModelFiles, image: Fields, vision: Fields) -> tuple[int, int] | None:
    """Return the size that the preprocessor resizes or crops to; without one, the tower's where no file tells more."""
    for key, switch in (("crop_size", "do_center_crop"), ("size", "do_resize")):
        value = image.first(key)
        fixed = isinstance(value, (int, list)) or (
            isinstance(value, Mapping) and {"height", "width"} <= set(value)
        )
        if fixed and not isinstance(value, bool) and image.values.get(switch) is not False:
            return sides(image, key, (0, 0))
    if files.has_processor or vision.first("image_size") is None:
        return None
    return sides(vision, "image_size", (0, 0))
