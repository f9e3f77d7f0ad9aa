"""Audio tokens: a clip's samples become spectrogram frames, the encoder's positions and tokens of the language model.

`rule(files, kind)` gives the rule of a model type, also to the token rules of models that take more than audio
(``rule(files, "qwen2_5_omni")(seconds)``); `counter` is the whole answer for models that take audio alone. Seconds
become ``round(seconds * sampling rate)`` samples. Rate, pooling and padding are three things (F5): the padded window
decides what the encoder computes (``grids``, in spectrogram frames), the tokens need not follow it.
"""

import math
from collections.abc import Callable

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.tokens import audio_conformer
from vtprof_analyzer.models.tokens.clips import SAMPLING_RATE, Clock, Rule, halved, samples, sequences
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid, Unsupported, check_audio
from vtprof_analyzer.models.tokens.waveform import bert_rule, waveform_rule

CHUNK_TOKENS = 13
"""Positions that three strided convolutions make of a chunk of 100 frames."""


def f5_tokens(
    seconds: float, tokens_per_second: float = 50.0, pooling: int = 1, padded_seconds: float | None = None
) -> tuple[int, int]:
    """Return tokens of a clip and positions that the encoder computes (F5), from rate, pooling and padding.

    ``padded_seconds`` is the window to a multiple of which the encoder pads; None: it computes what is there.
    """
    check_audio(seconds)
    padded = seconds if padded_seconds is None else math.ceil(seconds / padded_seconds) * padded_seconds
    return math.ceil(tokens_per_second * seconds / pooling), math.ceil(tokens_per_second * padded)


def _pooled(frames: int) -> int:
    """Return the length after the strided convolution and the pooling by 2 of Qwen-Audio's kind."""
    return (halved(frames) - 2) // 2 + 1


def _section(files: ModelFiles, kind: str, *keys: str) -> Fields:
    """Return a section of config.json with defaults filled in; a level that the file leaves out is skipped."""
    fields = Fields(complete(files.config or {}, kind), "", "config.json", files.assumed_of["audio"])
    for key in keys:
        fields = fields.section(key) or fields
    return fields


def _qwen2_audio(files: ModelFiles) -> Rule:
    """Qwen2-Audio: cut or padded to one window of 30 s, pooled to 25 tokens a second; begin and end tag."""
    clock = Clock(files)

    def count(seconds: float) -> ItemTokens:
        frames = clock.frames(clock.cut(seconds, clock.window))
        return ItemTokens(max(0, _pooled(frames)), 2, (PatchGrid(1, 1, clock.window_frames),))

    return count


def _qwen_audio(files: ModelFiles) -> Rule:
    """Qwen-Audio, first generation: as Qwen2-Audio on whole frames; learned vectors stand at both ends."""
    clock = Clock(files)

    def count(seconds: float) -> ItemTokens:
        frames = clock.cut(seconds, clock.window) // clock.hop
        return ItemTokens(max(0, _pooled(frames)) + 2, 0, (PatchGrid(1, 1, clock.window_frames),))

    return count


def _qwen2_5_omni(files: ModelFiles) -> Rule:
    """Qwen2.5-Omni: chunks of two windows' frames that attend to themselves, 25 tokens a second; begin and end tag."""
    clock = Clock(files)
    chunk = 2 * _section(files, "qwen2_5_omni", "thinker_config", "audio_config").integer(
        "n_window", default=100
    )

    def count(seconds: float) -> ItemTokens:
        frames = clock.frames(clock.cut(seconds, clock.window))
        return ItemTokens(max(0, _pooled(frames)), 2, sequences(frames, chunk))

    return count


def _chunked(frames: int, chunk: int) -> int:
    """Return the length after three strided convolutions over chunks, each of them on its own."""
    full, rest = divmod(frames, chunk)
    return halved(halved(halved(rest))) + full * CHUNK_TOKENS


def _qwen3_omni(files: ModelFiles, kind: str = "qwen3_omni_moe", least: int = 0) -> Rule:
    """Qwen3-Omni and Qwen3-ASR: chunks of 100 frames become 13 tokens, attention within 8 chunks; two tags."""
    clock = Clock(files)
    audio = _section(files, kind, "thinker_config", "audio_config")
    chunk = 2 * audio.integer("n_window", default=50)
    window = audio.integer("n_window_infer", default=800) // chunk * chunk or chunk
    # A spectrogram centred on its frames mirrors half a transform at both ends.
    mirrored = files.audio_fields().integer("n_fft", default=400) // 2 + 1

    def count(seconds: float) -> ItemTokens:
        frames = max(samples(seconds, clock.rate, 1 if least else mirrored), least) // clock.hop
        return ItemTokens(_chunked(frames, chunk), 2, sequences(frames, window))

    return count


def _qwen3_asr(files: ModelFiles) -> Rule:
    """Qwen3-ASR: as Qwen3-Omni, clips under half a second padded to it."""
    least = files.audio_fields().integer("min_length", default=8000, minimum=0)
    return _qwen3_omni(files, "qwen3_asr", least)


def _voxtral(files: ModelFiles) -> Rule:
    """Voxtral: whole windows of 30 s, 375 tokens each, padding among them; a begin tag."""
    clock = Clock(files)
    audio = _section(files, "voxtral", "audio_config")
    positions = audio.integer("max_source_positions", default=1500)
    stack = max(
        1, audio.integer("intermediate_size", default=5120) // audio.integer("hidden_size", default=1280)
    )

    def count(seconds: float) -> ItemTokens:
        windows, _ = clock.chunks(samples(seconds, clock.rate))
        grid = PatchGrid(windows, 1, clock.window_frames)
        return ItemTokens(windows * math.ceil(positions / stack), 1, (grid,))

    return count


