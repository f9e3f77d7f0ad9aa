"""Visual tokens of LLaVA-OneVision: anyres tiles shrunk to a cap (``anyres_max_9``), an overview, a newline for each row.

Of several images in a request none is tiled: each is its overview and one newline. A video is pooled to half the side a
frame, with one newline at its end.
"""

import math

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.anyres import (
    best_resolution,
    capped,
    read_most_tiles,
    read_resolutions,
    unpadded,
)
from vtprof_analyzer.models.tokens.item import (
    Counter,
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.llava import read_tower
from vtprof_analyzer.models.tokens.sides import sides, whole_config

RESOLUTIONS = tuple((384 * down, 384 * across) for down in range(1, 7) for across in range(1, 7))
"""Of the published models and the processor's class: 1x1 to 6x6 tiles."""


class _OneVision(Unsupported):
    model = "LLaVA-OneVision"

    def __init__(
        self,
        side: int,
        tile: tuple[int, int],
        resolutions: tuple[tuple[int, int], ...],
        most_tiles: int | None,
        drops_first: bool,
    ) -> None:
        self._side = side
        self._tile = tile
        self._resolutions = resolutions
        self._most_tiles = most_tiles
        self._less = int(drops_first)

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``images`` in the request."""
        check_image(height, width)
        overview = self._side**2 - self._less
        if images > 1:
            return ItemTokens(overview + 1, grids=(PatchGrid(1, self._side, self._side),))
        best = best_resolution(height, width, self._resolutions)
        down, across = best[0] // self._tile[0], best[1] // self._tile[1]
        rows, columns = unpadded(height, width, self._side * down, self._side * across)
        rows, columns = capped(rows, columns, self._side, self._most_tiles)
        tokens = overview + rows * columns + rows
        return ItemTokens(tokens, grids=(PatchGrid(1 + down * across, self._side, self._side),))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video."""
        check_video(frames, height, width)
        tokens = frames * math.ceil(self._side / 2) ** 2 + 1
        return ItemTokens(tokens, grids=(PatchGrid(frames, self._side, self._side),))


def counter(files: ModelFiles) -> Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    processor, fields = files.processor_fields(), files.image_fields()
    config = whole_config(files, "llava_onevision")
    tower = read_tower(files, "llava_onevision", side=384)
    per_image = processor.integer("num_image_tokens", default=(tower.side // tower.patch) ** 2)
    tile = sides(fields, "size", (tower.side, tower.side))
    resolutions = read_resolutions(fields, _of_config(config) or RESOLUTIONS)
    if any(best[0] < tile[0] or best[1] < tile[1] for best in resolutions):
        raise fields.fault(
            "image_grid_pinpoints", f"has a resolution below the tile of {tile[0]}x{tile[1]} pixels"
        )
    name = "vision_aspect_ratio"
    ratio = processor.text(name) or config.text(name) or "anyres_max_9"
    return _OneVision(
        math.isqrt(per_image), tile, resolutions, read_most_tiles(processor, name, ratio), tower.drops_first
    )


def _of_config(config: Fields) -> tuple[tuple[int, int], ...] | None:
    if config.first("image_grid_pinpoints") is None:
        return None
    return read_resolutions(config, ())
