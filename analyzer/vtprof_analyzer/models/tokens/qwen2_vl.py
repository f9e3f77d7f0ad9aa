"""Visual tokens of the Qwen2-VL family: resize to cells of patch x merge pixels inside pixel limits, then count.

Same arithmetic as the processors of Qwen2-VL and Qwen2.5-VL in transformers, which agrees to the token (F8).
"""

import math
from dataclasses import dataclass

from vtprof_schemas.errors import ConfigError

MAX_ASPECT_RATIO = 200
"""Beyond it the processors refuse the image."""


@dataclass(frozen=True)
class ImageLimits:
    """Patch geometry and the pixels an image may have after resizing (defaults of the published preprocessor configs)."""

    patch_pixels: int = 14
    merge_patches: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 16384

    @property
    def cell_pixels(self) -> int:
        """Return the side of the square of pixels that becomes one token."""
        return self.patch_pixels * self.merge_patches


@dataclass(frozen=True)
class VideoLimits:
    """Like `ImageLimits` for each frame of a video (defaults of transformers' video processor)."""

    patch_pixels: int = 14
    merge_patches: int = 2
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    temporal_patch_frames: int = 2

    @property
    def cell_pixels(self) -> int:
        """Return the side of the square of pixels that becomes one token."""
        return self.patch_pixels * self.merge_patches


@dataclass(frozen=True)
class Grid:
    """Size of one item in patches; ``frames`` counts temporal patches."""

    frames: int
    height: int
    width: int
    merge_patches: int

    @property
    def patches(self) -> int:
        """Return patches that enter the tower."""
        return self.frames * self.height * self.width

    @property
    def tokens(self) -> int:
        """Return visual tokens that enter the language model."""
        return self.patches // self.merge_patches**2

    @property
    def attention_pairs(self) -> int:
        """Return the sum of patches squared over the images: temporal patches do not attend to one another (C4)."""
        return self.frames * (self.height * self.width) ** 2


def smart_resize(
    height: int, width: int, cell_pixels: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return height and width [pixels] after resizing: multiples of the cell inside the pixel limits.

    Rounds half to even, then scales down (floor) or up (ceil) where the product leaves the limits. Raises
    `ConfigError` for a size that the processors refuse.
    """
    if height < 1 or width < 1:
        raise ConfigError(f"image of {height}x{width} pixels: both sides must be at least 1")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ConfigError(
            f"image of {height}x{width} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, "
            "which the model's processor refuses"
        )
    new_height = round(height / cell_pixels) * cell_pixels
    new_width = round(width / cell_pixels) * cell_pixels
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(cell_pixels, math.floor(height / shrink / cell_pixels) * cell_pixels)
        new_width = max(cell_pixels, math.floor(width / shrink / cell_pixels) * cell_pixels)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / cell_pixels) * cell_pixels
        new_width = math.ceil(width * grow / cell_pixels) * cell_pixels
    return new_height, new_width


def _sides(height: int, width: int, limits: ImageLimits | VideoLimits) -> tuple[int, int]:
    pixels = smart_resize(height, width, limits.cell_pixels, limits.min_pixels, limits.max_pixels)
    return pixels[0] // limits.patch_pixels, pixels[1] // limits.patch_pixels


def image_grid(height: int, width: int, limits: ImageLimits | None = None) -> Grid:
    """Return the grid of one image of ``height`` x ``width`` pixels."""
    limits = limits or ImageLimits()
    return Grid(1, *_sides(height, width, limits), limits.merge_patches)


def video_grid(frames: int, height: int, width: int, limits: VideoLimits | None = None) -> Grid:
    """Return the grid of a video of ``frames`` sampled frames; an incomplete temporal patch is padded (F6)."""
    if frames < 1:
        raise ConfigError(f"video of {frames} frames: at least one is needed")
    limits = limits or VideoLimits()
    temporal = math.ceil(frames / limits.temporal_patch_frames)
    return Grid(temporal, *_sides(height, width, limits), limits.merge_patches)
