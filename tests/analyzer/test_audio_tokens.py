"""Audio token rules without any library: fields decide, odd input gets one clear line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.audio import RULES, f5_tokens, rule
from vtprof_analyzer.models.tokens.clips import samples
from vtprof_schemas.errors import ConfigError, DataError


def test_f5_keeps_rate_pooling_and_padding_apart() -> None:
    assert f5_tokens(30.0) == (1500, 1500)
    assert f5_tokens(30.0, pooling=2) == (750, 1500)
    # One second: 50 tokens, while a window of 30 s is computed.
    assert f5_tokens(1.0, padded_seconds=30.0) == (50, 1500)
    assert f5_tokens(31.0, padded_seconds=30.0) == (1550, 3000)


@pytest.mark.parametrize(
    ("kind", "seconds", "tokens"),
    [
        ("whisper", 30.0, 1500),
        ("qwen2_audio", 30.0, 750),  # 25 a second
        ("qwen2_5_omni", 10.0, 250),
        ("qwen3_omni_moe", 10.0, 130),  # 13 a second
        ("qwen3_asr", 10.0, 130),
        ("voxtral", 10.0, 375),  # 12.5 a second of a whole window
        ("voxtral", 30.5, 750),
        ("audioflamingo3", 120.0, 3000),
        ("glmasr", 20.0, 250),
        ("granite_speech", 30.0, 300),  # 1500 pairs of frames are 100 windows of 15, 3 queries each
        ("phi4_multimodal", 10.0, 125),  # 998 frames
        ("gemma3n", 1.0, 188),
        ("gemma4", 10.0, 250),  # 999 whole frames
        ("hubert", 30.0, 1499),
    ],
)
def test_rates(kind: str, seconds: float, tokens: int) -> None:
    assert rule(ModelFiles("m", {"model_type": kind}), kind)(seconds).tokens == tokens


def test_the_first_qwen_audio_has_learned_vectors_at_both_ends() -> None:
    # 500 frames become 250 positions, pooled to 125, and two.
    assert rule(ModelFiles("m", {"model_type": "qwen"}), "qwen_audio")(5.0).tokens == 127


def test_ultravox_stacks_sixteen_frames_and_starts_anew_every_window() -> None:
    count = rule(ModelFiles("m", {"model_type": "ultravox", "stack_factor": 8}), "ultravox")
    # 3000 frames: 187.5 -> 188; one second more: 100 frames, 6.25 -> 7.
    assert (count(30.0).tokens, count(31.0).tokens, count(60.0).tokens) == (188, 195, 376)
    assert [grid.width for grid in count(31.0).grids] == [3000, 100]


def test_the_sampling_rate_is_the_extractors() -> None:
    files = ModelFiles(
        "m", {"model_type": "phi4_multimodal"}, {"sampling_rate": 8000, "hop_length": 80, "win_length": 200}
    )
    assert rule(files, "phi4_multimodal")(10.0).tokens == 125


def test_a_processor_alone_tells_the_family() -> None:
    files = ModelFiles("m", None, {"processor_class": "Qwen2AudioProcessor", "chunk_length": 10})
    assert load_counter(files).audio(30.0).tokens == 250


def test_audio_models_take_nothing_else() -> None:
    counter = load_counter(ModelFiles("m", {"model_type": "voxtral"}))
    with pytest.raises(ConfigError, match="voxtral takes no images"):
        counter.image(10, 10)
    with pytest.raises(ConfigError, match="voxtral takes no video"):
        counter.video(1, 10, 10)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("seconds", [0.0, -3.0, float("nan"), float("inf"), 1e300, 1e-9])
def test_impossible_durations_are_one_line(kind: str, seconds: float) -> None:
    with pytest.raises(ConfigError) as caught:
        rule(ModelFiles("m", {"model_type": kind}), kind)(seconds)
    assert re.fullmatch(r"audio of .*", str(caught.value))


def test_samples_round_to_the_nearest() -> None:
    assert samples(1.0 / 3.0, 16_000) == 5_333
    assert samples(0.99999, 16_000) == 16_000


ODD = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(-1, 3), max_size=3)
)
KEYS = st.sampled_from(
    ["sampling_rate", "hop_length", "chunk_length", "n_fft", "win_length", "melspec_kwargs", "audio_compression_rate",
     "audio_downsample_rate", "projector_window_size", "projector_downsample_rate", "audio_config", "thinker_config",
     "stack_factor", "conv_kernel", "conv_stride", "frame_length", "stride", "min_length", "max_audio_len"]
)  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
@given(data=st.dictionaries(KEYS, ODD, max_size=6), seconds=st.sampled_from([0.01, 1.0, 45.0, 9e6]))
def test_any_fields_count_or_are_refused_with_one_line(
    kind: str, data: dict[str, object], seconds: float
) -> None:
    files = ModelFiles("m", {"model_type": kind, **data}, data, None, data)
    try:
        item = rule(files, kind)(seconds)
    except (ConfigError, DataError) as error:
        assert "\n" not in str(error)
        return
    assert item.tokens >= 0
    assert all(grid.count > 0 and grid.width > 0 for grid in item.grids)
