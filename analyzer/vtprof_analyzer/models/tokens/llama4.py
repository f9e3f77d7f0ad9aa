"""Visual tokens of Llama 4: the canvas of tiles that shrinks an image least, a global tile beyond one, pixel shuffle."""

from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import sides, tiles
from vtprof_analyzer.models.tokens.size_fields import either, model_fields, section
from vtprof_analyzer.models.tokens.tiling import TileGrid, tile_grids


@dataclass(frozen=True, kw_only=True)
class Llama4Counter(Unsupported):
    """Counter of Llama 4."""

    model: str
    tile: int
    patch: int
    patches_per_token: int
    grids: tuple[TileGrid, ...]
    largest_canvas: bool
    """Enlarge an image as far as a canvas allows, instead of as little as possible."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels; separators of tiles are text tokens."""
        check_image(height, width)
        columns, rows = self._canvas(height, width)
        tiles = columns * rows
        tags = 3  # begin, the mark of the global tile, end
        if tiles > 1:
            tags += rows * (columns - 1) + rows
            tiles += 1
        side = self.tile // self.patch
        return ItemTokens(
            tiles * (side * side // self.patches_per_token), tags, (PatchGrid(tiles, side, side),)
        )

    def _canvas(self, height: int, width: int) -> TileGrid:
        """Return columns and rows: the scale closest to 1 from above, else the largest; the smallest area of that scale."""
        scales = [min(columns * self.tile / width, rows * self.tile / height) for columns, rows in self.grids]
        enlarging = [scale for scale in scales if scale >= 1.0]
        choose = max if self.largest_canvas or not enlarging else min
        wanted = choose(enlarging or scales)
        fitting = [grid for grid, scale in zip(self.grids, scales, strict=True) if scale == wanted]
        return min(fitting, key=lambda grid: grid[0] * grid[1])


def counter(files: ModelFiles) -> Llama4Counter:
    """Read the processor configs."""
    config = model_fields(files)
    vision = section(config, "vision_config")
    image, processor = files.image_fields(), files.processor_fields()
    high, wide = sides(image, "size", sides(vision, "image_size", (336, 336)))
    if high != wide:
        raise image.fault("size", f"is {high}x{wide}; Llama 4's tiles are square")
    patch = either(processor, "patch_size", vision, "patch_size", 14)
    if patch > high:
        raise processor.fault("patch_size", f"is {patch}, more than a tile of {high} pixels")
    ratio = processor.number("pixel_shuffle_ratio", default=vision.number("pixel_shuffle_ratio", default=0.5))
    if not 0.0 < ratio <= 1.0 or 1.0 / ratio > high:
        raise processor.fault("pixel_shuffle_ratio", f"is {ratio:g}; it must be over 0 and at most 1")
    return Llama4Counter(
        model="llama4",
        tile=high,
        patch=patch,
        patches_per_token=round(1.0 / ratio**2),
        grids=tile_grids(1, tiles(image, "max_patches", default=16)),
        largest_canvas=image.flag("resize_to_max_canvas", False),
    )
