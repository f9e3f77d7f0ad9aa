"""Visual tokens of Idefics3, SmolVLM and Granite Docling: images enlarged to whole tiles, split, and seen as a whole too.

Every tile becomes the same number of tokens by pixel shuffle; row, column and whole-image tags are text tokens. Frames of a
video are one tile each.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image, check_video
from vtprof_analyzer.models.tokens.size_fields import edge, model_fields, section, setting

MOST_PIXELS = 4096
"""No side is resized to more."""
_VIDEO_TEXT = 31 + 1
"""The sentence that says how many frames of how long a video follow, and the empty line behind it: about one token a
word, digit and mark."""
_FRAME_TEXT = 10
"""``Frame from 00:00:`` on a line of its own: a token for each word, digit and mark."""


@dataclass(frozen=True, kw_only=True)
class SplitCounter(Unsupported):
    """Counter of the Idefics3 kind."""

    model: str
    longest: int
    """Longest side [pixels] that an image is resized to, also upwards."""
    tile: int
    patch: int
    tile_tokens: int
    splits: bool
    takes_video: bool

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels."""
        check_image(height, width)
        rows, columns = self._tiles(height, width) if self.splits else (1, 1)
        if rows * columns == 1:
            return ItemTokens(self.tile_tokens, 3, self._encoder(1))
        tiles = rows * columns + 1
        # Two tags before each tile, line breaks behind the rows, an empty line (which merges with the last of them)
        # and the tags of the whole image: before it two, behind it one.
        tags = 2 * rows * columns + rows + 3
        return ItemTokens(tiles * self.tile_tokens, tags, self._encoder(tiles))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: a tile for each frame, between three tags and behind a line with its time."""
        if not self.takes_video:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        tags = _VIDEO_TEXT + frames * (3 + _FRAME_TEXT)
        return ItemTokens(frames * self.tile_tokens, tags, self._encoder(frames))

    def _tiles(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tiles: the longer side resized first, then both rounded up to whole tiles."""
        height, width = _to_longest(height, width, self.longest, even=True)
        if max(height, width) > MOST_PIXELS:
            height, width = _to_longest(height, width, MOST_PIXELS)
        whole_tiles = math.ceil(max(height, width) / self.tile) * self.tile
        height, width = _to_longest(height, width, whole_tiles)
        return math.ceil(height / self.tile), math.ceil(width / self.tile)

    def _encoder(self, tiles: int) -> tuple[PatchGrid, ...]:
        return (PatchGrid(tiles, self.tile // self.patch, self.tile // self.patch),)


def _to_longest(height: int, width: int, longest: int, even: bool = False) -> tuple[int, int]:
    """Resize the longer side to ``longest`` pixels and the other in proportion, rounded down or to an even number."""
    aspect = width / height
    if width >= height:
        height, width = int(longest / aspect), longest
        height += height % 2 if even else 0
    else:
        height, width = longest, int(longest * aspect)
        width += width % 2 if even else 0
    return max(height, 1), max(width, 1)


def counter(files: ModelFiles) -> SplitCounter:
    """Read the processor configs; `config.json` says tile and tokens where they do not."""
    config = model_fields(files)
    kind = str(config.text("model_type"))
    vision = section(config, "vision_config")
    image = files.image_fields()
    tile = edge(image, "max_image_size", "longest_edge", vision.integer("image_size", default=364))
    patch = vision.integer("patch_size", default=14)
    if patch > tile:
        raise vision.fault("patch_size", f"is {patch}, more than a tile of {tile} pixels")
    return SplitCounter(
        model=kind,
        longest=edge(image, "size", "longest_edge", 4 * tile),
        tile=tile,
        patch=patch,
        tile_tokens=_tile_tokens(files, config, tile // patch),
        splits=setting(image, "do_image_splitting", True),
        takes_video=kind == "smolvlm",
    )


def _tile_tokens(files: ModelFiles, config: Fields, side: int) -> int:
    """Return the tokens of a tile: the processor's number, or the model's patches by the scale of its pixel shuffle."""
    processor = files.processor_fields()
    if processor.first("image_seq_len") is not None:
        return processor.integer("image_seq_len")
    scale = config.integer("scale_factor", "pixel_shuffle_factor", default=2)
    tokens = side * side // scale**2
    if tokens < 1:
        raise config.fault("scale_factor", f"is {scale}, more than a tile's {side} patches a side")
    return tokens
