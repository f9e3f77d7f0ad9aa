"""Visual tokens of Pixtral, Mistral Small 3.1 and later and LightOnOCR: native resolution up to a longest edge.

Rows end in a break tag and the image in an end tag; both are text tokens. Patches that are merged become one token.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import sides
from vtprof_analyzer.models.tokens.size_fields import either, model_fields, section
from vtprof_schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PixtralCounter(Unsupported):
    """Counter of models with Pixtral's tower."""

    model: str
    patch: int
    merge: int
    cell: int
    """Side [pixels] to whose multiples an image is resized."""
    longest: tuple[int, int]
    """Most height and width [pixels]."""
    row_tags: bool
    """Whether every row of tokens is followed by a tag."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels; `ConfigError` for one of which no row is left."""
        check_image(height, width)
        ratio = max(height / self.longest[0], width / self.longest[1])
        high, wide = height, width
        if ratio > 1:
            high, wide = math.floor(height / ratio), math.floor(width / ratio)
        if min(high, wide) < 1:
            raise ConfigError(
                f"image of {height}x{width} pixels: shrunk to {self.longest[0]}x{self.longest[1]} nothing is left of its"
                " shorter side, which the model's processor refuses"
            )
        rows, columns = -(-high // self.cell) * self.cell, -(-wide // self.cell) * self.cell
        side = self.patch * self.merge
        token_rows, token_columns = rows // side, columns // side
        tags = token_rows if self.row_tags else 0
        grid = PatchGrid(1, rows // self.patch, columns // self.patch)
        return ItemTokens(token_rows * token_columns, tags, (grid,))


def counter(files: ModelFiles) -> PixtralCounter:
    """Read the processor configs; `config.json` says patch and merge where they do not."""
    config = model_fields(files)
    kind = str(config.text("model_type"))
    vision = section(config, "vision_config")
    image, processor = files.image_fields(), files.processor_fields()
    patch = _patch(processor, vision)
    # A LLaVA on Pixtral's tower (Pixtral-12B itself) merges nothing, and its files have no field for it.
    named = any(fields.first("spatial_merge_size") is not None for fields in (processor, config))
    merge = (
        either(processor, "spatial_merge_size", config, "spatial_merge_size", 1)
        if named or kind != "llava"
        else 1
    )
    limit = vision.integer("image_size", default=1024)
    plain = kind == "lighton_ocr"
    # LightOnOCR's processor leaves the resizing to the image processor's own patch; the others override it.
    cell = sides(image, "patch_size", (patch, patch))[0] if plain else patch * merge
    return PixtralCounter(
        model=kind,
        patch=patch,
        merge=merge,
        cell=cell,
        longest=sides(image, "size", (limit, limit)),
        row_tags=not plain,
    )


def _patch(processor: Fields, vision: Fields) -> int:
    default = vision.integer("patch_size", default=16)
    return (
        default
        if processor.first("patch_size") is None
        else sides(processor, "patch_size", (default, default))[0]
    )
