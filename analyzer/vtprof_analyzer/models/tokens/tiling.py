"""Cutting an image into tiles: the grid that fits its aspect ratio best, and the fixed grid of tiles beside a thumbnail."""

import math

from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, check_image

TileGrid = tuple[int, int]
"""Columns and rows."""


def tile_grids(fewest: int, most: int) -> tuple[TileGrid, ...]:
    """Return all grids of ``fewest`` to ``most`` tiles by their number of tiles; (1, 1) alone where there is none."""
    grids = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(max(1, -(-fewest // columns)), most // columns + 1)
    ]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1])) or ((1, 1),)


def closest_grid(height: int, width: int, tile_pixels: int, grids: tuple[TileGrid, ...]) -> TileGrid:
    """Return the grid whose aspect ratio is closest to the image's; ``tile_pixels`` is the area of one tile.

    Of equally close grids a later, larger one wins while the image covers more than half of it (InternVL 1.5, 3.2).
    """
    aspect, area = width / height, width * height
    best, distance = (1, 1), math.inf
    for columns, rows in grids:
        here = abs(aspect - columns / rows)
        if here < distance or (here == distance and area > 0.5 * tile_pixels * columns * rows):
            best, distance = (columns, rows), here
    return best


def tiles_and_thumbnail(
    height: int, width: int, tile: int, patch: int, thumbnail: int | None, patches_per_token: int = 1
) -> ItemTokens:
    """Count an image covered by tiles of ``tile`` pixels a side with an overview of ``thumbnail`` pixels beside them (F3).

    Tiles at the lower and right edge are padded; one that covers the image alone has no overview. All in pixels.
    """
    check_image(height, width)
    rows, columns = -(-height // tile), -(-width // tile)
    side = tile // patch
    grids = [PatchGrid(rows * columns, side, side)]
    if thumbnail is not None and rows * columns > 1:
        grids.append(PatchGrid(1, thumbnail // patch, thumbnail // patch))
    return ItemTokens(sum(grid.patches // patches_per_token for grid in grids), grids=tuple(grids))
