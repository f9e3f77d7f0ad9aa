"""Visual tokens of Emu3: the codebook's cells of 8 pixels inside pixel limits, and one more position to end each row."""

from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.cells import smart_resize
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image

CELL_PIXELS = 8
"""What the tokenizer of images shrinks by: the processor has it as a number of its own."""
TAGS = 7
"""Begin of image, its height, ``*`` and width as text, begin of its tokens, end of its tokens and of the image."""


@dataclass(frozen=True)
class Codes(Unsupported):
    """Counter of one model."""

    model: str = "Emu3"
    factor: int = CELL_PIXELS
    limits: tuple[int, int] = (512 * 512, 1024 * 1024)

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; raise `ConfigError` for an aspect ratio that the processor refuses."""
        check_image(height, width)
        tall, wide = smart_resize(height, width, self.factor, *self.limits)
        rows, columns = tall // CELL_PIXELS, wide // CELL_PIXELS
        return ItemTokens(rows * (columns + 1), TAGS, (PatchGrid(1, rows, columns),))


def counter(files: ModelFiles) -> Codes:
    """Read the limits; raise `DataError` that names the field at fault."""
    fields = files.image_fields()
    least = fields.integer("min_pixels", default=512 * 512)
    most = fields.integer("max_pixels", default=1024 * 1024)
    if most < least:
        raise fields.fault("max_pixels", f"is {most}, less than min_pixels, {least}")
    return Codes("Emu3", fields.integer("spatial_factor", default=CELL_PIXELS), (least, most))
