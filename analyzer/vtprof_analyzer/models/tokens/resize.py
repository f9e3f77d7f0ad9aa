"""Size of an image after the plain kind of processor: resize to a side or a shape, then crop the centre (CLIP, SigLIP)."""

from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.tokens.sides import sides
from vtprof_analyzer.models.tokens.size_fields import section


@dataclass(frozen=True)
class Resize:
    """What the processor does to the sides of an image, in this order."""

    shortest: int | None = None
    """Pixels of the shorter side afterwards; the other keeps the ratio, rounded down."""
    exact: tuple[int, int] | None = None
    """Height and width afterwards."""
    crop: tuple[int, int] | None = None
    """Height and width of the centre that is kept; smaller images are padded to it."""

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width [pixels] of what the encoder gets."""
        if self.crop is not None:
            return self.crop
        if self.exact is not None:
            return self.exact
        if self.shortest is None:
            return height, width
        long = int(self.shortest * max(height, width) / min(height, width))
        return (self.shortest, long) if height <= width else (long, self.shortest)


def read_resize(fields: Fields, side: int, crops: bool) -> Resize:
    """Read ``do_resize``, ``size``, ``do_center_crop`` and ``crop_size`` of a processor.

    ``side`` is what the family takes where the file does not say, ``crops`` whether its class crops by default. Raises
    `DataError` that names the field at fault.
    """
    crop = None
    cropping = fields.first("crop_size") is not None or crops
    if cropping and fields.flag("do_center_crop", crops):
        crop = sides(fields, "crop_size", (side, side))
    if not fields.flag("do_resize", True):
        return Resize(crop=crop)
    size = fields.first("size")
    if isinstance(size, dict):
        nested = section(fields, "size")
        if nested.first("height", "width") is None:
            if nested.first("shortest_edge") is not None or crop is not None:
                return Resize(shortest=nested.integer("shortest_edge", default=side), crop=crop)
            raise fields.fault("size", "has neither height and width nor shortest_edge")
        return Resize(exact=sides(fields, "size", (side, side)), crop=crop)
    if size is not None and crops:
        return Resize(shortest=fields.integer("size"), crop=crop)
    return Resize(exact=sides(fields, "size", (side, side)), crop=crop)
