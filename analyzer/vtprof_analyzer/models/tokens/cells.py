"""Resizing to whole cells inside pixel limits, as the processors of the Qwen-VL and GLM-V lines do it, to the pixel (F8)."""

import math

from vtprof_analyzer.models.fields import Fields
from vtprof_schemas.errors import ConfigError

MAX_ASPECT_RATIO = 200
"""Beyond it the processors refuse the image."""


def smart_resize(
    height: int, width: int, cell_pixels: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return height and width [pixels] after resizing: multiples of the cell inside the pixel limits.

    Rounds half to even, then scales down (floor) or up (ceil) where the product leaves the limits. Raises
    `ConfigError` for a size that the processors refuse.
    """
    _check_sides(height, width)
    return _limit(height, width, 1, 1, cell_pixels, min_pixels, max_pixels)


def clip_resize(
    frames: int,
    height: int,
    width: int,
    temporal: int,
    cell_pixels: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """Return height and width [pixels] of the frames of a clip whose limits hold for all frames together.

    A side below one cell is first enlarged to it. An image is a clip of ``temporal`` frames. Raises `ConfigError` for
    a size or a number of frames that the processors refuse.
    """
    if frames < temporal:
        raise ConfigError(
            f"video of {frames} frames: the model's processor needs at least {temporal}; give --video more frames"
        )
    if height < 1 or width < 1:
        _check_sides(height, width)
    if height < cell_pixels or width < cell_pixels:
        grow = max(cell_pixels / height, cell_pixels / width)
        height, width = int(height * grow), int(width * grow)
    _check_sides(height, width)
    # The rounded number of frames decides whether a clip is too large, the real one how much smaller it becomes.
    counted = round(frames / temporal) * temporal
    return _limit(height, width, frames, counted, cell_pixels, min_pixels, max_pixels)


def enlarge(height: int, width: int, cell_pixels: int) -> tuple[int, int]:
    """Return the sides of an image of which none is below one cell, the other rounded half to even."""
    if height < 1 or width < 1:
        _check_sides(height, width)
    if height < cell_pixels:
        height, width = cell_pixels, round(width * cell_pixels / height)
    if width < cell_pixels:
        height, width = round(height * cell_pixels / width), cell_pixels
    return height, width


def pixel_limits(fields: Fields, least: int, most: int) -> tuple[int, int]:
    """Return the pixels of a resized item, at least and at most, in any form that processor configs have.

    ``min_pixels`` and ``max_pixels`` win over ``size.shortest_edge`` and ``size.longest_edge``, which in these families
    are areas; ``least`` and ``most`` are those of the processor's class.
    """
    size = fields.section("size")

    def limit(pixels: str, edge: str, default: int) -> int:
        if fields.first(pixels) is None and size is not None and size.first(edge, pixels) is not None:
            return size.integer(edge, pixels)
        return fields.integer(pixels, default=default)

    return limit("min_pixels", "shortest_edge", least), limit("max_pixels", "longest_edge", most)


def _check_sides(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ConfigError(f"image of {height}x{width} pixels: both sides must be at least 1")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ConfigError(
            f"image of {height}x{width} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, "
            "which the model's processor refuses"
        )


def _limit(
    height: int, width: int, frames: int, counted: int, cell: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the sides rounded to cells, or scaled into the limits where the rounded ones leave them."""
    rounded = round(height / cell) * cell, round(width / cell) * cell
    pixels = counted * rounded[0] * rounded[1]
    if pixels > max_pixels:
        shrink = math.sqrt((frames * height * width) / max_pixels)
        return (
            max(cell, math.floor(height / shrink / cell) * cell),
            max(cell, math.floor(width / shrink / cell) * cell),
        )
    if pixels < min_pixels:
        grow = math.sqrt(min_pixels / (frames * height * width))
        return math.ceil(height * grow / cell) * cell, math.ceil(width * grow / cell) * cell
    return rounded
