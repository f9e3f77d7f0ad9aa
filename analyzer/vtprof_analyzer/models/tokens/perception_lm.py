"""Visual tokens of Perception LM: tiles of 448 pixels on a canvas, an overview, features pooled 2 x 2."""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import (
    Counter,
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.sides import sides, tiles, whole_config
from vtprof_analyzer.models.tokens.size_fields import section
from vtprof_analyzer.models.tokens.tiling import TileGrid


@dataclass(frozen=True)
class _PerceptionLm(Unsupported):
    tile: int
    patch: int
    pool: int
    canvases: dict[float, list[TileGrid]]
    """Columns and rows by their ratio, ratios in the order in which they first appear from the largest count down."""
    tiled: bool
    frame: tuple[int, int]
    model: str = "Perception LM"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels."""
        check_image(height, width)
        count = 1
        if self.tiled:
            columns, rows = self._fitting(height, width) or self._closest(height, width)
            count += columns * rows
        return self._count(count, (self.tile, self.tile))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: each frame is resized to one size."""
        check_video(frames, height, width)
        return self._count(frames, self.frame)

    def _count(self, sequences: int, pixels: tuple[int, int]) -> ItemTokens:
        rows, columns = pixels[0] // self.patch, pixels[1] // self.patch
        tokens = (rows // self.pool) * (columns // self.pool) * sequences
        return ItemTokens(tokens, grids=(PatchGrid(sequences, rows, columns),))

    def _fitting(self, height: int, width: int) -> TileGrid | None:
        """Return the canvas that holds the image whole and lets its shorter side grow most; of equal ones the last."""
        best: tuple[float, TileGrid] | None = None
        for canvases in self.canvases.values():
            for columns, rows in canvases:
                if columns * self.tile < width or rows * self.tile < height:
                    continue
                scale = min(columns * self.tile / width, rows * self.tile / height)
                ratio = width / height
                # Rounded down on the way as the processor does, which decides between nearly equal canvases.
                shorter = (
                    math.floor(scale * width / ratio) if ratio > 1.0 else math.floor(scale * height * ratio)
                )
                size: float = shorter if ratio != 1.0 else scale * height
                if best is None or size >= best[0]:
                    best = (size, (columns, rows))
        return None if best is None else best[1]

    def _closest(self, height: int, width: int) -> TileGrid:
        """Return the largest canvas of the nearest ratio between the square's and the image's."""
        target = width / height
        if target >= 1:
            ratio = min(
                (here for here in self.canvases if here <= target), key=lambda here: abs(here - target)
            )
            return max(self.canvases[ratio], key=lambda canvas: canvas[0])
        ratio = min(
            (here for here in self.canvases if here > target), key=lambda here: abs(1 / here - 1 / target)
        )
        return max(self.canvases[ratio], key=lambda canvas: canvas[1])


def counter(files: ModelFiles) -> Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    config = whole_config(files, "perception_lm")
    image, processor = files.image_fields(), files.processor_fields()
    vision = section(section(config, "vision_config"), "model_args")
    tile = image.integer("tile_size", default=448)
    patch = processor.integer("patch_size", default=vision.integer("patch_size", default=14))
    pool = processor.integer("pooling_ratio", default=config.integer("projector_pooling_ratio", default=2))
    if tile // patch < pool:
        raise processor.fault("patch_size", f"is {patch}: no pooled patch fits a tile of {tile} pixels")
    canvases: dict[float, list[TileGrid]] = {}
    for count in range(tiles(image, "max_num_tiles", default=36), 0, -1):
        for columns in range(1, count + 1):
            if count % columns == 0:
                canvases.setdefault(columns / (count // columns), []).append((columns, count // columns))
    tiled = (image.text("vision_input_type") or "thumb+tile") == "thumb+tile"
    frame = sides(files.video_fields(), "size", (tile, tile))
    return _PerceptionLm(tile, patch, pool, canvases, tiled, frame)