def _windows(files: ModelFiles, longest_seconds: int, tags: int, tokens: Callable[[int], int]) -> Rule:
    """Return a rule of windows of 30 s, each padded, whose valid frames are counted together."""
    clock = Clock(files)
    longest = files.processor_fields().integer("max_audio_len", default=longest_seconds)
    most = max(1, longest // max(1, clock.window // clock.rate)) * clock.window

    def count(seconds: float) -> ItemTokens:
        windows, frames = clock.chunks(clock.cut(seconds, most))
        return ItemTokens(max(0, tokens(frames)), tags, (PatchGrid(windows, 1, clock.window_frames),))

    return count


def _audioflamingo3(files: ModelFiles) -> Rule:
    """Audio Flamingo 3: 25 tokens a second, cut at 10 minutes."""
    return _windows(files, 600, 0, _pooled)


def _musicflamingo(files: ModelFiles) -> Rule:
    """Music Flamingo: as Audio Flamingo 3, cut at 20 minutes; begin and end tag."""
    return _windows(files, 1200, 2, _pooled)


def _glmasr(files: ModelFiles) -> Rule:
    """GLM-ASR: 12.5 tokens a second, cut at 655 s; begin and end tag."""
    return _windows(files, 655, 2, lambda frames: (halved(frames) - 4) // 4 + 1)


def _ultravox(files: ModelFiles) -> Rule:
    """Ultravox: windows of 30 s, each rounded up to tokens of 16 frames (6.25 a second); the last is not padded."""
    clock = Clock(files)
    stacked = 2 * files.config_fields().integer("stack_factor", default=8)

    def count(seconds: float) -> ItemTokens:
        windows, frames = clock.chunks(samples(seconds, clock.rate))
        last = frames - (windows - 1) * clock.window_frames
        tokens = (windows - 1) * math.ceil(clock.window_frames / stacked) + math.ceil(last / stacked)
        return ItemTokens(tokens, 0, sequences(frames, clock.window_frames))

    return count


def _whisper(files: ModelFiles) -> Rule:
    """Whisper: one window, cut or padded to 30 s: 1500 positions (50 a second) that the decoder attends to."""
    clock = Clock(files)

    def count(seconds: float) -> ItemTokens:
        clock.cut(seconds, clock.window)
        return ItemTokens(halved(clock.window_frames), 0, (PatchGrid(1, 1, clock.window_frames),))

    return count


def _waveform(files: ModelFiles, kind: str) -> Rule:
    rate = files.audio_fields().integer("sampling_rate", default=SAMPLING_RATE)
    config = Fields(complete(files.config or {}, kind), "", "config.json", files.assumed_of["audio"])
    made = bert_rule(files.audio_fields(), rate) if kind == "wav2vec2-bert" else waveform_rule(config)
    return lambda seconds: made(samples(seconds, rate))


RULES: dict[str, Callable[[ModelFiles], Rule]] = {
    "audioflamingo3": _audioflamingo3,
    "gemma3n": audio_conformer.gemma3n,
    "gemma4": audio_conformer.gemma4,
    "glmasr": _glmasr,
    "granite_speech": audio_conformer.granite_speech,
    "hubert": lambda files: _waveform(files, "hubert"),
    "phi4_multimodal": audio_conformer.phi4_multimodal,
    "musicflamingo": _musicflamingo,
    "qwen_audio": _qwen_audio,
    "qwen2_audio": _qwen2_audio,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen3_asr": _qwen3_asr,
    "qwen3_omni_moe": _qwen3_omni,
    "ultravox": _ultravox,
    "voxtral": _voxtral,
    "wav2vec2": lambda files: _waveform(files, "wav2vec2"),
    "wav2vec2-bert": lambda files: _waveform(files, "wav2vec2-bert"),
    "whisper": _whisper,
}
"""Model type to rule; ``qwen_audio`` is the first generation, whose type is ``qwen`` with a section ``audio``."""


def rule(files: ModelFiles, kind: str) -> Rule:
    """Return the audio rule of a model type of `RULES`; raises `DataError` for a field at fault."""
    return RULES[kind](files)


class _AudioOnly(Unsupported):
    """Counts audio and refuses the rest."""

    def __init__(self, kind: str, count: Rule) -> None:
        self.model = f"a model of type {kind}"
        self._count = count

    def audio(self, seconds: float) -> ItemTokens:
        return self._count(seconds)


def counter(files: ModelFiles) -> _AudioOnly:
    """Return the counter of a model that takes audio alone; raises `DataError` that names a field at fault."""
    named = (files.config or {}).get("model_type")
    kind = named if isinstance(named, str) else _by_processor(files)
    return _AudioOnly(kind, rule(files, "qwen_audio" if kind == "qwen" else kind))


def _by_processor(files: ModelFiles) -> str:
    """Return the model type of the processor's class, for a folder without config.json."""
    from vtprof_analyzer.models.known import PROCESSORS

    parts = (files.processor, files.preprocessor)
    names = [(part or {}).get("processor_class") for part in parts]
    return next(PROCESSORS[name] for name in names if isinstance(name, str) and name in PROCESSORS)
