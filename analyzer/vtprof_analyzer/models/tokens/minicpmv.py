"""Visual tokens of MiniCPM-V and MiniCPM-OCR: an overview and slices, each one an encoder sequence of its own shape.

The resampler of the remote-code models makes a fixed number of tokens of each; MiniCPM-V 4.6 and MiniCPM-OCR merge 4 or
16 patches into one. Tags around overview and slices, the image's number and line breaks between rows are extra.
"""

import math
from dataclasses import dataclass, field

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
from vtprof_analyzer.models.tokens.sides import tiles, whole_config
from vtprof_schemas.errors import ConfigError

ID_TAGS = 3
"""``<image_id>0</image_id>``."""


@dataclass(frozen=True)
class Slices:
    """How an image is cut."""

    most: int = 9
    side: int = 448
    """Root of the pixels that overview and slices get."""
    patch: int = 14
    merge: int = 1
    """Patches along the side of the square that becomes a token; 1 before a resampler."""
    enabled: bool = True
    prefers_rows: bool = False
    """Of grids that fit alike take the one of most rows, else the first."""

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Return rows and columns of slices; None for an image that is not cut."""
        wanted = min(math.ceil(width * height / self.side**2), self.most)
        if wanted <= 1 or not self.enabled:
            return None
        log_ratio, best, least = math.log(width / height), (1, 1), math.inf
        for count in (wanted - 1, wanted, wanted + 1):
            if count == 1 or count > self.most:
                continue
            for columns in range(1, count + 1):
                if count % columns:
                    continue
                rows = count // columns
                error = abs(log_ratio - math.log(columns / rows))
                if error < least or (error == least and self.prefers_rows and rows > best[0]):
                    best, least = (rows, columns), error
        return best

    def patches(self, height: float, width: float, enlarge: bool) -> tuple[int, int]:
        """Return height and width in patches of an overview or a slice."""
        if height * width > self.side**2 or enlarge:
            ratio = width / height
            height = int(self.side / math.sqrt(ratio))
            width = int(height * ratio)
        cell = self.patch * self.merge
        return nearest(height, cell) // self.patch, nearest(width, cell) // self.patch

    def views(self, height: int, width: int) -> tuple[PatchGrid, ...]:
        """Return the encoder sequences of an image: the overview, and the slices if there are any."""
        grid = self.grid(height, width)
        overview = PatchGrid(1, *self.patches(height, width, enlarge=grid is None))
        if grid is None:
            return (overview,)
        rows, columns = grid
        part = self.patches(nearest(height, rows) / rows, nearest(width, columns) / columns, enlarge=True)
        return overview, PatchGrid(rows * columns, *part)


def nearest(length: float, cell: int) -> int:
    """Return the multiple of ``cell`` next to a length, at least one."""
    return max(round(length / cell) * cell, cell)


@dataclass(frozen=True)
class Sliced(Unsupported):
    """Counter of one model."""

    model: str = field()
    slices: Slices
    frames: Slices | None
    """How frames of a video are cut; None where the model takes none."""
    queries: int | None = None
    """Tokens of each view; None where patches are merged."""
    numbered: bool = False
    """The image's number stands before it."""
    wrapped: bool = False
    """One more pair of tags around all slices (2.0 and 2.5)."""
    frames_numbered: bool = False

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        tokens, extra, views = self._count(self.slices, height, width)
        return ItemTokens(tokens, extra + ID_TAGS * self.numbered, views)

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: each frame is an image."""
        if self.frames is None:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        tokens, extra, views = self._count(self.frames, height, width)
        all_views = tuple(PatchGrid(frames * view.count, view.height, view.width) for view in views)
        return ItemTokens(frames * tokens, frames * extra + ID_TAGS * self.frames_numbered, all_views)

    def _count(self, slices: Slices, height: int, width: int) -> tuple[int, int, tuple[PatchGrid, ...]]:
        if max(height, width) / min(height, width) > slices.side**2:
            raise ConfigError(
                f"image of {height}x{width} pixels: one side is so much longer that none of the other is left"
                f" after resizing, which the processor of {self.model} refuses"
            )
        views = slices.views(height, width)
        parts = sum(view.count for view in views)
        if self.queries is not None:
            tokens = parts * self.queries
        else:
            tokens = sum(view.count * (view.height * view.width // slices.merge**2) for view in views)
        grid = slices.grid(height, width)
        extra = 2 * parts
        if grid is not None:
            extra += grid[0] - 1 + 2 * self.wrapped
        return tokens, extra, views


def counter(files: ModelFiles) -> Sliced:
    """Read the limits; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    fields = files.image_fields()
    if kind in ("minicpmv4_6", "minicpm_ocr"):
        mode = "4x" if kind == "minicpm_ocr" else "16x"
        model = "MiniCPM-OCR" if kind == "minicpm_ocr" else "MiniCPM-V 4.6"
        numbered = fields.flag("use_image_id", True)
        video = _slices(files.video_fields(), mode, merged=True)
        return Sliced(
            model, _slices(fields, mode, merged=True), video, numbered=numbered, frames_numbered=numbered
        )
    # Without config.json the processor's own version and number of tokens stand in.
    config = whole_config(files, kind) if files.config is not None else fields
    version = remote_version(config)
    slices = _slices(fields, "", merged=False)
    if config.first("query_num") is None and fields.first("image_feature_size") is not None:
        queries = fields.integer("image_feature_size")
    else:
        queries = config.integer("query_num", default=96 if version == (2, 5) else 64)
    old = version < (2, 6)
    frames = None if old else Slices(1, slices.side, slices.patch)
    return Sliced("MiniCPM-V", slices, frames, queries, numbered=not old, wrapped=old)


def remote_version(config: Fields) -> tuple[int, int]:
    """Return the version of a remote-code MiniCPM-V; of configs that name none, 2.0 by its sizes and else 2.5."""
    value = config.first("version")
    if value is None:
        small = config.first("hidden_size") == 2304 and config.first("query_num") == 64
        return (2, 0) if small else (2, 5)
    parts = str(value).split(".")
    if not all(part.isdigit() and len(part) < 4 for part in parts) or len(parts) > 2:
        raise config.fault("version", "is no version of MiniCPM-V")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def _slices(fields: Fields, mode: str, merged: bool) -> Slices:
    if merged:
        mode = fields.text("downsample_mode", default=mode) or mode
    return Slices(
        most=tiles(fields, "max_slice_nums", default=9),
        side=fields.integer("scale_resolution", default=448),
        patch=fields.integer("patch_size", default=14),
        merge=(2 if mode == "4x" else 4) if merged else 1,
        enabled=fields.flag("slice_mode", True),
        prefers_rows=merged,
    )
