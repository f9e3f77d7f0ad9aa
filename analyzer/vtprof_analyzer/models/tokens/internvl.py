"""Visual tokens of InternVL: tiles on the grid closest in aspect ratio, a thumbnail beyond one tile, pixel shuffle.

transformers' models (``internvl``, ``qianfan_ocr``, ``got_ocr2``) and those with code of their own (``internvl_chat``) cut
alike. Tokens of one tile come from ``image_seq_length`` of processor_config.json where it is given: 256 is r = 1/4; 64 is
r = 1/16, to which the router of InternVL3.5-Flash sends some tiles; the mean of a mixed set is between.
"""

from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image, check_video
from vtprof_analyzer.models.tokens.sides import sides, tiles
from vtprof_analyzer.models.tokens.size_fields import count_as_asked, model_fields, section, setting
from vtprof_analyzer.models.tokens.tiling import TileGrid, closest_grid, tile_grids

_PATCH = 14


@dataclass(frozen=True, kw_only=True)
class TileCounter(Unsupported):
    """Counter of models that see tiles of one size."""

    model: str
    tile: tuple[int, int]
    """Height and width [pixels]."""
    patch: int
    tile_tokens: int
    grids: tuple[TileGrid, ...]
    thumbnail: bool
    """Whether an image of several tiles comes with an overview of one more."""
    tags: int
    """Text tokens around an image or frame: begin and end."""
    takes_video: bool

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels."""
        check_image(height, width)
        columns, rows = closest_grid(height, width, self.tile[0] * self.tile[1], self.grids)
        tiles = columns * rows
        if self.thumbnail and tiles > 1:
            tiles += 1
        return ItemTokens(tiles * self.tile_tokens, self.tags, self._encoder(tiles))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: every frame is one tile after ``Frame1: ``, a token for each digit, and before a line break."""
        if not self.takes_video:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        text = 3 * frames + digits_to(frames) + frames - 1
        return ItemTokens(frames * self.tile_tokens, frames * self.tags + text, self._encoder(frames))

    def _encoder(self, tiles: int) -> tuple[PatchGrid, ...]:
        return (PatchGrid(tiles, self.tile[0] // self.patch, self.tile[1] // self.patch),)


def counter(files: ModelFiles) -> TileCounter:
    """Read the processor configs, or config.json for a model with code of its own."""
    config = model_fields(files)
    kind = config.text("model_type")
    if kind == "internvl_chat":
        return _chat(files, config)
    if kind == "got_ocr2":
        return _got(files, config)
    vision = section(config, "vision_config")
    image = files.image_fields()
    tile = sides(image, "size", sides(vision, "image_size", (448, 448)))
    return TileCounter(
        model=str(kind),
        tile=tile,
        patch=_patch(vision, tile),
        tile_tokens=_tile_tokens(files, config, config.integer("image_seq_length", default=256)),
        # The processor cuts whatever ``crop_to_patches`` of the image processor says.
        grids=_grids(image, "min_patches", "max_patches"),
        thumbnail=True,
        tags=2,
        takes_video=kind == "internvl",
    )


def _got(files: ModelFiles, config: Fields) -> TileCounter:
    """Return GOT-OCR 2.0's: one page as a whole, cut only on request; 1024 pixels a side."""
    vision = section(config, "vision_config")
    image = files.image_fields()
    tile = sides(image, "size", sides(vision, "image_size", (1024, 1024)))
    cut = setting(image, "crop_to_patches", False)
    if cut:
        count_as_asked(files, "crop_to_patches")
    return TileCounter(
        model="got_ocr2",
        tile=tile,
        patch=_patch(vision, tile, 16),
        tile_tokens=256,
        grids=_grids(image, "min_patches", "max_patches") if cut else ((1, 1),),
        thumbnail=True,
        tags=2,
        takes_video=False,
    )


def _chat(files: ModelFiles, config: Fields) -> TileCounter:
    """Return the counter of an ``internvl_chat`` config, which holds the tile rule itself."""
    vision = section(config, "vision_config")
    side = config.integer("force_image_size", default=vision.integer("image_size", default=448))
    patch = _patch(vision, (side, side))
    ratio = config.number("downsample_ratio", default=0.5)
    tokens = int((side // patch) ** 2 * ratio**2)
    if not 0.0 < ratio <= 1.0 or tokens < 1:
        raise config.fault(
            "downsample_ratio", f"is {ratio:g}; it must be over 0, at most 1, and leave a token"
        )
    dynamic = config.flag("dynamic_image_size", True)
    return TileCounter(
        model="internvl_chat",
        tile=(side, side),
        patch=patch,
        tile_tokens=_tile_tokens(files, config, tokens),
        grids=_grids(config, "min_dynamic_patch", "max_dynamic_patch") if dynamic else ((1, 1),),
        thumbnail=config.flag("use_thumbnail", True),
        tags=2,
        takes_video=True,
    )


def _tile_tokens(files: ModelFiles, config: Fields, tokens: int) -> int:
    """Return the tokens of a tile; those of a router's models are noted, for only the request's pixels decide them."""
    processor = files.processor_fields()
    if processor.first("image_seq_length") is not None:
        return processor.integer("image_seq_length")
    if setting(config, "flash_mode", False):
        processor.assume("image_seq_length")
    return tokens


def _grids(fields: Fields, fewest: str, most: str) -> tuple[TileGrid, ...]:
    return tile_grids(tiles(fields, fewest, default=1), tiles(fields, most, default=12))


def _patch(vision: Fields, tile: tuple[int, int], default: int = _PATCH) -> int:
    patch = vision.integer("patch_size", default=default)
    if patch > min(tile):
        raise vision.fault("patch_size", f"is {patch}, more than a tile of {tile[0]}x{tile[1]} pixels")
    return patch


def digits_to(last: int) -> int:
    """Return how many digits the numbers from 1 to ``last`` have together."""
    total, first = 0, 1
    while first <= last:
        total += len(str(first)) * (min(last, 10 * first - 1) - first + 1)
        first *= 10
    return total
