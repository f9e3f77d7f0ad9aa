"""Convolutional tokenizers of images (VQ-GAN), as Chameleon, Janus and Emu3 have them: their parameters.

A pyramid of residual blocks that halves the image level by level, attention at its foot, a codebook.
"""

from collections.abc import Collection
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields


@dataclass(frozen=True)
class Pyramid:
    """Sizes of one tokenizer."""

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    channels: int
    latent: int
    attention_levels: frozenset[int]
    """Levels with attention behind each block; 0 is the widest."""

    @property
    def deepest(self) -> int:
        """Return the channels of the deepest level."""
        return self.base * self.multipliers[-1]

    def encoder(self) -> int:
        """Return the parameters of the encoder."""
        total = convolution(self.channels, self.base) + self.foot()
        before = self.base
        for level, multiplier in enumerate(self.multipliers):
            width = self.base * multiplier
            total += residual(before, width) + (self.blocks - 1) * residual(width, width)
            total += self.blocks * attention(width) if level in self.attention_levels else 0
            total += convolution(width, width) if level < len(self.multipliers) - 1 else 0
            before = width
        return total + 2 * before + convolution(before, self.latent)

    def decoder(self, out: int, codes: int = 0) -> int:
        """Return the parameters of the decoder, which has a block more on each level.

        Its norms take a scale and a shift from the codes (Emu3), of width ``codes``, where that is not 0.
        """
        total = convolution(self.latent, self.deepest) + self.foot(codes)
        before = self.deepest
        for level in reversed(range(len(self.multipliers))):
            width = self.base * self.multipliers[level]
            total += residual(before, width, codes) + self.blocks * residual(width, width, codes)
            total += (self.blocks + 1) * attention(width, codes) if level in self.attention_levels else 0
            total += convolution(width, width) if level else 0
            before = width
        return total + norm(before, codes) + convolution(before, out)

    def foot(self, codes: int = 0) -> int:
        """Return the parameters between encoder's and decoder's levels: two blocks around attention."""
        return 2 * residual(self.deepest, self.deepest, codes) + attention(self.deepest, codes)


def pyramid(fields: Fields, attention_levels: Collection[int]) -> Pyramid:
    """Read the sizes of a tokenizer; raise `DataError` that names the field at fault.

    ``attention_levels`` are those with attention behind each block, negative ones counted from the deepest.
    """
    multipliers = fields.integers("channel_multiplier", (1, 1, 2, 2, 4))
    if not 0 < len(multipliers) <= 32 or min(multipliers) < 1 or max(multipliers) > 2**20:
        raise fields.fault("channel_multiplier", "is no list of factors")
    double = 2 if fields.flag("double_latent", False) else 1
    return Pyramid(
        base=fields.integer("base_channels", default=128),
        multipliers=multipliers,
        blocks=fields.integer("num_res_blocks", default=2),
        channels=fields.integer("in_channels", default=3),
        latent=double * fields.integer("latent_channels", default=256),
        attention_levels=frozenset(
            level + len(multipliers) if level < 0 else level for level in attention_levels
        ),
    )


def convolution(channels: int, out: int) -> int:
    """Return the parameters of a convolution of 3 x 3."""
    return 9 * channels * out + out


def norm(channels: int, codes: int = 0) -> int:
    """Return the parameters of a norm, with matrices that make its scale and shift from codes of a width over 0."""
    return 2 * channels + (2 * (codes * channels + channels) if codes else 0)


def residual(channels: int, out: int, codes: int = 0) -> int:
    """Return the parameters of two convolutions with a norm each, and a matrix where the width changes."""
    shortcut = channels * out + out if channels != out else 0
    norms = norm(channels, codes) + norm(out, codes)
    return norms + convolution(channels, out) + convolution(out, out) + shortcut


def attention(channels: int, codes: int = 0) -> int:
    """Return the parameters of a norm and four matrices."""
    return norm(channels, codes) + 4 * (channels**2 + channels)
