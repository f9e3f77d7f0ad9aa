"""Visual tokens of DeepSeek-VL2, DeepSeek-OCR and DeepSeek-OCR-2: an overview and tiles, with learned separators.

DeepSeek-VL2 pads the image into the candidate resolution that keeps most of its pixels; the OCR models cut it into the
grid of the nearest aspect ratio. Rows end with a learned newline (not in OCR-2), one vector parts the two views.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.phi4_multimodal import grids
from vtprof_analyzer.models.tokens.sides import MOST_TILES, square, tiles, whole_config
from vtprof_analyzer.models.tokens.size_fields import count_as_asked
from vtprof_schemas.errors import ConfigError

CROPPED_IMAGES = 2
"""Of a request with more images than this, DeepSeek-VL2 cuts none into tiles."""
CANDIDATES: tuple[tuple[int, int], ...] = tuple(
    (384 * across, 384 * down)
    for count in range(1, 10)
    for across, down in ((n, count // n) for n in range(1, count + 1) if count % n == 0)
)
"""Those of the published models: every grid of up to nine tiles of 384 pixels."""


@dataclass(frozen=True)
class Resolutions(Unsupported):
    """Counter of DeepSeek-VL2."""

    candidates: tuple[tuple[int, int], ...]
    """Width and height [pixels]; the first one's width is the side of a tile."""
    patch: int = 14
    downsample: int = 2
    model: str = "DeepSeek-VL2"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; of more than two images in a request none is cut into tiles."""
        check_image(height, width)
        side = self.candidates[0][0]
        across, down = (1, 1)
        if images <= CROPPED_IMAGES:
            best = self.best(height, width)
            across, down = best[0] // side, best[1] // side
        patches = side // self.patch
        edge = math.ceil(patches / self.downsample)
        tokens = edge * (edge + 1) + 1 + down * edge * (across * edge + 1)
        return ItemTokens(tokens, 0, (PatchGrid(1 + across * down, patches, patches),))

    def best(self, height: int, width: int) -> tuple[int, int]:
        """Return the candidate that keeps most pixels, and of these the one that wastes least.

        Raises `ConfigError` for an image of which none keeps a pixel.
        """
        best, kept_most, wasted_least = None, 0, math.inf
        for candidate in self.candidates:
            scale = min(candidate[0] / width, candidate[1] / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            wasted = candidate[0] * candidate[1] - kept
            if kept > kept_most or (best and kept == kept_most and wasted < wasted_least):
                best, kept_most, wasted_least = candidate, kept, wasted
        if best is None:
            raise ConfigError(
                f"image of {height}x{width} pixels: one side is so much longer that none of the other is left"
                f" after resizing, which the processor of {self.model} refuses"
            )
        return best


@dataclass(frozen=True)
class Pages(Unsupported):
    """Counter of the OCR models."""

    newlines: bool
    base: int = 1024
    tile: int = 640
    fewest: int = 2
    most: int = 6
    patch: int = 16
    downsample: int = 4
    crops: bool = True
    model: str = "DeepSeek-OCR"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; one no larger than a tile is not cut."""
        check_image(height, width)
        across, down = self.grid(height, width)
        newline = int(self.newlines)
        local = math.ceil(self.tile / self.patch / self.downsample)
        whole = self.base if self.crops else self.tile
        overview = math.ceil(self.base / self.patch / self.downsample)
        tokens = overview * (overview + newline) + 1
        if across * down:
            tokens += down * local * (across * local + newline)
        views = [PatchGrid(1, whole // self.patch, whole // self.patch)]
        if across * down:
            views.append(PatchGrid(across * down, self.tile // self.patch, self.tile // self.patch))
        return ItemTokens(tokens, 0, tuple(views))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return columns and rows of tiles; none of an image that is not cut."""
        if not self.crops or max(height, width) <= self.tile:
            return 0, 0
        aspect, best, nearest = width / height, (1, 1), math.inf
        for candidate in grids(self.most, self.fewest):
            difference = abs(aspect - candidate[0] / candidate[1])
            roomy = width * height > 0.5 * self.tile**2 * candidate[0] * candidate[1]
            if difference < nearest or (difference == nearest and roomy):
                nearest, best = difference, candidate
        # The first OCR model takes a grid of one tile for an image that is not cut.
        return (0, 0) if self.newlines and best == (1, 1) else best


def counter(files: ModelFiles) -> "Resolutions | Pages":
    """Read the limits; raise `DataError` that names the field at fault."""
    kind = counted_type(files)
    config = whole_config(files, kind)
    if kind == "deepseek_ocr2":
        return _pages(files, newlines=False, tile=768, model="DeepSeek-OCR-2")
    classes = config.first("architectures")
    if kind == "deepseek_ocr" or (isinstance(classes, list) and "DeepseekOCRForCausalLM" in classes):
        return _pages(files, newlines=True, tile=640, model="DeepSeek-OCR")
    if isinstance(classes, list) and "DeepseekOCR2ForCausalLM" in classes:
        return _pages(files, newlines=False, tile=768, model="DeepSeek-OCR-2")
    given = files.processor_fields()
    source = given if given.first("candidate_resolutions") is not None else config
    return Resolutions(
        candidates=_candidates(source),
        patch=given.integer("patch_size", default=14),
        downsample=given.integer("downsample_ratio", default=2),
    )


def _pages(files: ModelFiles, newlines: bool, tile: int, model: str) -> Pages:
    fields, whole = files.image_fields(), files.processor_fields()
    if not newlines:
        for key, called in (("crop_to_patches", True), ("min_patches", 2), ("max_patches", 6)):
            if fields.first(key) not in (None, called):
                count_as_asked(files, key)
    if newlines:
        # The remote code has these numbers in itself, whatever its files say.
        whole = Fields({"patch_size": 16, "downsample_ratio": 4})
    return Pages(
        newlines=newlines,
        base=square(fields, "size", 1024) if fields.first("size") is not None else 1024,
        tile=fields.integer("tile_size", default=tile),
        fewest=tiles(fields, "min_patches", default=2),
        most=tiles(fields, "max_patches", default=6),
        patch=whole.integer("patch_size", default=16),
        downsample=whole.integer("downsample_ratio", default=4),
        crops=fields.flag("crop_to_patches", True),
        model=model,
    )


def _candidates(fields: Fields) -> tuple[tuple[int, int], ...]:
    """Return the candidate resolutions as width and height, all of them whole tiles."""
    value = fields.first("candidate_resolutions")
    if value is None:
        fields.assume("candidate_resolutions")
        return CANDIDATES
    if not isinstance(value, (list, tuple)) or not value or len(value) > MOST_TILES:
        raise fields.fault("candidate_resolutions", "is no list of resolutions")
    found = []
    for item in value:
        whole = isinstance(item, (list, tuple)) and len(item) == 2
        if not whole or not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in item
        ):
            raise fields.fault("candidate_resolutions", "holds something that is no pair of sides in pixels")
        found.append((item[0], item[1]))
    tile = found[0][0]
    if any(side % tile or side > 2**20 for item in found for side in item):
        raise fields.fault("candidate_resolutions", f"holds sides that are no whole tiles of {tile} pixels")
    return tuple(found)
