"""Tokens of the first Qwen-VL: every image becomes a square, and a resampler makes of it the same number of tokens.

Qwen-Audio has the same model type and a section ``audio``.
"""

from dataclasses import dataclass

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens import audio
from vtprof_analyzer.models.tokens.item import Counter, ItemTokens, PatchGrid, Unsupported, check_image
from vtprof_schemas.errors import DataError

_TEXT = 2 + 5 + 1
"""The tags ``<img>`` and ``</img>``, "Picture 1: " before them and a line break behind."""


@dataclass(frozen=True, kw_only=True)
class Resampled(Unsupported):
    """Counter of one model."""

    model: str = "qwen"
    side: int
    """Patches of a side of the square."""
    queries: int

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image."""
        check_image(height, width)
        return ItemTokens(self.queries, _TEXT, (PatchGrid(1, self.side, self.side),))


def counter(files: ModelFiles) -> Counter:
    """Read ``visual`` or ``audio`` of the config; raise `DataError` that names the field at fault."""
    fields = files.config_fields()
    visual = fields.section("visual")
    if visual is None and fields.section("audio") is not None:
        return audio.counter(files)
    if visual is None:
        raise DataError(
            f"{files.name}: qwen without a section visual or audio is a text-only model and takes no media;"
            " give a vision-language model's folder"
        )
    side = visual.integer("image_size") // visual.integer("patch_size")
    if side < 1:
        raise visual.fault("patch_size", "is larger than the image")
    return Resampled(side=side, queries=visual.integer("n_queries", default=256))
