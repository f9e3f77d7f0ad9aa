"""Tiling by a list of resolutions ("anyres") as LLaVA-NeXT began it: padding cut off again, a cap on features, the list."""

import math

from vtprof_analyzer.models.fields import Fields, shown

MOST_RESOLUTIONS = 10_000
"""Published lists have 5 to 36 entries."""


def best_resolution(height: int, width: int, resolutions: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the (height, width) that keeps most of the image's pixels and, of equal ones, wastes least; ties: the first."""

    def score(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, resolution[0] * resolution[1] - kept

    return min(resolutions, key=score)


def unpadded(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of features left of a tiled canvas when the padding of an image's ratio is cut off.

    Rounds to seven digits before it rounds down, as the models do.
    """
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        return rows - (rows - kept) // 2 * 2, columns
    kept = int(round(width * (rows / height), 7))
    return rows, columns - (columns - kept) // 2 * 2


def capped(rows: int, columns: int, side: int, most_tiles: int | None) -> tuple[int, int]:
    """Return rows and columns after shrinking to ``most_tiles`` tiles of ``side`` x ``side`` features (``anyres_max_9``).

    Less than a tenth over the limit on a side stays as it is.
    """
    if most_tiles is None:
        return rows, columns
    ratio = math.sqrt(rows * columns / (most_tiles * side**2))
    if ratio <= 1.1:
        return rows, columns
    return int(rows // ratio), int(columns // ratio)


def read_resolutions(
    fields: Fields, default: tuple[tuple[int, int], ...], key: str = "image_grid_pinpoints"
) -> tuple[tuple[int, int], ...]:
    """Read a list of [height, width]; raise `DataError` that names the field for anything else."""
    value = fields.first(key)
    if value is None:
        fields.assume(key)
        return default
    if not isinstance(value, list) or not 0 < len(value) <= MOST_RESOLUTIONS:
        raise fields.fault(key, f"is {shown(value)} instead of a list of resolutions")
    pairs = []
    for pair in value:
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or not all(
                isinstance(side, int) and not isinstance(side, bool) and 0 < side <= 2**20 for side in pair
            )
        ):
            raise fields.fault(key, f"has {shown(pair)} among its resolutions of height and width")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def read_most_tiles(fields: Fields, key: str, value: str) -> int | None:
    """Return the cap of ``anyres_max_N``; None where there is none."""
    head, _, number = value.rpartition("_")
    if head != "anyres_max":
        return None
    if not number.isdecimal() or not 0 < int(number) <= MOST_RESOLUTIONS:
        raise fields.fault(key, f"is {shown(value)}, no anyres_max_N")
    return int(number)
