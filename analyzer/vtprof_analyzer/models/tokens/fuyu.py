"""Visual tokens of Fuyu: patches of the image as it is, shrunk only if it is too large; a newline tag ends each row."""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import sides
from vtprof_schemas.errors import ConfigError


@dataclass(frozen=True)
class Patches(Unsupported):
    """Counter of one model."""

    model: str = "Fuyu"
    largest: tuple[int, int] = (1080, 1920)
    """Height and width [pixels] that an image is shrunk to fit."""
    patch: tuple[int, int] = (30, 30)

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; raise `ConfigError` for one so long and thin that shrinking leaves nothing."""
        check_image(height, width)
        if height > self.largest[0] or width > self.largest[1]:
            scale = min(self.largest[0] / height, self.largest[1] / width)
            tall, wide = int(height * scale), int(width * scale)
        else:
            tall, wide = height, width
        if min(tall, wide) < 1:
            raise ConfigError(
                f"image of {height}x{width} pixels: one side is so much longer that none of the other is left"
                f" after resizing, which the processor of {self.model} refuses"
            )
        rows = min(self.largest[0] // self.patch[0], math.ceil(tall / self.patch[0]))
        columns = min(self.largest[1] // self.patch[1], math.ceil(wide / self.patch[1]))
        return ItemTokens(rows * columns, rows, (PatchGrid(1, rows, columns),))


def counter(files: ModelFiles) -> Patches:
    """Read the limits; raise `DataError` that names the field at fault."""
    fields = files.image_fields()
    largest = sides(fields, "size", (1080, 1920))
    patch = sides(fields, "patch_size", (30, 30))
    if any(whole % part for whole, part in zip(largest, patch, strict=True)):
        raise fields.fault("patch_size", f"is {patch[0]}x{patch[1]}, which does not divide the size")
    return Patches("Fuyu", largest, patch)
