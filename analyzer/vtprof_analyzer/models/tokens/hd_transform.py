"""Tokens of Phi-3/3.5-vision and InternLM-XComposer2-4KHD: whole crops beside an overview, with learned separators.

The longer side becomes as many crops as the limit allows, the other follows the aspect ratio and is padded to whole
crops; four patches become one token, each row of tokens ends with a learned vector, and one more parts the two views.
"""

import math
from dataclasses import dataclass, field

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.fixed import Fixed
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import tiles, whole_config
from vtprof_schemas.errors import ConfigError

CROP_PIXELS = 336
"""Side of a crop: that of the encoder, CLIP ViT-L/14."""
PATCH_PIXELS = 14


@dataclass(frozen=True)
class HighDefinition(Unsupported):
    """Counter of one model."""

    model: str = field()
    crops: int
    """Most crops of an image."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; raise `ConfigError` for one so long and thin that resizing leaves nothing."""
        check_image(height, width)
        rows, columns = self.crop_grid(height, width)
        row = CROP_PIXELS // PATCH_PIXELS // 2
        tokens = (rows * columns + 1) * row**2 + 1 + (rows + 1) * row
        encoder = CROP_PIXELS // PATCH_PIXELS
        return ItemTokens(tokens, 0, (PatchGrid(1 + rows * columns, encoder, encoder),))

    def crop_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of crops."""
        long, short = max(height, width), min(height, width)
        ratio = long / short
        scale = 1
        while scale * math.ceil(scale / ratio) <= self.crops:
            scale += 1
        scale -= 1
        across = int(scale * CROP_PIXELS / ratio)
        if across < 1:
            raise ConfigError(
                f"image of {height}x{width} pixels: one side is so much longer that none of the other is left"
                f" after resizing, which the processor of {self.model} refuses"
            )
        other = math.ceil(across / CROP_PIXELS)
        return (scale, other) if height > width else (other, scale)


def counter(files: ModelFiles) -> HighDefinition | Fixed:
    """Read the limits; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    given = files.image_fields()
    if kind == "phi3_v":
        return HighDefinition("Phi-3-vision", tiles(given, "num_crops", default=16))
    config = whole_config(files, kind)
    side = config.integer("img_size", default=336)
    if side != CROP_PIXELS:
        # All but the 4KHD models have one size, for which their encoder's positions are stretched.
        rows = max(1, side // PATCH_PIXELS)
        return Fixed("InternLM-XComposer2", rows * rows, 0, (rows, rows))
    return HighDefinition("InternLM-XComposer2-4KHD", tiles(config, "hd_num", default=55))
