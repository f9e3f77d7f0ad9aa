"""Visual tokens of LLaVA-NeXT (anyres tiles, an overview, a learned newline after each row) and LLaVA-NeXT-Video.

Granite Vision is read by the same rule. Videos are pooled 2 x 2 a frame and have no newlines.
"""

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.anyres import best_resolution, read_resolutions, unpadded
from vtprof_analyzer.models.tokens.item import (
    Counter,
    ItemTokens,
    PatchGrid,
    Unsupported,
    check_image,
    check_video,
)
from vtprof_analyzer.models.tokens.llava import Tower, read_tower
from vtprof_analyzer.models.tokens.resize import Resize, read_resize
from vtprof_analyzer.models.tokens.sides import sides

RESOLUTIONS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Of the published LLaVA-NeXT models and the processor's class, height first."""


class _LlavaNext(Unsupported):
    model = "LLaVA-NeXT"

    def __init__(
        self,
        tower: Tower,
        tile: tuple[int, int],
        resolutions: tuple[tuple[int, int], ...],
        frames: Resize | None,
    ) -> None:
        self._tower = tower
        self._tile = tile
        self._resolutions = resolutions
        self._frames = frames

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image: overview, tiles without their padding, a newline for each row of features."""
        check_image(height, width)
        rows, columns = self._tower.patches(*self._tile)
        best = best_resolution(height, width, self._resolutions)
        down, across = best[0] // self._tile[0], best[1] // self._tile[1]
        kept_rows, kept_columns = unpadded(height, width, rows * down, columns * across)
        tokens = rows * columns + self._tower.added + kept_rows * kept_columns + kept_rows
        return ItemTokens(tokens, grids=(PatchGrid(1 + down * across, rows, columns),))

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video of LLaVA-NeXT-Video: a quarter of each frame's patches."""
        if self._frames is None:
            return super().video(frames, height, width)
        check_video(frames, height, width)
        rows, columns = self._tower.patches(*self._frames.sides(height, width))
        return ItemTokens(rows * columns // 4 * frames, grids=(PatchGrid(frames, rows, columns),))


def counter(files: ModelFiles) -> Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    kind = (files.config or {}).get("model_type")
    video = kind == "llava_next_video" or (files.config is None and _is_video(files))
    tower = read_tower(files, "llava_next_video" if video else "llava_next")
    fields = files.image_fields()
    tile = _tile(fields, tower)
    resolutions = read_resolutions(fields, _of_config(files) or RESOLUTIONS)
    if any(best[0] < tile[0] or best[1] < tile[1] for best in resolutions):
        raise fields.fault(
            "image_grid_pinpoints", f"has a resolution below the tile of {tile[0]}x{tile[1]} pixels"
        )
    frames = read_resize(files.video_fields(), tower.side, crops=True) if video else None
    return _LlavaNext(tower, tile, resolutions, frames)


def _tile(fields: Fields, tower: Tower) -> tuple[int, int]:
    """Return height and width of a tile: the crop of the processor, else its size."""
    if fields.first("crop_size") is not None and fields.flag("do_center_crop", True):
        return sides(fields, "crop_size", (tower.side, tower.side))
    return sides(fields, "size", (tower.side, tower.side))


def _of_config(files: ModelFiles) -> tuple[tuple[int, int], ...] | None:
    """Return the resolutions that config.json repeats, for a model whose processor config is missing."""
    fields = files.config_fields()
    if fields.first("image_grid_pinpoints") is None:
        return None
    return read_resolutions(fields, ())


def _is_video(files: ModelFiles) -> bool:
    return bool(files.processor_fields().first("processor_class") == "LlavaNextVideoProcessor")
