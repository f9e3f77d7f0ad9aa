"""Visual tokens of Aria: 128 queries for images of 490 pixels a side, 256 for 980, each part of a split image likewise.

Aria splits and shrinks only when a call asks for it; what the image processor's config says counts as such a call, and a
note says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.anyres import best_resolution
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.size_fields import count_as_asked, model_fields, section, setting

_CUT = 490
_GRIDS = (
    *((1, columns) for columns in range(2, 9)),
    *((2, columns) for columns in (4, 3, 2, 1)),
    *((3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (6, 1), (7, 1), (8, 1)),
)  # fmt: skip
"""Rows and columns of parts of 490 pixels, in the processor's order."""


@dataclass(frozen=True, kw_only=True)
class AriaCounter(Unsupported):
    """Counter of Aria."""

    model: str
    side: int
    """Pixels that every part is resized and padded to."""
    patch: int
    part_tokens: int
    resolutions: tuple[tuple[int, int], ...]
    """Height and width [pixels] of canvases to split; empty: images stay whole."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels."""
        check_image(height, width)
        parts = 1
        if self.resolutions:
            high, wide = best_resolution(height, width, self.resolutions)
            parts = -(-high // self.side) * -(-wide // self.side)
        side = self.side // self.patch
        return ItemTokens(parts * self.part_tokens, 0, (PatchGrid(parts, side, side),))


def counter(files: ModelFiles) -> AriaCounter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    config = model_fields(files)
    vision = section(config, "vision_config")
    image, processor = files.image_fields(), files.processor_fields()
    side = image.integer("max_image_size", default=2 * _CUT)
    if side not in (_CUT, 2 * _CUT):
        raise image.fault("max_image_size", f"is {side}, neither {_CUT} nor {2 * _CUT}")
    patch = vision.integer("patch_size", default=14)
    if patch > side:
        raise vision.fault("patch_size", f"is {patch}, more than {side} pixels")
    splits = setting(image, "split_image", False)
    if side != 2 * _CUT:
        count_as_asked(files, "max_image_size")
    if splits:
        count_as_asked(files, "split_image")
    return AriaCounter(
        model="aria",
        side=side,
        patch=patch,
        part_tokens=_queries(processor, side),
        resolutions=_resolutions(image) if splits else (),
    )


def _queries(processor: Fields, side: int) -> int:
    """Return the queries of one part, by ``size_conversion`` of the processor."""
    default = 128 if side == _CUT else 256
    if not isinstance(processor.first("size_conversion"), Mapping):
        return default
    return section(processor, "size_conversion").integer(str(side), default=default)


def _resolutions(image: Fields) -> tuple[tuple[int, int], ...]:
    value = image.first("split_resolutions")
    if value is None:
        return tuple((rows * _CUT, columns * _CUT) for rows, columns in _GRIDS)
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        whole = (
            isinstance(pair, list) and len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)
        )
        if not whole or not 0 < len(pairs) <= 10_000:
            raise image.fault("split_resolutions", "is no list of pairs of height and width")
    return tuple((pair[0], pair[1]) for pair in pairs)
