"""Tokens of Kimi-VL and Kimi K2.5: images shrink to a number of patches and are padded to whole cells; clips in chunks."""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image, check_video
from vtprof_schemas.errors import ConfigError

_IMAGE_TEXT = 4
"""``<|media_begin|>``, "image", ``<|media_content|>``, ``<|media_end|>``."""
_CHUNK_TEXT = 4 + 7
"""The same around each chunk, and before it its time "00:00:12.000", of which each number and sign is a token."""
_SIDE = 512
"""Patches of a side, at most: rows of the rotary table."""


@dataclass(frozen=True)
class Budget:
    """Patches of an image or frame, at most in all and of a side, and what becomes one token."""

    patch: int
    merge: int
    patches: int
    side: int | None
    """None: a longer side is refused."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in patches, padding included; raise `ConfigError` for a size that is refused."""
        scale = 1.0
        if self.side is None:
            whole = (height // self.patch) * (width // self.patch)
        else:
            whole = max(1, height // self.patch) * max(1, width // self.patch)
            scale = min(scale, self.side * self.patch / height, self.side * self.patch / width)
        if whole > self.patches:
            scale = min(scale, math.sqrt(self.patches / whole))
        sides = [max(1, int(height * scale)), max(1, int(width * scale))]
        if self.side is not None:
            sides = [min(side, self.side * self.patch) for side in sides]
        cell = self.patch * self.merge
        rows, columns = (-(-side // cell) * self.merge for side in sides)
        if self.side is None and max(rows, columns) >= _SIDE:
            raise ConfigError(
                f"image of {height}x{width} pixels: a side of {max(rows, columns)} patches, and the model's processor"
                f" refuses {_SIDE} and more"
            )
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class MoonVit(Unsupported):
    """Counter of one model."""

    model: str
    images: Budget
    frames: Budget | None
    """None: no video."""
    chunk: int = 1
    """Frames that are averaged to one."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        rows, columns = self.images.grid(height, width)
        return ItemTokens(rows * columns // self.images.merge**2, _IMAGE_TEXT, (PatchGrid(1, rows, columns),))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: the frames of a chunk attend to one another and are averaged; the last may have fewer."""
        if self.frames is None:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        rows, columns = self.frames.grid(height, width)
        whole, rest = divmod(frames, self.chunk)
        grids = [PatchGrid(whole, self.chunk * rows, columns)] if whole else []
        if rest:
            grids.append(PatchGrid(1, rest * rows, columns))
        chunks = len(grids[1:]) + whole if whole else 1
        tokens = chunks * rows * columns // self.frames.merge**2
        return ItemTokens(tokens, chunks * _CHUNK_TEXT, tuple(grids))


def counter(files: ModelFiles) -> MoonVit:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    image = files.image_fields()
    if kind == "kimi_vl":
        merge = image.integer("merge_kernel_size", default=2)
        budget = Budget(
            image.integer("patch_size", default=14),
            merge,
            image.integer("in_token_limit", default=4096),
            None,
        )
        return MoonVit(model=kind, images=budget, frames=None)
    # As published for the remote code everything lies in one section; transformers has a field for each.
    image = image.section("media_proc_cfg") or image
    video = image if "in_patch_limit_each_frame" in image.values else files.video_fields()
    chunk = video.integer("temporal_merge_kernel_size", "temporal_patch_size", default=4)
    return MoonVit(
        model=kind,
        images=_budget(image, ("in_patch_limit", "max_patches"), 16_384),
        frames=_budget(video, ("in_patch_limit_each_frame", "max_patches"), 4096),
        chunk=chunk,
    )


def _budget(fields: Fields, limit: tuple[str, ...], default: int) -> Budget:
    size = fields.section("size")
    if size is not None and fields.first("patch_limit_on_one_side") is None:
        side = size.integer("max_height", default=_SIDE)
    else:
        side = fields.integer("patch_limit_on_one_side", default=_SIDE)
    return Budget(
        fields.integer("patch_size", default=14),
        fields.integer("merge_kernel_size", "merge_size", default=2),
        fields.integer(*limit, default=default),
        side,
    )
