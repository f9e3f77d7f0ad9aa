"""Visual tokens of Molmo and Molmo2: overlapping crops of the best fitting grid and an overview, pooled patch by patch.

Neighbouring crops share a margin that counts once. Start, end and column tags are extra.
"""

import math
import struct
from dataclasses import dataclass, field

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.item import (
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.sides import pair, square, tiles


def single(value: float) -> float:
    """Round to single precision, in which the processors compare scales."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


@dataclass(frozen=True)
class Crops:
    """How an image is cut into overlapping crops."""

    most: int
    side: int
    """Pixels of a crop's side."""
    margins: tuple[int, int] = (4, 4)
    """Patches that a crop shares with its left and right neighbour."""
    patch: int = 14

    @property
    def window(self) -> int:
        """Return the pixels that a crop adds to its neighbours."""
        return (self.side // self.patch - sum(self.margins)) * self.patch

    def tiling(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns: the least enlargement that holds the image, or else the least reduction."""
        margin = sum(self.margins) * self.patch
        best, best_rank = (1, 1), (False, -math.inf)
        grids = sorted(
            (rows * columns, rows, columns)
            for rows in range(1, self.most + 1)
            for columns in range(1, self.most // rows + 1)
        )
        for _, rows, columns in grids:
            scale = min(
                _over(rows * self.window, height - margin), _over(columns * self.window, width - margin)
            )
            # Any grid that holds the image goes before one that does not; of the former the tightest, of the latter
            # the largest, and of equals the first.
            rank = (True, -scale) if scale >= 1 else (False, scale)
            if rank > best_rank:
                best, best_rank = (rows, columns), rank
        return best

    def patches(self, count: int) -> int:
        """Return the patches along ``count`` crops, shared ones once."""
        return (count * self.window) // self.patch + sum(self.margins)


def _over(pixels: int, length: int) -> float:
    return single(pixels / length) if length else math.inf


@dataclass(frozen=True)
class Overlapping(Unsupported):
    """Counter of one model."""

    model: str = field()
    crops: Crops
    pool: tuple[int, int] = (2, 2)
    columns_tagged: bool = True
    overview_tagged: bool = True
    frame_pool: tuple[int, int] | None = None
    """Pooling of video frames; None where the model takes no video."""
    frame_side: int = 378
    frame_columns_tagged: bool = False

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        rows, columns = self.crops.tiling(height, width)
        whole = self.crops.side // self.crops.patch
        low = math.ceil(whole / self.pool[0]), math.ceil(whole / self.pool[1])
        high = (
            math.ceil(self.crops.patches(rows) / self.pool[0]),
            math.ceil(self.crops.patches(columns) / self.pool[1]),
        )
        extra = 4 + low[0] * self.overview_tagged + high[0] * self.columns_tagged
        return ItemTokens(
            low[0] * low[1] + high[0] * high[1], extra, (PatchGrid(1 + rows * columns, whole, whole),)
        )

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: an overview of each frame between its tags, its time in front as one token."""
        if self.frame_pool is None:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        whole = self.frame_side // self.crops.patch
        rows, columns = math.ceil(whole / self.frame_pool[0]), math.ceil(whole / self.frame_pool[1])
        extra = 3 + rows * self.frame_columns_tagged
        return ItemTokens(frames * rows * columns, frames * extra, (PatchGrid(frames, whole, whole),))


def counter(files: ModelFiles) -> Overlapping:
    """Read the limits; raise `DataError` that names the field at fault."""
    fields, whole = files.image_fields(), files.processor_fields()
    if counted_type(files) == "molmo":
        crops = Crops(
            most=tiles(fields, "max_crops", default=12),
            side=square(fields, "base_image_input_size", 336),
            margins=pair(fields, "overlap_margins", (4, 4), minimum=0),
            patch=fields.integer("image_patch_size", default=14),
        )
        _check(files, crops)
        return Overlapping("Molmo", crops)
    crops = Crops(
        most=tiles(fields, "max_crops", default=8),
        side=square(fields, "size", 378),
        margins=pair(fields, "overlap_margins", (4, 4), minimum=0),
        patch=fields.integer("patch_size", default=14),
    )
    _check(files, crops)
    tagged = whole.flag("image_use_col_tokens", True)
    alone = whole.first("use_single_crop_col_tokens")
    video = files.video_fields()
    return Overlapping(
        "Molmo2",
        crops,
        pair(fields, "pooling_size", (2, 2)),
        tagged,
        tagged if alone is None else whole.flag("use_single_crop_col_tokens", True),
        pair(video, "pooling_size", (3, 3)),
        square(video, "size", 378),
        files.processor_fields("video").flag("video_use_col_tokens", False),
    )


def _check(files: ModelFiles, crops: Crops) -> None:
    if crops.window < 1:
        raise files.image_fields().fault("overlap_margins", "leave nothing of a crop")
