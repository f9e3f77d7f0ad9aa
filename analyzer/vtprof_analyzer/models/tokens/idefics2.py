"""Visual tokens of Idefics2, 64 latents for each image, and of IDEFICS, whose latents only the cross-attention sees.

Idefics2 may split an image in four and see it as a whole too; its encoder works on native resolution, padded to the
largest part.
"""

from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.fixed import Fixed
from vtprof_analyzer.models.tokens.item import Counter, ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import sides
from vtprof_analyzer.models.tokens.size_fields import edge, either, model_fields, section, setting
from vtprof_schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Idefics2Counter(Unsupported):
    """Counter of Idefics2."""

    model: str
    latents: int
    splits: bool
    shortest: int
    longest: int
    """Limits of the sides [pixels] of an image or part."""
    patch: int

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels; one tag before each part and one behind the last."""
        check_image(height, width)
        parts = [(height, width)]
        if self.splits:
            if min(height, width) < 2:
                raise ConfigError(
                    f"image of {height}x{width} pixels: too small to be split, as the model's processor does"
                )
            top, left = height // 2, width // 2
            parts += [(top, left), (top, width - left), (height - top, left), (height - top, width - left)]
        resized = [self._resized(*part) for part in parts]
        rows = max(high for high, _ in resized) // self.patch
        columns = max(wide for _, wide in resized) // self.patch
        return ItemTokens(len(parts) * self.latents, len(parts) + 1, (PatchGrid(len(parts), rows, columns),))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        aspect = width / height
        if width >= height and width > self.longest:
            height, width = int(self.longest / aspect), self.longest
        elif height > width and height > self.longest:
            height, width = self.longest, int(self.longest * aspect)
        return max(height, self.shortest), max(width, self.shortest)


def counter(files: ModelFiles) -> Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    config = model_fields(files)
    if config.text("model_type") == "idefics":
        return _idefics(files, config)
    image = files.image_fields()
    patch = section(config, "vision_config").integer("patch_size", default=14)
    shortest = edge(image, "size", "shortest_edge", 378)
    if patch > shortest:
        raise image.fault("size", f"allows sides of {shortest} pixels, less than a patch of {patch}")
    return Idefics2Counter(
        model="idefics2",
        latents=either(
            files.processor_fields(),
            "image_seq_len",
            section(config, "perceiver_config"),
            "resampler_n_latents",
            64,
        ),
        splits=setting(image, "do_image_splitting", False),
        shortest=shortest,
        longest=edge(image, "size", "longest_edge", 980),
        patch=patch,
    )


def _idefics(files: ModelFiles, config: Fields) -> Fixed:
    """Return IDEFICS' rule: positions of the cross-attention, and three tags in the text."""
    vision = section(config, "vision_config")
    image = files.image_fields()
    side = either(image, "image_size", vision, "image_size", 224)
    height, width = sides(image, "size", (side, side))
    patch = vision.integer("patch_size", default=14)
    if patch > min(height, width):
        raise vision.fault("patch_size", f"is {patch}, more than the image's {height}x{width} pixels")
    grid = (height // patch, width // patch)
    tokens = grid[0] * grid[1] + 1
    if setting(config, "use_resampler", False):
        tokens = section(config, "perceiver_config").integer("resampler_n_latents", default=64)
    return Fixed("idefics", tokens, 3, grid)
