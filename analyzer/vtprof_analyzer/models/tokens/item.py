"""What a token rule answers about one image, video or audio clip, and the contract of token rules.

A token rule is a module of this package with one function, ``counter(files)``, that reads the model's processor configs
into a `Counter`: pure arithmetic afterwards, no file and no clock.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from vtprof_schemas.errors import ConfigError, DataError

Kind = Literal["image", "video", "audio"]


@dataclass(frozen=True)
class PatchGrid:
    """Encoder sequences of one shape: each of them attends to itself only (C4)."""

    count: int
    """Sequences: tiles, images, or temporal patches of a video."""
    height: int
    width: int
    """Sides in patches; audio has height 1."""

    @property
    def patches(self) -> int:
        """Return patches that enter the tower."""
        return self.count * self.height * self.width

    @property
    def attention_pairs(self) -> int:
        """Return the sum of patches squared over the sequences."""
        return self.count * (self.height * self.width) ** 2


@dataclass(frozen=True)
class ItemTokens:
    """Count of one item."""

    tokens: int
    """Positions filled with media features, learned newline and separator vectors among them. Positions of the language
    model; of the cross-attention for models of that kind."""
    extra_tokens: int = 0
    """Text tags around and between them: begin and end of image, rows, tiles, time stamps."""
    grids: tuple[PatchGrid, ...] = ()
    """What the encoder runs on; padding that it computes is part of it."""

    @property
    def patches(self) -> int:
        """Return patches that enter the tower."""
        return sum(grid.patches for grid in self.grids)


class Counter(Protocol):
    """Token arithmetic of one model. Every method raises `ConfigError` with one line for a size the processor refuses."""

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Count one image of ``height`` x ``width`` pixels, of a request with ``images`` images in all."""
        ...

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Count a video of ``frames`` frames as handed to the processor."""
        ...

    def audio(self, seconds: float) -> ItemTokens:
        """Count an audio clip."""
        ...


class Unsupported:
    """The answers of a model for the kinds of media that it does not take; counters of families inherit nothing else."""

    model: str = "this model"

    def image(self, height: int, width: int, images: int = 1) -> ItemTokens:
        """Refuse an image."""
        raise ConfigError(f"{self.model} takes no images; leave --image out")

    def video(self, frames: int, height: int, width: int) -> ItemTokens:
        """Refuse a video."""
        raise ConfigError(f"{self.model} takes no video; give its frames as --image, or leave --video out")

    def audio(self, seconds: float) -> ItemTokens:
        """Refuse audio."""
        raise ConfigError(f"{self.model} takes no audio; leave --audio out")


MOST_PIXELS_A_SIDE = 1_000_000
MOST_PIXELS = 10**9
"""Image libraries refuse far smaller ones as decompression bombs."""
MOST_FRAMES = 10_000_000
MOST_SECONDS = 10_000_000.0
MOST_TOKENS = 10**9
"""Of one item, positions, tags or patches: hundreds of times the longest context of any model."""


def check_image(height: int, width: int) -> None:
    """Raise `ConfigError` for sides that no image has."""
    if height < 1 or width < 1:
        raise ConfigError(f"image of {height}x{width} pixels: both sides must be at least 1")
    if max(height, width) > MOST_PIXELS_A_SIDE:
        raise ConfigError(f"image of {height}x{width} pixels: no side may be over {MOST_PIXELS_A_SIDE:,}")
    if height * width > MOST_PIXELS:
        raise ConfigError(f"image of {height}x{width} pixels: no more than {MOST_PIXELS:,} pixels in all")


def check_video(frames: int, height: int, width: int) -> None:
    """Raise `ConfigError` for a number of frames or sides that no video has."""
    if frames < 1:
        raise ConfigError(f"video of {frames} frames: at least one is needed")
    if frames > MOST_FRAMES:
        raise ConfigError(f"video of {frames} frames: no more than {MOST_FRAMES:,}")
    check_image(height, width)


def check_count(kind: Kind, count: ItemTokens) -> None:
    """Raise `DataError` for a count that no model takes: the sizes of its processor config are no processor's."""
    most, what = max(
        (count.tokens, "tokens"),
        (count.extra_tokens, "text tags"),
        (count.patches, "patches"),
        key=lambda n: n[0],
    )
    if most > MOST_TOKENS:
        # Of frames there may be too many as well; an image or clip that large was refused before.
        smaller = "; give fewer frames, or" if kind == "video" else "; use"
        raise DataError(
            f"the sizes in the processor config multiply to {most:.1e} {what} of one {kind}, more than any model"
            f" takes{smaller} the files of the model as published"
        )


def check_audio(seconds: float) -> None:
    """Raise `ConfigError` for a duration that no clip has."""
    if not 0.0 < seconds <= MOST_SECONDS:
        raise ConfigError(f"audio of {seconds:g} seconds: must be over 0 and at most {MOST_SECONDS:,.0f}")
