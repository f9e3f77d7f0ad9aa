"""Visual tokens of Gemma 4: the largest grid of pooled patches within a token budget that keeps the aspect ratio.

The budget is ``max_soft_tokens`` of the image and of the video processor. Padding up to the budget, which transformers'
encoder computes and serving engines cut off, is not part of the grids.
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_image, check_video
from vtprof_analyzer.models.tokens.size_fields import model_fields

BUDGETS = (70, 140, 280, 560, 1120)
"""Tokens of an image that the model was trained for; processors refuse others."""
_TIMESTAMP = 6
"""``00:00 ``: a token for each digit, the colon and the blank."""


@dataclass(frozen=True)
class Budget:
    """How an image or frame is resized."""

    tokens: int
    patch: int
    pooled: int
    """Patches a side that are averaged to one token."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches; an image longer than the budget becomes one row or column of it."""
        cell = self.patch * self.pooled
        factor = math.sqrt(self.tokens * cell * cell / (height * width))
        rows, columns = math.floor(factor * height / cell), math.floor(factor * width / cell)
        if rows == 0:
            rows, columns = 1, self.tokens
        elif columns == 0:
            rows, columns = self.tokens, 1
        return rows * self.pooled, columns * self.pooled


@dataclass(frozen=True, kw_only=True)
class Gemma4Counter(Unsupported):
    """Counter of Gemma 4."""

    model: str
    images: Budget
    frames: Budget
    files: ModelFiles
    merged: bool
    """Gemma 4 Unified: patches are merged before they enter the model, which has no encoder."""
    hears: bool = True
    """The larger models have no audio tower: their config says null."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels, begin and end tag around it."""
        check_image(height, width)
        rows, columns = self.images.grid(height, width)
        return ItemTokens(
            rows * columns // self.images.pooled**2, 2, (self._encoder(1, rows, columns, self.images),)
        )

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video: every frame has a time stamp, a begin and an end tag, and a blank before the next."""
        check_video(frames, height, width)
        rows, columns = self.frames.grid(height, width)
        tokens = frames * (rows * columns // self.frames.pooled**2)
        tags = frames * (_TIMESTAMP + 2) + frames - 1
        return ItemTokens(tokens, tags, (self._encoder(frames, rows, columns, self.frames),))

    def audio(self, seconds: float) -> ItemTokens:
        """Count an audio clip."""
        from vtprof_analyzer.models.tokens.audio import rule
        from vtprof_analyzer.models.tokens.clips import samples

        if not self.hears:
            return super().audio(seconds)
        if not self.merged:
            return rule(self.files, "gemma4")(seconds)
        fields = self.files.audio_fields()
        heard = samples(seconds, fields.integer("sampling_rate", default=16_000))
        frames = -(-heard // fields.integer("audio_samples_per_token", default=640))
        return ItemTokens(frames, 2, (PatchGrid(1, 1, frames),))

    def _encoder(self, count: int, rows: int, columns: int, budget: Budget) -> PatchGrid:
        step = budget.pooled if self.merged else 1
        return PatchGrid(count, rows // step, columns // step)


def counter(files: ModelFiles) -> Gemma4Counter:
    """Read the processor configs; raise `DataError` that names the field at fault."""
    images, frames = _budget(files.image_fields(), 280), _budget(_video_fields(files), 70)
    kind = str(model_fields(files).text("model_type"))
    return Gemma4Counter(
        model=kind,
        images=images,
        frames=frames,
        files=files,
        merged=kind == "gemma4_unified",
        hears=files.config is None
        or "audio_config" not in files.config
        or files.config["audio_config"] is not None,
    )


def _video_fields(files: ModelFiles) -> Fields:
    """Return the video processor's own fields: the image processor's budget does not hold for frames."""
    own = files.video_preprocessor is not None or (files.processor or {}).get("video_processor") is not None
    if own:
        return files.video_fields()
    return Fields({}, "", "video_preprocessor_config.json", files.assumed_of["video"])


def _budget(fields: Fields, default: int) -> Budget:
    tokens = fields.integer("max_soft_tokens", default=default)
    if tokens not in BUDGETS:
        raise fields.fault("max_soft_tokens", f"is {tokens}, none of {', '.join(map(str, BUDGETS))}")
    patch = fields.integer("patch_size", default=16)
    pooled = fields.integer("pooling_kernel_size", default=3)
    if patch * pooled > 2**16:
        raise fields.fault("patch_size", f"is {patch}, with {pooled} of them pooled larger than any image")
    return Budget(tokens, patch, pooled)
