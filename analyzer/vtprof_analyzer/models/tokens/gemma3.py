"""Visual tokens of the Gemma 3 kind and of PaliGemma: one square size, a fixed number of tokens, crops of long images.

Gemma 3 cuts crops ("pan and scan") only when a call asks for it; ``do_pan_and_scan: true`` in the image processor's config
counts as such a call, with its three limits beside it, and a note says so.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import sides
from vtprof_analyzer.models.tokens.size_fields import count_as_asked, either, model_fields, section, setting

_SEQUENCE_TAGS = 4
"""An empty line, begin, end, an empty line: one token each."""
_FIRST_TEXT = 6 + 11
"""``Here is the original image `` and `` and here are some crops to help you see better ``: a word is one Gemma token,
and so is a blank at the end."""
_MOBILENET_GRID = 16
"""MobileNet-V5 makes 16 x 16 features of its 768 x 768 pixels."""


@dataclass(frozen=True)
class PanAndScan:
    """When and how an image is cut along its longer side."""

    least_crop: int
    """Pixels that a crop must have along both sides."""
    most_crops: int
    least_ratio: float
    """Aspect ratio from which on an image is cut."""

    def crops(self, height: int, width: int) -> int:
        """Return the number of crops beside the whole image; 0 where it stays whole."""
        longer, shorter = max(height, width), min(height, width)
        if longer / shorter < self.least_ratio:
            return 0
        crops = min(
            self.most_crops, max(2, min(longer // self.least_crop, math.floor(longer / shorter + 0.5)))
        )
        return 0 if min(shorter, math.ceil(longer / crops)) < self.least_crop else crops


@dataclass(frozen=True, kw_only=True)
class SquareCounter(Unsupported):
    """Counter of models that see every image, and every crop, at one size."""

    model: str
    tokens: int
    tags: int
    grid: tuple[int, int]
    cut: PanAndScan | None = None
    files: ModelFiles | None = None
    """For models that take audio as well."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels."""
        check_image(height, width)
        crops = self.cut.crops(height, width) if self.cut else 0
        sequences = 1 + crops
        text = _FIRST_TEXT + crops - 1 if crops else 0
        return ItemTokens(
            sequences * self.tokens, sequences * self.tags + text, (PatchGrid(sequences, *self.grid),)
        )

    def audio(self, seconds: float) -> ItemTokens:
        """Count an audio clip, for Gemma 3n."""
        if self.files is None:
            return super().audio(seconds)
        from vtprof_analyzer.models.tokens.audio import rule

        return rule(self.files, "gemma3n")(seconds)


def counter(files: ModelFiles) -> SquareCounter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    config = model_fields(files)
    kind = str(config.text("model_type"))
    processor = files.processor_fields()
    if kind == "gemma3n":
        tokens = either(processor, "image_seq_length", config, "vision_soft_tokens_per_image", 256)
        grid = (_MOBILENET_GRID, _MOBILENET_GRID)
        return SquareCounter(model=kind, tokens=tokens, tags=_SEQUENCE_TAGS, grid=grid, files=files)
    if kind == "colpali":
        config = section(config, "vlm_config")
    prefix = kind in ("paligemma", "colpali")
    grid = _grid(files, section(config, "vision_config"), 224 if prefix else 896)
    if prefix:
        tokens = files.image_fields().integer("image_seq_length", default=grid[0] * grid[1])
        return SquareCounter(model=kind, tokens=tokens, tags=0, grid=grid)
    tokens = either(processor, "image_seq_length", config, "mm_tokens_per_image", 256)
    cut = _pan_and_scan(files.image_fields())
    if cut is not None:
        count_as_asked(files, "do_pan_and_scan")
    return SquareCounter(model=kind, tokens=tokens, tags=_SEQUENCE_TAGS, grid=grid, cut=cut)


def _pan_and_scan(image: Fields) -> PanAndScan | None:
    if not setting(image, "do_pan_and_scan", False):
        return None
    return PanAndScan(
        least_crop=image.integer("pan_and_scan_min_crop_size", default=256),
        most_crops=image.integer("pan_and_scan_max_num_crops", default=4),
        least_ratio=image.number("pan_and_scan_min_ratio_to_activate", default=1.2),
    )


def _grid(files: ModelFiles, vision: Fields, default: int) -> tuple[int, int]:
    side = vision.integer("image_size", default=default)
    height, width = sides(files.image_fields(), "size", (side, side))
    patch = vision.integer("patch_size", default=14)
    if patch > min(height, width):
        raise vision.fault("patch_size", f"is {patch}, more than the image's {height}x{width} pixels")
    return height // patch, width // patch
