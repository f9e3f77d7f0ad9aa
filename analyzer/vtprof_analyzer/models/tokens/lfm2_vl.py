"""Visual tokens of LFM2-VL: native resolution within a token range, and tiles with a thumbnail for large images.

Padding up to the longest sequence, which transformers' encoder computes and serving engines cut off, is not part of the
grids.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import tiles
from vtprof_analyzer.models.tokens.size_fields import either, model_fields, setting
from vtprof_analyzer.models.tokens.tiling import TileGrid, closest_grid, tile_grids


@dataclass(frozen=True, kw_only=True)
class Lfm2Counter(Unsupported):
    """Counter of LFM2-VL."""

    model: str
    patch: int
    merge: int
    """Patches a side that become one token."""
    least_tokens: int
    most_tokens: int
    tile: int
    grids: tuple[TileGrid, ...]
    """Grids of tiles for large images; empty: all images stay whole."""
    thumbnail: bool
    tolerance: float
    """Times the most pixels of one tile beyond which an image is large."""
    tags: bool
    """Whether begin, end, row and column are marked."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels."""
        check_image(height, width)
        rows, columns = self._resized(height, width)
        whole = PatchGrid(1, rows * self.merge, columns * self.merge)
        cells = self._cells(height, self.patch) * self._cells(width, self.patch)
        most = self.most_tokens * (self.patch * self.merge) ** 2
        if not self.grids or cells <= most * self.tolerance:
            return ItemTokens(rows * columns, 2 if self.tags else 0, (whole,))
        across, down = closest_grid(height, width, self.tile**2, self.grids)
        if across * down == 1:
            # One tile alone counts as the image resized, though the encoder gets the tile.
            side = self.tile // self.patch
            return ItemTokens(rows * columns, 2 if self.tags else 0, (PatchGrid(1, side, side),))
        side = self.tile // self.patch
        cut = PatchGrid(across * down, side, side)
        tokens = cut.count * math.ceil(side / self.merge) ** 2
        tags = 2 + cut.count + int(self.thumbnail)
        if self.thumbnail:
            return ItemTokens(tokens + rows * columns, tags if self.tags else 0, (cut, whole))
        return ItemTokens(tokens, tags if self.tags else 0, (cut,))

    def _cells(self, side: int, least: int) -> int:
        """Return a side [pixels] rounded to whole cells, half to even."""
        cell = self.patch * self.merge
        return max(least, round(side / cell) * cell)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tokens: both sides rounded, then scaled into the token range."""
        cell = self.patch * self.merge
        rows, columns = self._cells(height, cell) // cell, self._cells(width, cell) // cell
        if rows * columns > self.most_tokens:
            shrink = math.sqrt(height * width / (self.most_tokens * cell**2))
            rows, columns = (max(1, math.floor(side / shrink / cell)) for side in (height, width))
        elif rows * columns < self.least_tokens:
            grow = math.sqrt(self.least_tokens * cell**2 / (height * width))
            rows, columns = (math.ceil(side * grow / cell) for side in (height, width))
        return rows, columns


def counter(files: ModelFiles) -> Lfm2Counter:
    """Read the processor configs, or the fields that older ones keep in config.json."""
    config = model_fields(files)
    image, processor = files.image_fields(), files.processor_fields()
    patch = image.integer("encoder_patch_size", default=16)
    tile = image.integer("tile_size", default=512)
    if patch > tile:
        raise image.fault("tile_size", f"is {tile}, less than a patch of {patch} pixels")
    fewest, most = tiles(image, "min_tiles", default=2), tiles(image, "max_tiles", default=10)
    splits = setting(image, "do_image_splitting", True) and not fewest == most == 1
    return Lfm2Counter(
        model="lfm2_vl",
        patch=patch,
        merge=either(image, "downsample_factor", config, "downsample_factor", 2),
        least_tokens=image.integer("min_image_tokens", default=64),
        most_tokens=image.integer("max_image_tokens", default=256),
        tile=tile,
        grids=tile_grids(fewest, most) if splits else (),
        thumbnail=setting(image, "use_thumbnail", True),
        tolerance=image.number("max_pixels_tolerance", default=2.0),
        tags=setting(processor, "use_image_special_tokens", True),
    )
