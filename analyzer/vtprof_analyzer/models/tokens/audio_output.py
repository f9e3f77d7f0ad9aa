"""Audio that a model puts out: codec tokens of a clip, and in what order a model makes them.

One token of text is one step; of audio this holds for some models only. So a time per output token (TPOT) is claimed
for those that make one audio frame or token a step, and for no other.
"""

import math
from dataclasses import dataclass
from typing import Literal

from vtprof_analyzer.models.tokens.item import check_audio

DecodeMode = Literal["sequential", "interleaved", "staged", "parallel", "undisclosed"]
"""``sequential``: one token a step; ``interleaved``: text and audio streams advance together, a frame a step;
``staged``: several models one after another, each over the whole clip; ``parallel``: many positions a step, refined over
some iterations; ``undisclosed``: not published."""


@dataclass(frozen=True)
class Codec:
    """A neural codec with residual vector quantisation (RVQ)."""

    frames_per_second: float
    codebooks: int
    """Tokens of one frame; 1 for a plain vector quantiser (VQ)."""

    def frames(self, seconds: float) -> int:
        """Return frames of a clip, the last one padded."""
        check_audio(seconds)
        return math.ceil(self.frames_per_second * seconds)

    def tokens(self, seconds: float) -> int:
        """Return codec tokens of a clip: frames x codebooks."""
        return self.frames(seconds) * self.codebooks


CODECS: dict[str, Codec] = {
    "encodec_24khz_6kbps": Codec(75.0, 8),
    "soundstream_50hz": Codec(50.0, 12),
    "mimi": Codec(12.5, 8),
    "snac_24khz": Codec(24_000 / 2048, 7),
}
"""As published: EnCodec at 6 kbit/s, SoundStream as SoundStorm uses it, Mimi as Moshi does, SNAC at 24 kHz (one, two and
four tokens of three rates in a frame of 2048 samples; Mini-Omni)."""


@dataclass(frozen=True)
class Speaker:
    """How one model makes audio."""

    mode: DecodeMode
    codec: str | None
    """Key of `CODECS`; None where it is not published."""
    note: str


SPEAKERS: dict[str, Speaker] = {
    "soundstorm": Speaker(
        "parallel", "soundstream_50hz", "codebook by codebook, each in a few parallel iterations"
    ),
    "bark": Speaker(
        "staged", "encodec_24khz_6kbps", "semantic, coarse and fine models; the fine one is not causal"
    ),
    "moshi": Speaker("interleaved", "mimi", "one frame of both speakers' audio and of text a step of 80 ms"),
    "mini-omni": Speaker(
        "interleaved", "snac_24khz", "seven audio tokens and one of text a step, one step apart"
    ),
    "gpt-4o-voice": Speaker("undisclosed", None, "audio in and out in one model; nothing more is published"),
}


def claims_tpot(mode: DecodeMode) -> bool:
    """Tell whether a time per output token means anything for this order of decoding."""
    return mode in ("sequential", "interleaved")


def decode_steps(mode: DecodeMode, codec: Codec, seconds: float, iterations: int | None = None) -> int | None:
    """Return steps of the model that make a clip of audio; None where they do not follow from the clip.

    ``sequential``: a step a token; ``interleaved``: a step a frame; ``parallel``: the ``iterations`` of a pass,
    whatever the length.
    """
    if mode == "sequential":
        return codec.tokens(seconds)
    if mode == "interleaved":
        return codec.frames(seconds)
    check_audio(seconds)
    return iterations if mode == "parallel" else None


@dataclass(frozen=True)
class OutputTimes:
    """Latency of a request that answers in text and audio; None where there is no such token or no such claim."""

    first_text_seconds: float | None
    first_audio_seconds: float | None
    text_tpot_seconds: float | None
    audio_tpot_seconds: float | None


def output_times(
    arrival: float, text_times: tuple[float, ...], audio_times: tuple[float, ...], mode: DecodeMode
) -> OutputTimes:
    """Return first-token times and TPOT by token kind, from the times [s] at which text and audio tokens came out.

    TPOT is the mean of the N - 1 gaps (F34), of audio only where `claims_tpot`; one token has none.
    """

    def first(times: tuple[float, ...]) -> float | None:
        return min(times) - arrival if times else None

    def gap(times: tuple[float, ...]) -> float | None:
        return (max(times) - min(times)) / (len(times) - 1) if len(times) > 1 else None

    return OutputTimes(
        first(text_times),
        first(audio_times),
        gap(text_times),
        gap(audio_times) if claims_tpot(mode) else None,
    )
