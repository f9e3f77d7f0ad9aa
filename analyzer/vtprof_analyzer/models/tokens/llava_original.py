"""Visual tokens of the original LLaVA projects' models: one padded image, anyres tiles, UniRes, or NVILA's dynamic tiles.

Read from config.json alone: ``image_aspect_ratio``, ``image_grid_pinpoints``, ``mm_patch_merge_type``, the projector's kind.
"""

import math
import re
from dataclasses import dataclass

from vtprof_analyzer.models.config_file import CONFIG_FILE
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.original_llava import (
    MOBILE_SIDE,
    downsampling,
    projector_type,
    scales,
    tower_names,
    vision_section,
)
from vtprof_analyzer.models.tokens.anyres import (
    best_resolution,
    capped,
    read_most_tiles,
    read_resolutions,
    unpadded,
)
from vtprof_analyzer.models.tokens.item import (
    Counter,
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.sides import tiles
from vtprof_analyzer.models.tokens.tiling import closest_grid, tile_grids
from vtprof_analyzer.models.vision.named import Convolutional


@dataclass(frozen=True)
class _Shape:
    """Geometry of one encoder sequence and what the projector leaves of it."""

    pixels: int
    patches: int
    """On a side, as the encoder computes them."""
    side: int
    """Tokens on a side behind the projector."""
    fixed: int | None = None
    """Tokens of an image where a compressor sets them."""

    @property
    def tokens(self) -> int:
        return self.side**2 if self.fixed is None else self.fixed

    def grid(self, count: int) -> tuple[PatchGrid, ...]:
        return (PatchGrid(count, self.patches, self.patches),)


@dataclass(frozen=True)
class _Video:
    """How frames are pooled."""

    stride: int
    rounds_up: bool
    newline: str
    """``grid``: behind each row; ``frame``: behind each frame; ``one_token``: at the end; ``none``."""
    text_newline: bool
    """A newline of text behind each frame (VILA)."""
    pooled_frames: int = 1


class _Padded(Unsupported):
    """One image, padded or squeezed to a square."""

    model = "LLaVA"

    def __init__(self, shape: _Shape, video: _Video, newlines: int = 0, text_newlines: int = 0) -> None:
        self._shape = shape
        self._video = video
        self._newlines = newlines
        self._text_newlines = text_newlines

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        return ItemTokens(self._shape.tokens + self._newlines, self._text_newlines, self._shape.grid(1))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: every frame handed over is encoded, then pooled."""
        check_video(frames, height, width)
        rule, side = self._video, self._shape.side
        side = math.ceil(side / rule.stride) if rule.rounds_up else side // rule.stride
        kept = math.ceil(frames / rule.pooled_frames)
        tokens = kept * (side**2 if self._shape.fixed is None else self._shape.fixed)
        tokens += {"grid": kept * side, "frame": kept, "one_token": 1}.get(rule.newline, 0)
        return ItemTokens(tokens, kept if rule.text_newline else 0, self._shape.grid(frames))


class _Unpadded(_Padded):
    """Cambrian-1: one image on a grid, its padding cut off again, a newline for each row."""

    model = "Cambrian-1"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        rows, columns = unpadded(height, width, self._shape.side, self._shape.side)
        return ItemTokens(rows * (columns + 1), grids=self._shape.grid(1))


class _AnyRes(_Padded):
    """Tiles of the best resolution with an overview."""

    def __init__(
        self,
        shape: _Shape,
        video: _Video,
        resolutions: tuple[tuple[int, int], ...],
        merge: str,
        most_tiles: int | None,
    ) -> None:
        super().__init__(shape, video, newlines=int("unpad" in merge))
        self._resolutions = resolutions
        self._merge = merge
        self._most_tiles = most_tiles

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; with a cap on tiles (OneVision) several of a request are not tiled."""
        if images > 1 and self._most_tiles is not None:
            return super().image(height, width, images)
        check_image(height, width)
        shape = self._shape
        best = best_resolution(height, width, self._resolutions)
        down, across = best[0] // shape.pixels, best[1] // shape.pixels
        overview = 0 if "unires" in self._merge or "nobase" in self._merge else shape.tokens
        if "unpad" not in self._merge:
            return ItemTokens(overview + down * across * shape.tokens, grids=shape.grid(1 + down * across))
        rows, columns = unpadded(height, width, shape.side * down, shape.side * across)
        rows, columns = capped(rows, columns, shape.side, self._most_tiles)
        return ItemTokens(overview + rows * columns + rows, grids=shape.grid(1 + down * across))


class _Dynamic(_Padded):
    """NVILA: tiles on the grid closest in aspect ratio; with S2 the tiles of all scales, joined at the largest."""

    model = "NVILA"

    def __init__(self, shape: _Shape, video: _Video, fewest: int, most: int, s2: list[int]) -> None:
        super().__init__(shape, video, text_newlines=1)
        self._s2 = s2
        # With S2 there are at least as many tiles as the largest scale has.
        self._grids = tile_grids((s2[-1] // s2[0]) ** 2 if s2 else fewest, most)

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image; several of a request are not tiled."""
        if images > 1:
            return super().image(height, width, images)
        check_image(height, width)
        shape = self._shape
        columns, rows = closest_grid(height, width, shape.pixels**2, self._grids)
        count = columns * rows
        if self._s2:
            encoded = count + sum((side // self._s2[0]) ** 2 for side in self._s2[:-1])
            return ItemTokens(count * shape.tokens, 1, shape.grid(encoded))
        count += int(count > 1)
        return ItemTokens(count * shape.tokens, count, shape.grid(count))


def counter(files: ModelFiles) -> Counter:
    """Read the config; raise `DataError` that names the field at fault."""
    top = Fields(files.config or {}, "", CONFIG_FILE)
    shape = _shape(top, files)
    aspect = top.text("image_aspect_ratio") or ""
    merge = top.text("mm_patch_merge_type") or "flat"
    video = _video(top, merge)
    if top.first("mm_vision_tower_aux_list") is not None:
        if top.first("lowres_token") is not None:
            files.assumed_of["video"].append(
                "LongVU keeps fewer tokens of a video, by content and question: an upper bound"
            )
        return _Unpadded(shape, video)
    if "anyres" in aspect or "highres" in aspect:
        cap = read_most_tiles(top, "image_aspect_ratio", aspect) if aspect.startswith("anyres_max") else None
        return _AnyRes(shape, video, _resolutions(top, shape.pixels), merge, cap)
    if aspect.startswith("dynamic"):
        s2 = scales(top) if aspect == "dynamic_s2" else []
        fewest, most = tiles(top, "min_tiles", default=1), tiles(top, "max_tiles", default=12)
        return _Dynamic(shape, video, fewest, most, s2)
    nested = top.first("vision_tower_cfg") is not None
    return _Padded(shape, video, newlines=int("unpad" in merge), text_newlines=int(nested))


def _shape(top: Fields, files: ModelFiles) -> _Shape:
    section = vision_section(top, tower_names(top)[0])
    if isinstance(section, Convolutional):
        pixels, patches = section.side, section.side // section.stride
    else:
        pixels = section.integer("image_size")
        patches = pixels // section.integer("patch_size")
    s2 = scales(top)
    if s2:
        patches = patches * s2[0] // pixels or 1
        pixels = s2[0]
    kind = projector_type(top)
    side = math.ceil(patches / downsampling(kind))
    if "ldpnetv2" in kind:
        side = MOBILE_SIDE
    if "tokenpacker" in kind:
        side = patches // top.integer("scale_factor", default=2)
    fixed = None
    if top.first("mm_vision_tower_aux_list") is not None:
        queries = top.integers("query_num_list", (576,))
        side = math.isqrt(queries[0]) if queries else side
    compressed = top.text("mm_vision_token_compression_type")
    if compressed is not None and "prumerge" in compressed.lower():
        files.assumed.append(
            "PruMerge keeps fewer tokens, how many depends on the image: the count is an upper bound"
        )
    elif compressed is not None:
        fixed = top.integer("mm_vision_output_combined_token_count", default=1)
    return _Shape(pixels, max(1, patches), max(1, side), fixed)


def _video(top: Fields, merge: str) -> _Video:
    """Return the pooling of frames; by default 2 x 2 with one newline at the end for models that merge tiles in space."""
    nested = top.first("vision_tower_cfg") is not None
    spatial = "spatial" in merge or "unires" in merge
    stride = top.integer("mm_spatial_pool_stride", default=2 if spatial else 1)
    mode = top.text("mm_spatial_pool_mode") or "bilinear"
    newline = (top.text("mm_newline_position") or "one_token") if "unpad" in merge else "none"
    encoder = top.section("video_encoder")
    pooled = 1
    sizes = encoder.first("pool_sizes") if encoder is not None else None
    if isinstance(sizes, list) and sizes and isinstance(sizes[0], list) and sizes[0]:
        first = sizes[0][0]
        pooled = first if isinstance(first, int) and 0 < first <= 4096 else 1
    return _Video(stride, mode == "bilinear", newline, text_newline=nested, pooled_frames=pooled)


def _resolutions(top: Fields, pixels: int) -> tuple[tuple[int, int], ...]:
    """Return resolutions, height first: the projects write width first, or a range of tiles ``(1x1),...,(6x6)``."""
    key = "image_grid_pinpoints"
    value = top.first(key)
    if isinstance(value, str):
        ends = re.findall(r"\((\d{1,2})x(\d{1,2})\)", value)
        if ends:
            low, high = [int(side) for side in ends[0]], [int(side) for side in ends[-1]]
            pairs = [
                (down * pixels, across * pixels)
                for across in range(max(1, low[0]), high[0] + 1)
                for down in range(max(1, low[1]), high[1] + 1)
            ]
            if pairs:
                return tuple(pairs)
        numbers = [int(side) for side in re.findall(r"\d{1,5}", value)]
        value = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=False)]
        read = read_resolutions(Fields({key: value}, top.path, top.file), ())
    else:
        read = read_resolutions(top, ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)))
    turned = tuple((high, wide) for wide, high in read)
    if any(min(pair) < pixels for pair in turned):
        raise top.fault(key, f"has a resolution below the tower's {pixels} pixels")
    return turned
