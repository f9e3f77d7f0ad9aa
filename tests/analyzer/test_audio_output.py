"""Audio that comes out: codec tokens, decode modes without a TPOT, and interleaved streams (S123 to S125)."""

import pytest

from vtprof_analyzer.models.tokens.audio_output import (
    CODECS,
    SPEAKERS,
    Codec,
    claims_tpot,
    decode_steps,
    output_times,
)
from vtprof_schemas.errors import ConfigError


def test_codec_tokens_are_frames_times_codebooks() -> None:
    # EnCodec at 6 kbit/s: 75 frames a second x 8 codebooks of 10 bits = 6000 bit/s.
    assert CODECS["encodec_24khz_6kbps"].tokens(10.0) == 6_000
    assert 75 * 8 * 10 == 6_000
    # Mimi: 12.5 x 8 codebooks of 11 bits = 1.1 kbit/s; 2.5 frames round up to 3.
    assert (CODECS["mimi"].frames(0.2), CODECS["mimi"].tokens(0.2)) == (3, 24)
    assert Codec(50.0, 1).tokens(1.5) == 75


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_durations_that_no_clip_has_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="audio of"):
        Codec(50.0, 1).tokens(seconds)
    with pytest.raises(ConfigError, match="audio of"):
        decode_steps("parallel", Codec(50.0, 1), seconds, 16)


def test_steps_depend_on_the_decode_mode() -> None:
    codec = CODECS["soundstream_50hz"]
    assert decode_steps("sequential", codec, 2.0) == 1_200
    assert decode_steps("interleaved", codec, 2.0) == 100
    assert decode_steps("parallel", codec, 2.0, 27) == decode_steps("parallel", codec, 30.0, 27) == 27
    assert decode_steps("staged", codec, 2.0) is None


@pytest.mark.parametrize(
    ("model", "claimed"),
    [("soundstorm", False), ("bark", False), ("moshi", True), ("mini-omni", True), ("gpt-4o-voice", False)],
)
def test_no_tpot_is_claimed_of_another_decode_mode(model: str, claimed: bool) -> None:
    speaker = SPEAKERS[model]
    assert claims_tpot(speaker.mode) is claimed
    assert speaker.codec is None or speaker.codec in CODECS
    times = output_times(0.0, (), (1.0, 1.08, 1.16), speaker.mode)
    assert (times.audio_tpot_seconds is not None) is claimed


def test_interleaved_streams_have_first_times_of_their_own() -> None:
    times = output_times(10.0, (10.2, 10.3, 10.5), (10.6, 10.68, 10.76, 10.84), "interleaved")
    assert times.first_text_seconds == pytest.approx(0.2)
    assert times.first_audio_seconds == pytest.approx(0.6)
    assert times.text_tpot_seconds == pytest.approx(0.15)  # 0.3 s over 2 gaps
    assert times.audio_tpot_seconds == pytest.approx(0.08)  # 0.24 s over 3 gaps
    alone = output_times(0.0, (0.1,), (), "sequential")
    assert (alone.text_tpot_seconds, alone.first_audio_seconds, alone.audio_tpot_seconds) == (
        None,
        None,
        None,
    )
