"""What audio token rules share: samples of a clip, the frames of Whisper's feature extractor, and encoder sequences."""

import math
from collections.abc import Callable

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, check_audio
from vtprof_schemas.errors import ConfigError

Rule = Callable[[float], ItemTokens]
"""Counts a clip of so many seconds; raises `ConfigError` for one that the processor refuses."""

SAMPLING_RATE, HOP_SAMPLES, WINDOW_SECONDS = 16_000, 160, 30
"""Of Whisper's feature extractor and all that are made like it."""


def samples(seconds: float, sampling_rate: int, least: int = 1) -> int:
    """Return the samples of a clip; raise `ConfigError` for fewer than the feature extractor can use."""
    check_audio(seconds)
    count = round(seconds * sampling_rate)
    if count < least:
        raise ConfigError(
            f"audio of {seconds:g} seconds: {count} samples at {sampling_rate} Hz, the model's processor needs {least}"
        )
    return count


def cut(files: ModelFiles, seconds: float, sampling_rate: int, most: int) -> int:
    """Return the samples of a clip, ``most`` at most; a cut that the processor makes is noted."""
    count = samples(seconds, sampling_rate)
    if count > most:
        files.assumed.append(f"audio of {seconds:g} s: the processor cuts it at {most / sampling_rate:g} s")
    return min(count, most)


class Clock:
    """Sampling rate and frame step of a feature extractor, and the samples of its window."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        fields = files.audio_fields()
        self.rate = fields.integer("sampling_rate", default=SAMPLING_RATE)
        self.hop = fields.integer("hop_length", default=HOP_SAMPLES)
        self.window = self.rate * fields.integer("chunk_length", default=WINDOW_SECONDS)
        if self.hop > self.window:
            raise fields.fault(
                "hop_length", f"is {self.hop}, more than a whole window of {self.window} samples"
            )

    @property
    def window_frames(self) -> int:
        """Return the frames of a full window."""
        return self.window // self.hop

    def cut(self, seconds: float, most: int) -> int:
        """Return the samples of a clip, ``most`` at most; a cut that the processor makes is noted."""
        return cut(self.files, seconds, self.rate, most)

    def frames(self, count: int) -> int:
        """Return the frames that the mask of a padded clip leaves valid."""
        return math.ceil(count / self.hop)

    def chunks(self, count: int) -> tuple[int, int]:
        """Return windows that a clip fills in part or whole, and its valid frames: windows are cut before framing."""
        full, rest = divmod(count, self.window)
        return max(1, full + (rest > 0)), full * self.window_frames + self.frames(rest)


def halved(frames: int) -> int:
    """Return the length after a convolution of kernel 3, stride 2 and padding 1."""
    return (frames - 1) // 2 + 1


def sequences(frames: int, longest: int) -> tuple[PatchGrid, ...]:
    """Return encoder sequences of a clip that is cut every ``longest`` frames."""
    full, rest = divmod(frames, longest)
    grids = ((full, longest), (1, rest))
    return tuple(PatchGrid(count, 1, width) for count, width in grids if count and width)
