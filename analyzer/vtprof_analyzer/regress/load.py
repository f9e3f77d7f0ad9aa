"""What other requests did to a request: how many of them, and of how many tokens, were at work beside it.

A request table tells no steps. But phases follow each other, so that every request's intervals are known, and with
them what the engine had to do at any time. Means over an interval come from integrals, as (C(end) - C(begin)) / length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests

_NEARLY_ALL: Final = 0.9
_MS: Final = 1e-6
"""Milliseconds of a nanosecond."""


@dataclass(frozen=True)
class Load:
    """Means over one of a request's own intervals, itself left out; NaN where it has no such interval."""

    preprocess_beside: Floats
    """Requests in preprocessing during its preprocessing."""
    serving: Floats
    """Requests being served when it began to wait."""
    encode_decodes: Floats
    """Requests decoding during its encoding."""
    encode_prompts: Floats
    """Requests encoding or prefilling during its encoding."""
    encode_tokens: Floats
    """Visual tokens of those that encode, prompt tokens of those that prefill."""
    prefill_decodes: Floats
    prefill_context: Floats
    """Tokens of requests decoding during its prefill, prompt and half of the output."""
    prefill_prompts: Floats
    """Requests prefilling during its prefill."""
    prefill_tokens: Floats
    """Their prompt tokens."""
    prefill_encodes: Floats
    """Visual tokens of requests encoding during its prefill."""
    decode_decodes: Floats
    """Requests decoding during its decode."""
    decode_context: Floats
    """Their tokens, prompt and half of the output."""
    decode_prompt_tokens: Floats
    """Prompt tokens that others prefilled during its decode [tokens/s]."""
    decode_encodes: Floats
    """Visual tokens of requests encoding during its decode."""
    in_flight: Floats
    """Requests being served beside it, as it was recorded: where the table holds but a part of them, it knows more."""

    def select(self, chosen: Flags | Integers | slice) -> Self:
        """Return the loads of some of the requests."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def with_known_flights(loads: Sequence[Load]) -> list[Load]:
    """Return the loads with requests in flight where they are known of nearly all requests of each, and else of none."""
    if all(not len(one.in_flight) or np.isfinite(one.in_flight).mean() > _NEARLY_ALL for one in loads):
        return list(loads)
    return [no_flights(one) for one in loads]


def no_flights(load: Load) -> Load:
    """Return the load without the requests in flight that were recorded."""
    return replace(load, in_flight=np.zeros(len(load.in_flight)))


def load_of(q: Requests, rows: Integers | None = None) -> Load:
    """Return the load on each request from all others of the table; on those of ``rows`` alone where they are given."""
    begin = (q.start_ns - (q.start_ns[0] if len(q) else 0)) * _MS
    # Where no TTFT was recorded, its parts tell when the first token came.
    parts = (
        _known(q.preprocess_ms)
        + _known(q.queue_ms)
        + _known(q.encode_ms)
        + _known(q.transfer_ms)
        + q.prefill_ms
    )
    first = begin + np.where(np.isfinite(q.ttft_ms), q.ttft_ms, parts)
    prefill = (first - q.prefill_ms, first)
    encode = (prefill[0] - q.encode_ms, prefill[0])
    decode = (first, first + q.tpot_ms * (q.output_tokens - 1))
    preprocess = (begin, begin + q.preprocess_ms)
    wait = (preprocess[1], preprocess[1] + q.queue_ms)
    served = (wait[1], np.where(np.isfinite(decode[1]), decode[1], first))
    visual = _known(q.visual_tokens)
    prompt = _known(q.text_tokens) + visual + _known(q.audio_tokens)
    computed = np.maximum(prompt - _known(q.cached_tokens), 1)
    context = prompt + _known(q.output_tokens) / 2
    one = q.weight
    at = slice(None) if rows is None else rows

    def mean(span: tuple[Floats, Floats], weight: Floats, *during: tuple[Floats, Floats]) -> list[Floats]:
        busy = _Busy(*span, weight)
        return [busy.mean(begin[at], end[at]) for begin, end in during]

    (preprocessing,) = mean(preprocess, one, preprocess)
    encode_encoding, prefill_encodes, decode_encodes = mean(encode, one * visual, encode, prefill, decode)
    (encoding,) = mean(encode, one, encode)
    encode_prefills, prefill_prefills = mean(prefill, one, encode, prefill)
    encode_prefilled, prefill_prefilled = mean(prefill, one * computed, encode, prefill)
    (decode_prompt,) = mean(prefill, one * computed / np.maximum(prefill[1] - prefill[0], 1e-3), decode)
    encode_decodes, prefill_decodes, decode_decodes = mean(decode, one, encode, prefill, decode)
    prefill_context, decode_context = mean(decode, one * context, prefill, decode)
    since, waits = wait[0][at], q.queue_ms[at] > 0
    return Load(
        preprocess_beside=_others(preprocessing, one[at]),
        serving=_others(_Busy(*served, one).at(since), np.where(waits, 0, one[at])),
        encode_decodes=encode_decodes,
        encode_prompts=_others(encoding, one[at]) + encode_prefills,
        encode_tokens=_others(encode_encoding, (one * visual)[at]) + encode_prefilled,
        prefill_decodes=prefill_decodes,
        prefill_context=prefill_context,
        prefill_prompts=_others(prefill_prefills, one[at]),
        prefill_tokens=_others(prefill_prefilled, (one * computed)[at]),
        prefill_encodes=prefill_encodes,
        decode_decodes=_others(decode_decodes, one[at]),
        decode_context=_others(decode_context, (one * context)[at]),
        decode_prompt_tokens=decode_prompt * 1e3,
        decode_encodes=decode_encodes,
        in_flight=q.in_flight[at],
    )


class _Busy:
    """How much is at work at a time: the sum of the weights of the intervals that hold it."""

    def __init__(self, begin: Floats, end: Floats, weight: Floats) -> None:
        known = (end > begin) & np.isfinite(weight)
        edges = np.concatenate([begin[known], end[known]])
        order = np.argsort(edges, kind="stable")
        level = np.cumsum(np.concatenate([weight[known], -weight[known]])[order])
        # What is left of a difference of sums is nothing at work: a gap of years must not multiply it.
        level[level < 1e-9 * level.max(initial=0.0)] = 0.0
        self._edges = edges[order]
        self._level = np.concatenate([[0.0], level])
        # Behind edge i - 1: at place 0 nothing has begun.
        self._integral = np.concatenate([[0.0, 0.0], np.cumsum(level[:-1] * np.diff(self._edges))])[
            : len(level) + 1
        ]
        self._last = np.concatenate([[0.0], self._edges])

    def at(self, time: Floats) -> Floats:
        """Return it at each time; an interval that begins then counts."""
        return np.where(np.isnan(time), np.nan, self._level[self._before(time)])

    def mean(self, begin: Floats, end: Floats) -> Floats:
        """Return its mean over each interval; NaN where one is empty or not known."""
        whole = self._until(end) - self._until(begin)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(end > begin, np.maximum(whole, 0) / (end - begin), np.nan)

    def _until(self, time: Floats) -> Floats:
        """Return the integral up to each time."""
        before = self._before(time)
        found: Floats = self._integral[before] + self._level[before] * (time - self._last[before])
        return found

    def _before(self, time: Floats) -> Integers:
        return np.searchsorted(self._edges, time, side="right")


def _others(level: Floats, own: Floats | float) -> Floats:
    return np.maximum(level - own, 0)


def _known(column: Floats) -> Floats:
    return np.nan_to_num(column)
