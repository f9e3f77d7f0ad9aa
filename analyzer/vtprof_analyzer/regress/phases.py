"""What is compared of each phase: its time, which requests have it, and what their workload and load say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vtprof_analyzer.regress.load import Load
from vtprof_analyzer.regress.requests import Flags, Floats, Requests

COMPARED: Final = ("preprocess", "encode", "transfer", "prefill", "decode", "unexplained", "kv")
"""Phases with a cost model, in order; `kv` is bytes per token."""
SERVICE: Final = ("preprocess", "encode", "transfer", "prefill")
"""Parts of TTFT in which a request is worked on."""
_LEAST_MS: Final = 1e-3
"""Less than a microsecond is no work: a phase that was skipped."""
_HIT: Final = 0.5
"""Requests of which the cache held at least half of the media are a class of their own: they hardly encode."""
_FAR: Final = np.log(3.0)
_USUALLY_FAR: Final = np.log(10.0)
"""A tail of slow encodes makes no hits of all others: those take a tenth and less."""
_AS_FAST: Final = np.log(2.0)
_FEWEST_RATES: Final = 40


@dataclass(frozen=True)
class PhaseData:
    """One phase of a table of requests. ``costs`` are what its time is a sum of, each with a factor from 0 on."""

    value: Floats
    """Time [ms]; kv: bytes per token."""
    valid: Flags
    """Which requests have it, and everything that it is judged by."""
    costs: Mapping[str, Floats]
    workload: Mapping[str, Floats]
    """What the request itself asks for."""
    load: Mapping[str, Floats]
    """What others ask for beside it."""


@dataclass(frozen=True)
class Given:
    """What a phase's columns take from all requests together: the same for both sides."""

    offset_ms: float = 0.0
    """Added to unexplained time, so that nothing and a little are alike: a quarter of TTFT without queue. A tenth more
    of the sum is then a 40th of TTFT, however little is unexplained."""
    hit_below: float = -np.inf
    """Encodes of a lower rate are hits of the encoder's cache."""


NOTHING_GIVEN: Final = Given()


def phase_data(phase: str, q: Requests, load: Load, given: Given = NOTHING_GIVEN) -> PhaseData:
    """Return the columns of a phase."""
    visual, text, audio = _known(q.visual_tokens), _known(q.text_tokens), _known(q.audio_tokens)
    prompt = visual + text + audio
    computed = np.maximum(prompt - _known(q.cached_tokens), 1)
    images = np.where(np.isnan(q.images), (visual > 0).astype(float), q.images)
    one = np.ones(len(q))
    tokens_known = np.isfinite(q.text_tokens + q.visual_tokens)
    flights = _known(load.in_flight)
    match phase:
        case "preprocess":
            beside = _known(load.preprocess_beside)
            return _data(
                q.preprocess_ms, tokens_known,
                costs={"1": one, "images": images, "V": visual, "T": text, "V beside": visual * beside},
                workload={"V": visual, "T": text, "images": images, "audio": audio}, load={"beside": beside},
            )  # fmt: skip
        case "encode":
            media = (visual > 0) | (audio > 0)
            hit = (q.encoder_hit >= _HIT) | looks_like_hit(q, given.hit_below)
            decodes, prompts = _known(load.encode_decodes), _known(load.encode_prompts)
            beside = _known(load.encode_tokens)
            per_image = visual**2 / np.maximum(images, 1)
            return _data(
                q.encode_ms, tokens_known & media & ~hit & (_told(q.encoder_hit, visual > 0) | (visual == 0)),
                costs={"1": one, "images": images, "V": visual, "VV": per_image, "audio": audio,
                       "V decodes": visual * decodes, "V prompts": visual * prompts, "beside": beside},
                workload={"V": visual, "images": images, "T": text, "audio": audio, "hit": _known(q.encoder_hit)},
                load={"decodes": decodes, "prompts": prompts, "beside": beside, "flights": flights},
            )  # fmt: skip
        case "transfer":
            return _data(
                q.transfer_ms, tokens_known, costs={"1": one, "V": visual, "prompt": prompt},
                workload={"V": visual, "T": text}, load={"beside": _known(load.prefill_prompts)},
            )  # fmt: skip
        case "prefill":
            decodes, prompts = _known(load.prefill_decodes), _known(load.prefill_prompts)
            encodes, beside, context = (
                _known(one) for one in (load.prefill_encodes, load.prefill_tokens, load.prefill_context)
            )
            return _data(
                q.prefill_ms, tokens_known & _told(q.cached_tokens, tokens_known),
                costs={"1": one, "U": computed, "UU": computed * prompt, "V": visual,
                       "decodes": decodes, "U decodes": computed * decodes, "U prompts": computed * prompts,
                       "prompts": prompts, "encodes": encodes, "beside": beside, "context": context,
                       "flights": flights},
                workload={"U": computed, "V": visual, "prompt": prompt},
                load={"decodes": decodes, "prompts": prompts, "encodes": encodes, "beside": beside, "context": context,
                      "flights": flights},
            )  # fmt: skip
        case "decode":
            beside, context = _known(load.decode_decodes), _known(load.decode_context)
            arriving, encodes = _known(load.decode_prompt_tokens), _known(load.decode_encodes)
            own = prompt + _known(q.output_tokens) / 2
            return _data(
                q.tpot_ms, tokens_known & (q.output_tokens >= 2),
                costs={"1": one, "beside": beside, "context": context, "own": own, "arriving": arriving,
                       "encodes": encodes, "flights": flights},
                workload={"own": own, "output": q.output_tokens, "V": visual},
                load={"beside": beside, "context": context, "arriving": arriving, "encodes": encodes, "flights": flights},
            )  # fmt: skip
        case "unexplained":
            return _data(
                np.maximum(_unexplained(q), 0) + given.offset_ms, tokens_known,
                costs={"1": one, "prompt": prompt, "V": visual},
                workload={"V": visual, "T": text}, load={"beside": _known(load.serving)},
            )  # fmt: skip
    # The last token is answered, not cached.
    held = prompt + q.output_tokens - 1
    per_token = np.divide(q.kv_bytes, held, out=np.full(len(q), np.nan), where=held > 0)
    return _data(
        per_token, tokens_known & (q.kv_bytes > 0), costs={"1": one},
        workload={"held": held, "V": visual}, load={},
    )  # fmt: skip


