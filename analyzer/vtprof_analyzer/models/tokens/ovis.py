"""Visual tokens of Ovis and Ovis2: the fewest tiles that cover the image well, an overview, a fixed count for each.

Start, prefix, column, row and end indicators are extra: each is a row of the visual embedding table at a tag's place.
"""

import math
from dataclasses import dataclass, field

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.phi4_multimodal import grids
from vtprof_analyzer.models.tokens.sides import square, tiles, whole_config

COVERED = 0.9
"""Share of the image's pixels that tiles have to keep for a grid to do."""


@dataclass(frozen=True)
class Covering(Unsupported):
    """Counter of one model."""

    model: str = field()
    side: int
    tokens_per_tile: int
    patches: int
    """Along the side of a tile."""
    most: int
    fewest: int = 1
    cuts: bool = True
    by_covering: bool = True
    transposed: bool = False
    """Rows and columns change places between the choice and the cut, as the processor of Ovis2 in transformers does."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        rows, columns = self.grid(height, width)
        several = rows * columns > 1
        count = 1 + (rows * columns if several else 0)
        extra = 3 + (rows * (columns - 1) + rows - 1 if several else 0)
        return ItemTokens(
            count * self.tokens_per_tile, extra, (PatchGrid(count, self.patches, self.patches),)
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tiles."""
        if not self.cuts or self.most <= 1:
            return 1, 1
        if not self.by_covering:
            return self._nearest(height, width)
        rated = [
            (rows * columns, -self._kept(height, width, rows, columns), (rows, columns))
            for rows, columns in grids(self.most)
        ]
        good = [item for item in rated if -item[1] > COVERED]
        # Among those that cover well the one of fewest tiles, else the one that covers best.
        first = (
            min(good, key=lambda item: item[:2]) if good else min(rated, key=lambda item: (item[1], item[0]))
        )
        best = first[2]
        return (best[1], best[0]) if self.transposed else best

    def _kept(self, height: int, width: int, rows: int, columns: int) -> float:
        """Return the share of the image's pixels that are left when every tile is shrunk to its side."""
        tall, wide = height // rows, width // columns
        kept: float = 0.0
        for row in range(rows):
            down = height - row * tall if row == rows - 1 else tall
            for column in range(columns):
                across = width - column * wide if column == columns - 1 else wide
                long, short = max(across, down), min(across, down)
                kept += short / long * self.side * self.side if long > self.side else long * short
        return kept / (height * width)

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid of the nearest aspect ratio."""
        aspect, best, least = width / height, (1, 1), math.inf
        for columns, rows in grids(self.most, self.fewest):
            difference = abs(aspect - columns / rows)
            roomy = width * height > 0.5 * self.side**2 * columns * rows
            if difference < least or (difference == least and roomy):
                least, best = difference, (rows, columns)
        return best


def counter(files: ModelFiles) -> Covering:
    """Read the limits; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    fields = files.image_fields()
    config = whole_config(files, kind)
    if kind == "ovis2":
        side = square(fields, "size", 384)
        vision = config.section("vision_config") or Fields({})
        return Covering(
            "Ovis2",
            side,
            files.processor_fields().integer("image_seq_length", default=256),
            max(1, side // vision.integer("patch_size", default=14)),
            most=tiles(fields, "max_patches", default=12),
            fewest=tiles(fields, "min_patches", default=1),
            cuts=fields.flag("crop_to_patches", False),
            by_covering=fields.flag("use_covering_area_grid", True),
            transposed=True,
        )
    tokenizer = config.section("visual_tokenizer_config") or Fields(
        {}, "visual_tokenizer_config", "config.json"
    )
    backbone = tokenizer.section("backbone_config") or Fields({}, "visual_tokenizer_config.backbone_config")
    model_side = backbone.integer("image_size", default=448)
    patch = backbone.integer("patch_size", default=14)
    stride = tokenizer.integer("hidden_stride", default=2)
    edge = math.ceil(math.ceil(model_side / patch) / stride)
    side = square(fields, "size", model_side) if fields.first("size") is not None else model_side
    return Covering("Ovis", side, edge**2, max(1, side // patch), most=9)
