"""Positions that Llama 3.2 Vision's cross-attention sees of an image: those of its tiles, a class token in each.

An image is fitted to the grid of tiles that enlarges it least, or shrinks it least where none holds it. The text holds
one token for an image, whatever its size. Hugging Face's code fills the tiles up to the model's number and masks the
empty ones: the encoder computes them (``grids``), the cross-attention does not see them (``tokens``).
"""

from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import Counter, ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_analyzer.models.tokens.sides import square, tiles, whole_config
from vtprof_analyzer.models.tokens.size_fields import section


@dataclass(frozen=True)
class _Tiled(Unsupported):
    side: int
    """Of a tile [pixels]."""
    patches: int
    """Of a tile."""
    most_tiles: int
    model: str = "Llama 3.2 Vision"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image: its tiles' patches and class tokens; one token of text stands for it."""
        check_image(height, width)
        used = self._tiles(height, width)
        grid = PatchGrid(1, self.most_tiles, self.patches)
        return ItemTokens(used * (self.patches + 1), extra_tokens=1, grids=(grid,))

    def _tiles(self, height: int, width: int) -> int:
        """Return the tiles of the smallest of those canvases that fit equally well."""
        scales = [
            (min(down * self.side / height, across * self.side / width), down * across)
            for down in range(1, self.most_tiles + 1)
            for across in range(1, self.most_tiles // down + 1)
        ]
        enlarging = [scale for scale, _ in scales if scale >= 1.0]
        chosen = min(enlarging) if enlarging else max(scale for scale, _ in scales)
        return min(count for scale, count in scales if scale == chosen)


def counter(files: ModelFiles) -> Counter:
    """Read the processor config; where it is silent the tiles are those that the tower is made for.

    Raises `DataError` that names the field at fault.
    """
    vision = section(whole_config(files, "mllama"), "vision_config")
    image = files.image_fields()
    patch = vision.integer("patch_size", default=14)
    side = square(image, "size", vision.integer("image_size", default=448))
    most = tiles(image, "max_image_tiles", default=vision.integer("max_num_tiles", default=4))
    if side < patch:
        raise image.fault("size", f"is {side}, less than a patch of {patch} pixels")
    return _Tiled(side, (side // patch) ** 2, most)