def is_whole(q: Requests) -> Flags:
    """Say of which requests nothing but the TTFT as a whole was recorded."""
    parts = (q.preprocess_ms, q.queue_ms, q.encode_ms, q.prefill_ms, q.unexplained_ms)
    found: Flags = np.isfinite(q.ttft_ms)
    for part in parts:
        found = found & np.isnan(part)
    return found


def _unexplained(q: Requests) -> Floats:
    return np.where(is_whole(q), q.ttft_ms, q.unexplained_ms)


def _told(column: Floats, of: Flags) -> Flags:
    """Say which requests have a number where most of them have: among those, unknown is not zero."""
    known = np.isfinite(column)
    everyone = np.ones(len(column), np.bool_)
    return known if known[of].any() else everyone


def given_of(phase: str, base: Sequence[Requests], new: Sequence[Requests] = ()) -> Given:
    """Return what a phase's columns take from all requests of both sides; from BASE's alone where there is no other."""
    if phase == "unexplained":
        served = np.concatenate([q.ttft_ms - _known(q.queue_ms) for q in (*base, *new)])
        known = served[np.isfinite(served)]
        return Given(offset_ms=max(float(np.median(known)) / 4, 1.0) if len(known) else 1.0)
    if phase == "encode":
        return Given(hit_below=_hit_limit(base, new))
    return Given()


def looks_like_hit(q: Requests, below: float) -> Flags:
    """Say which requests took what they need from the encoder's cache, where that was not recorded."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.isnan(q.encoder_hit) & (q.visual_tokens > 0) & (_encode_rate(q) < below)


def _hit_limit(base: Sequence[Requests], new: Sequence[Requests]) -> float:
    """Return the rate below which an encode is a hit: BASE's encodes form two groups that lie apart, tenfold as a rule.

    Where they form one, NEW's lower group is hits only if its upper one is as fast as BASE's: else a part of NEW
    became slow, and the rest is what it was.
    """
    of_base, of_new = (_rates_of(side) for side in (base, new))
    limit = _two_groups(of_base)
    if limit is None and len(of_new):
        limit = _two_groups(of_new)
        if limit is not None and not (
            len(of_base) and np.median(of_new[of_new > limit]) < np.median(of_base) + _AS_FAST
        ):
            limit = None
    return -np.inf if limit is None else limit


def _rates_of(side: Sequence[Requests]) -> Floats:
    rates = [
        _encode_rate(q)[np.isnan(q.encoder_hit) & (q.visual_tokens > 0) & np.isfinite(q.encode_ms)]
        for q in side
    ]
    return np.concatenate(rates) if rates else np.zeros(0)


def _encode_rate(q: Requests) -> Floats:
    """Return the logarithm of encode time for a visual token."""
    with np.errstate(invalid="ignore"):
        return np.log(np.maximum(q.encode_ms, _LEAST_MS)) - np.log(q.visual_tokens + 64)


def _two_groups(values: Floats) -> float | None:
    """Return the value between two groups that lie apart, by Otsu's threshold; None where there is but one."""
    n = len(values)
    if n < _FEWEST_RATES:
        return None
    ordered = np.sort(values)
    counts = np.arange(1, n)
    sums = np.cumsum(ordered)[:-1]
    low, high = sums / counts, (ordered.sum() - sums) / (n - counts)
    at = int(np.argmax(counts * (n - counts) * (high - low) ** 2))
    share = counts[at] / n
    if not 0.02 <= share <= 0.98:
        return None
    below, above = ordered[: at + 1], ordered[at + 1 :]
    gap = np.quantile(above, 0.05) - np.quantile(below, 0.95)
    apart = np.median(above) - np.median(below)
    return float((ordered[at] + ordered[at + 1]) / 2) if gap > _FAR and apart > _USUALLY_FAR else None


def _data(
    value: Floats,
    valid: Flags,
    *,
    costs: dict[str, Floats],
    workload: dict[str, Floats],
    load: dict[str, Floats],
) -> PhaseData:
    with np.errstate(invalid="ignore"):
        return PhaseData(value, valid & (value > _LEAST_MS), costs, workload, load)


def _known(column: Floats) -> Floats:
    return np.nan_to_num(column)
