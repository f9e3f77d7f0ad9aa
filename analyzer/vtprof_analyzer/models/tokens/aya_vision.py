"""Visual tokens of Aya Vision and Command A Vision: tiles on a grid, an overview beyond one tile, four patches a token.

Aya Vision takes the grid closest in aspect ratio, Command A Vision the one that enlarges an image least.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import Counter, ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import sides, tiles, whole_config
from vtprof_analyzer.models.tokens.size_fields import section
from vtprof_analyzer.models.tokens.tiling import TileGrid, closest_grid, tile_grids


@dataclass(frozen=True)
class _Tiled(Unsupported):
    tile: tuple[int, int]
    tile_tokens: int
    patches_side: int
    """Patches on a side of a tile, as the encoder computes them."""
    grids: tuple[TileGrid, ...]
    """Empty where the processor does not tile."""
    least_enlarged: bool
    model: str = "Aya Vision"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image: a tag for each tile and two around the image."""
        check_image(height, width)
        count = 1
        if self.grids:
            columns, rows = self._grid(height, width)
            count = columns * rows
        if count > 1:
            count += 1
        grid = PatchGrid(count, self.patches_side, self.patches_side)
        return ItemTokens(count * self.tile_tokens, count + 2, (grid,))

    def _grid(self, height: int, width: int) -> TileGrid:
        if not self.least_enlarged:
            return closest_grid(height, width, self.tile[0] * self.tile[1], self.grids)
        # The processor multiplies both sides by the tile's height.
        scales = [min(grid[0] * self.tile[0] / width, grid[1] * self.tile[0] / height) for grid in self.grids]
        enlarging = [scale for scale in scales if scale >= 1.0]
        return self.grids[scales.index(min(enlarging) if enlarging else max(scales))]


def counter(files: ModelFiles) -> Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    named = (files.config or {}).get("model_type")
    if named is None:
        named = "cohere2_vision" if _is_cohere(files) else "aya_vision"
    cohere = named == "cohere2_vision"
    config = whole_config(files, "cohere2_vision" if cohere else "aya_vision")
    vision = section(config, "vision_config")
    image, processor = files.image_fields(), files.processor_fields()
    side = vision.integer("image_size", default=512 if cohere else 364)
    patch = vision.integer("patch_size", default=16 if cohere else 14)
    tile = sides(image, "size", (side, side))
    patches_side = max(1, tile[0] // patch)
    if cohere:
        # What the processor calls a patch's size is a tile's tokens on a side.
        tokens = (
            image.integer("patch_size", default=math.ceil(side / patch / config.integer("downsample_factor")))
            ** 2
        )
    else:
        # The processor multiplies its two fields and saves the product as its patch size, without the factor.
        cell = processor.integer("patch_size", default=patch)
        if processor.first("downsample_factor") is not None:
            cell *= processor.integer("downsample_factor")
        elif processor.first("patch_size") is None:
            cell *= config.integer("downsample_factor", default=2)
        tokens = (processor.integer("img_size", default=tile[0]) // cell) ** 2
    most = tiles(image, "max_patches", default=12)
    # Aya Vision's processor tiles whatever its image processor's file says.
    tiled = image.flag("crop_to_patches", True) or not cohere
    fewest = 1 if cohere else tiles(image, "min_patches", default=1)
    grids = tile_grids(fewest, most) if tiled else ()
    return _Tiled(
        tile, tokens, patches_side, grids, cohere, model="Command A Vision" if cohere else "Aya Vision"
    )


def _is_cohere(files: ModelFiles) -> bool:
    return bool(files.processor_fields().first("processor_class") == "Cohere2VisionProcessor")
