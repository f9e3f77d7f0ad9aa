"""Tokens of Phi-4-multimodal: crops of 448 pixels up to a limit, padding masked out of the count.

The crops that the padded image fills, an overview of 256 tokens, a learned vector behind each row that is not padding
and behind each of the overview's 16, and one between the views.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.audio import rule
from vtprof_analyzer.models.tokens.clips import Rule
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_audio, check_image
from vtprof_analyzer.models.tokens.sides import square, tiles
from vtprof_schemas.errors import ConfigError

OVERVIEW_TOKENS = 256 + 16 + 1
"""Of a 32 x 32 grid, four patches a token: the processor has the number and not the arithmetic."""
SMALLEST_SIDE = 10
"""Pixels left after resizing below which the processor refuses an image."""


@dataclass(frozen=True)
class CropsAndSpeech(Unsupported):
    """Counter of one model."""

    speech: Rule
    model: str = "Phi-4-multimodal"
    side: int = 448
    patch: int = 14
    crops: int = 36

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; raise `ConfigError` for an aspect ratio that the processor refuses."""
        check_image(height, width)
        columns, rows = self.crop_grid(height, width)
        patches = self.side // self.patch
        kept_rows, kept_columns = rows * patches, columns * patches
        by_width, by_height = columns * self.side / width, rows * self.side / height
        if by_width < by_height:
            resized = (int(height * by_width), columns * self.side)
            kept_rows -= (rows * self.side - resized[0]) // self.patch
        else:
            resized = (rows * self.side, int(width * by_height))
            kept_columns -= (columns * self.side - resized[1]) // self.patch
        if min(resized) < SMALLEST_SIDE:
            raise ConfigError(
                f"image of {height}x{width} pixels: less than {SMALLEST_SIDE} pixels of one side are left after resizing,"
                f" which the processor of {self.model} refuses"
            )
        # Every second patch of a crop stands for a token, so that a crop of an odd side starts anew.
        down, across = self._kept(kept_rows, patches), self._kept(kept_columns, patches)
        tokens = OVERVIEW_TOKENS + down * across + (down if kept_columns > 0 else 0)
        return ItemTokens(tokens, 0, (PatchGrid(1 + rows * columns, patches, patches),))

    def audio(self, seconds: float) -> ItemTokens:
        """Count an audio clip."""
        check_audio(seconds)
        return self.speech(seconds)

    @staticmethod
    def _kept(kept: int, patches: int) -> int:
        """Return how many of the tokens along a side stand for patches that are not padding."""
        crops, rest = divmod(kept, patches)
        return crops * math.ceil(patches / 2) + math.ceil(rest / 2)

    def crop_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return columns and rows: those that cover the image, or beyond the limit those of the nearest aspect ratio."""
        columns, rows = math.ceil(width / self.side), math.ceil(height / self.side)
        if columns * rows <= self.crops:
            return columns, rows
        aspect, area, best, nearest = width / height, width * height, (1, 1), math.inf
        for grid in grids(self.crops):
            difference = abs(aspect - grid[0] / grid[1])
            if difference < nearest:
                nearest, best = difference, grid
            elif difference == nearest and area > 0.5 * self.side**2 * grid[0] * grid[1]:
                best = grid
        return best


def grids(most: int, least: int = 1) -> list[tuple[int, int]]:
    """Return all grids (columns, rows) of ``least`` to ``most`` crops, fewest crops first."""
    found = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(max(1, -(-least // columns)), most // columns + 1)
    ]
    return sorted(found, key=lambda grid: grid[0] * grid[1])


def counter(files: ModelFiles) -> CropsAndSpeech:
    """Read the limits; raise `DataError` that names the field at fault."""
    fields = files.image_fields()
    side, patch = square(fields, "size", 448), fields.integer("patch_size", default=14)
    if patch > side:
        raise fields.fault("patch_size", f"is {patch}, more than the crop's {side} pixels")
    return CropsAndSpeech(
        rule(files, "phi4_multimodal"), side=side, patch=patch, crops=tiles(fields, "dynamic_hd", default=36)
    )
