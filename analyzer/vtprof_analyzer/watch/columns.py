"""Which columns of BASE the requests that come carry, of each served model: what one side alone recorded compares nothing.

A phase's time is judged by the load that others' times make, so that a column that is not there makes another phase look
slower. Each request, in order of start, adds a logarithm of likelihood ratios to the evidence that its column has gone
(or is new): at ``_SURE`` the column is left out, and when that much speaks for it again, it is taken in. So it is with a
column that is all zero on one side, or in another unit.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.common import PARTS, told_to_be_there
from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests, joined
from vtprof_analyzer.regress.thin import of_model
from vtprof_analyzer.watch.events import Unlike

_OF_LOAD: Final = (
    *PARTS, "ttft_ms", "tpot_ms", "output_tokens", "text_tokens", "visual_tokens", "images", "cached_tokens",
)  # fmt: skip
"""Columns without which others' load, or the work itself, is taken for another than it is: nearly all have to carry them."""
_OTHERS: Final = ("unexplained_ms", "kv_bytes", "encoder_hit")
"""Columns without which a request is not judged: no other is the worse for it, and half of the requests are enough."""
FLIGHTS: Final = "in_flight"
"""Of a request without it the cost model knows by itself."""
COLUMNS: Final = (*_OF_LOAD, *_OTHERS, FLIGHTS)
_NEVER_ZERO: Final = ("preprocess_ms", "encode_ms", "prefill_ms", "ttft_ms", "tpot_ms", "kv_bytes")
"""Columns that are zero where nobody recorded them; a transfer may well take no time."""
_ALWAYS_THERE: Final = ("queue_ms", "text_tokens", "visual_tokens", "images", "output_tokens")
"""The same, but of a queue and of work only where BASE hardly ever has none, and the other columns tell of some."""
_WITH_UNIT: Final = ("preprocess_ms", "encode_ms", "transfer_ms", "prefill_ms", "tpot_ms", "kv_bytes")
"""Columns of which a thousandfold is another unit, and no engine; a queue, and TTFT with it, grows without bound."""
_TESTS: Final = (
    *((name, "absent") for name in COLUMNS),
    *((name, "zero") for name in _NEVER_ZERO),
    *((name, "units") for name in _WITH_UNIT),
    *((name, "zero") for name in _ALWAYS_THERE),
    ("queue_ms", "units"),
)
"""What evidence is gathered of: a column is left out as long as one of its tests says so. New ones come last: a state
may be of before."""
_SO_FAR: Final = (len(COLUMNS), len(COLUMNS) + len(_NEVER_ZERO) + len(_WITH_UNIT), len(_TESTS))
"""How many tests a state may have."""
_KINDS_OF_TEST: Final = ("absent", "zero", "units")
_WORK_OF: Final[Mapping[str, frozenset[str]]] = {
    "encode_ms": frozenset({"visual_tokens"}), "prefill_ms": frozenset({"visual_tokens", "text_tokens"}),
}  # fmt: skip
_FACTORS: Final = tuple(10.0**power for power in (-9, -6, -3, 3, 6, 9))
_WIDER: Final = 1.5
"""So far beyond nine of ten of BASE's values, in the other unit, one may lie: engines and requests differ as well."""
_APART: Final = 3.0
"""What is so many times beyond these is none of them."""
_OF_FIVE: Final = 0.8
"""Share of BASE's requests above zero from which on a column is never zero: in a cache that nobody recorded some are."""
_OF_A_HUNDRED: Final = 0.98
"""The same of `_ALWAYS_THERE`: of a queue that is empty now and then nobody knows."""
_ROUNDED: Final = 0.2
"""So much of what a queue in seconds leaves unexplained may be rounding."""
_NEVER: Final = 0.005
"""Share of requests above zero, where nobody records a column."""
_NOTHING_IF_ZERO: Final = {*PARTS, *_NEVER_ZERO, "images"}
"""Zero says as much as nothing: text has no encode, whether that is written or not."""
_MILLI: Final = 1000
_SURE: Final = 20 * _MILLI
"""Thousandths of a logarithm, as whole numbers: how requests are split into polls must change no sum."""
_NEARLY_ALL: Final = 0.9
_MOST: Final = 0.98
"""Share of requests with a column that is taken for all: one without it proves nothing."""
_HARDLY: Final = 0.05
_ONE: Final = 1e-9
_LEAST: Final = {FLIGHTS: _NEARLY_ALL, "cached_tokens": _ONE, "encoder_hit": _ONE}
"""Share of BASE's requests from which on it has a column, where that is another: the cost model takes requests in flight
where nearly all tell of them, and where one tells of hits, those that do not are no part of it."""
_FEWEST: Final = 20
"""BASE's requests of a kind from which on its share is known."""
_WORK: Final = ("text_tokens", "visual_tokens")
_KINDS: Final = 2
"""Requests without media and with: preprocessing, encoding and hits are often recorded of the latter alone."""

_Numbers = NDArray[np.int64]


@dataclass
class _Model:
    """One served model: what a request of each kind (row) adds for each column, and what they added up to."""

    known: _Numbers
    unknown: _Numbers
    base_has: frozenset[str]
    foreign: frozenset[str]
    """Columns that hardly any of BASE's requests carries, or of which all are zero."""
    lacks: tuple[str, ...]
    """Columns of work that none of BASE's requests tells."""
    come: frozenset[tuple[str, str]]
    """Tests that say that BASE has not a column."""
    usual: Floats
    """Within what most of BASE's values lie: by kind, column with a unit, and end; NaN where that tells no unit. The last
    row is what is left of TTFT."""
    evidence: _Numbers
    out: Flags

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Return the columns by which requests cannot be compared now, and why."""
        return [_TESTS[place] for place in np.flatnonzero(self.out.any(axis=0)).tolist()]

    def walked(self, requests: Requests) -> tuple[_Numbers, int | None]:
        """Return the evidence after requests, and the first after which a column goes or comes; it changes nothing."""
        kind = _kind(requests)
        carried, taken = _carried(requests, self.usual[kind]), _taken(requests)
        evidence, first = self.evidence.copy(), None
        for number in range(_KINDS):
            rows = np.flatnonzero(kind == number)
            if not len(rows):
                continue
            steps = np.where(carried[rows], self.known[number], self.unknown[number]) * taken[rows]
            path = self.evidence[number] + np.cumsum(steps, axis=0)
            low = path - np.minimum(np.minimum.accumulate(path), 0)
            high = path - np.maximum(np.maximum.accumulate(path) - _SURE, 0)
            path = np.where(self.out[number], high, low)
            turned = np.flatnonzero((np.where(self.out[number], path <= 0, path >= _SURE)).any(axis=1))
            if len(turned):
                first = min(int(rows[turned[0]]), first if first is not None else len(kind))
            evidence[number] = path[-1]
        return evidence, first


class Columns:
    """What is left out of each model's requests, and of BASE where it has that: request by request."""

    def __init__(self, runs: Sequence[Requests]) -> None:
        """Watch for the columns of BASE's runs; without any nothing is ever left out."""
        names = sorted({q.models[place] for q in runs for place in np.unique(q.model).tolist()})
        self._models = {name: _model(runs, name) for name in names}

    def knows(self, model: str) -> bool:
        """Say whether one of BASE's runs has requests of the model."""
        return model in self._models

    def lacks(self, model: str) -> tuple[str, ...]:
        """Return the columns of work that BASE has not of a model, so that no phase of it can be told."""
        one = self._models.get(model)
        return () if one is None else one.lacks

    def left_out(self, model: str) -> frozenset[str]:
        """Return the columns by which the model's requests cannot be compared now."""
        one = self._models.get(model)
        return frozenset() if one is None else _with_rest(frozenset(name for name, _ in one.failed))

    def unlike(self, model: str, columns: Collection[str]) -> Unlike:
        """Return why those of the columns cannot be compared that cannot; not what is left out because of them."""
        one = self._models[model]
        absent, zero, units = (
            [name for name, test in one.failed if test == which and name in columns]
            for which in _KINDS_OF_TEST
        )
        return Unlike(
            base_alone=tuple(name for name in absent if name in one.base_has),
            requests_alone=tuple(name for name in absent if name not in one.base_has),
            zero=tuple(name for name in zero if (name, "zero") not in one.come),
            zero_in_base=tuple(name for name in zero if (name, "zero") in one.come),
            # Without work a time by work is another number.
            units=tuple(name for name in units if not _WORK_OF.get(name, frozenset()).intersection(zero)),
        )

    def of_base(self, model: str, columns: Collection[str]) -> frozenset[str]:
        """Return those of the columns that BASE has."""
        one = self._models.get(model)
        return frozenset() if one is None else one.base_has & frozenset(columns)

    def foreign(self, model: str) -> frozenset[str]:
        """Return the columns that BASE has not: no load may come from them, be they in one request."""
        one = self._models.get(model)
        return frozenset() if one is None else one.foreign

    def take(self, requests: Requests) -> int:
        """Take requests in order of start, up to the first after which something goes or comes; return how many."""
        places = {
            name: np.flatnonzero(of_model(requests, name))
            for name in dict.fromkeys(requests.models)
            if name in self._models
        }
        walked = {name: self._models[name].walked(requests.select(rows)) for name, rows in places.items()}
        ends = [int(places[name][turned]) + 1 for name, (_, turned) in walked.items() if turned is not None]
        end = min(ends, default=len(requests))
        for name, rows in places.items():
            one = self._models[name]
            evidence, _ = one.walked(requests.select(rows[rows < end])) if ends else walked[name]
            one.evidence = np.clip(evidence, 0, _SURE)
            one.out = np.where(one.out, one.evidence > 0, one.evidence >= _SURE)
        return end

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            name: {"evidence": one.evidence.tolist(), "out": one.out.astype(int).tolist()}
            for name, one in self._models.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none."""
        for name, one in self._models.items():
            evidence = np.array(state[name]["evidence"], dtype=np.int64)
            out = np.array(state[name]["out"], dtype=np.bool_)
            if evidence.shape != out.shape or evidence.shape not in [(_KINDS, count) for count in _SO_FAR]:
                raise ValueError("columns of another number")
            rest = ((0, 0), (0, len(_TESTS) - evidence.shape[1]))
            one.evidence, one.out = np.pad(evidence, rest), np.pad(out, rest)


def _named(chosen: Flags) -> frozenset[str]:
    """Return the columns that are chosen for requests of either kind."""
    return frozenset(_TESTS[place][0] for place in np.flatnonzero(chosen.any(axis=0)).tolist())


def _with_rest(columns: frozenset[str]) -> frozenset[str]:
    # What is left of TTFT holds what was taken out.
    return columns | {"unexplained_ms"} if columns & {*PARTS, "ttft_ms"} else columns


def _table(q: Requests, names: Sequence[str]) -> Floats:
    return np.column_stack([getattr(q, name) for name in names])


def _carried(q: Requests, usual: Floats) -> Flags:
    """Say by each test which requests carry its column; ``usual``: of each request's kind."""
    ratios = _per_work(q)[:, :, np.newaxis] / np.array(_FACTORS)
    with np.errstate(invalid="ignore"):
        odd = ((ratios >= usual[:, :-1, :1]) & (ratios <= usual[:, :-1, 1:])).any(axis=2)
        there = _table(q, _ALWAYS_THERE) > 0
        seconds = _queue_in_seconds(q, usual[:, -1])[:, np.newaxis]
        return np.hstack([np.isfinite(_table(q, COLUMNS)), _table(q, _NEVER_ZERO) > 0, ~odd, there, ~seconds])


def _queue_in_seconds(q: Requests, usual: Floats) -> Flags:
    """Say of which requests more is left of TTFT than BASE ever has, but not if the queue is a thousandfold.

    A queue by itself tells no unit: it is what the load makes it.
    """
    low, high = usual.T
    more_ms = 999 * q.queue_ms
    least, most = (q.unexplained_ms - (1 + part) * more_ms for part in (_ROUNDED, -_ROUNDED))
    odd: Flags = (q.unexplained_ms > _WIDER * high) & (least <= _WIDER * high) & (most >= low / _WIDER)
    return odd


def _taken(q: Requests) -> Flags:
    """Say by each test of which requests it tells anything whether they carry a column: the others need not have it."""
    with np.errstate(invalid="ignore"):
        taken = np.hstack(
            [
                np.ones((len(q), len(COLUMNS)), np.bool_),
                _table(q, _NEVER_ZERO) >= 0,
                _table(q, _WITH_UNIT) > 0,
                _table(q, _ALWAYS_THERE) >= 0,
                _table(q, ("queue_ms",)) > 0,
            ]
        )
        told = told_to_be_there(q)
        # What the encoder's cache held does not encode, and of one token there is no time per further token; but with no
        # output at all there would be no first token either.
        few = (q.output_tokens < 2) & ~(told["output_tokens"] & (q.output_tokens == 0))
        free = {"encode_ms": q.encoder_hit > 0, "tpot_ms": few}
    for place, (name, test) in enumerate(_TESTS):
        if name in free:
            taken[:, place] &= ~free[name]
        if test == "zero" and name in told:
            taken[:, place] &= told[name]
    return taken


def _model(runs: Sequence[Requests], name: str) -> _Model:
    base = joined(q.select(np.flatnonzero(of_model(q, name))) for q in runs)
    kind, taken = _kind(base), _taken(base)
    usual = np.stack([_usual(base.select(kind == number)) for number in range(_KINDS)])
    carried = _carried(base, usual[kind])
    zero = (_table(base, COLUMNS) == 0) & np.array([column in _NOTHING_IF_ZERO for column in COLUMNS])
    shape = (_KINDS, len(_TESTS))
    known, unknown = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    has, foreign = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    come = set[tuple[str, str]]()
    for place, (column, test) in enumerate(_TESTS):
        least = _LEAST.get(column, _HARDLY) if test == "absent" else _ONE
        of_all = carried[:, place][taken[:, place]]
        nowhere = test != "units" and (not len(of_all) or float(of_all.mean()) < least)
        for number in range(_KINDS):
            rows = np.flatnonzero((kind == number) & taken[:, place])
            if len(rows) < _FEWEST:
                continue
            share = float(carried[rows, place].mean())
            ratios = None
            if test == "absent":
                has[number, place] = share >= least and not zero[rows, place].all()
                if has[number, place] and column != FLIGHTS:
                    ratios = _gone(share, nearly_all=column in _OF_LOAD)
            elif test == "zero" and share >= (_OF_A_HUNDRED if column in _ALWAYS_THERE else _OF_FIVE):
                ratios = _ratios(_OF_FIVE, _NEVER)
            elif (column, test) == ("queue_ms", "units"):
                if np.isfinite(usual[number, -1]).all():
                    ratios = _ratios(_NEARLY_ALL, 0.5)
            elif test == "units" and np.isfinite(usual[number, _WITH_UNIT.index(column)]).all():
                ratios = _ratios(_NEARLY_ALL, 1 - _NEARLY_ALL)
            if ratios is None and nowhere and not has[number, place]:
                foreign[number, place] = True
                come.add((column, test))
                ratios = _come()
            known[number, place], unknown[number, place] = ratios or (0, 0)
    evidence, out = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    lacks = tuple(column for column in _WORK if not np.isfinite(getattr(base, column)).any())
    foreign_names = _named(foreign) - _named(has)
    return _Model(known, unknown, _named(has), foreign_names, lacks, frozenset(come), usual, evidence, out)


def _per_work(q: Requests) -> Floats:
    """Return the columns with a unit by what they grow with, so that small requests and large ones are alike."""
    media = np.nan_to_num(q.visual_tokens) + np.nan_to_num(q.audio_tokens)
    work = {"encode_ms": media, "prefill_ms": np.nan_to_num(q.text_tokens) + media}
    columns = [getattr(q, name) / np.maximum(work.get(name, 1.0), 1.0) for name in _WITH_UNIT]
    return np.column_stack(columns)


def _usual(q: Requests) -> Floats:
    """Return within what nearly all of `_per_work` lie, by column and end; NaN where that may be of two units."""
    ends = np.full((len(_WITH_UNIT) + 1, 2), np.nan)
    first = _TESTS.index((_WITH_UNIT[0], "units"))
    tells, values_of = _taken(q)[:, first : first + len(_WITH_UNIT)], _per_work(q)
    left = q.unexplained_ms[np.isfinite(q.unexplained_ms)]
    if len(left) >= _FEWEST:
        ends[-1] = np.quantile(left, [_HARDLY, 1 - _HARDLY])
    for place in range(len(_WITH_UNIT)):
        values = values_of[tells[:, place], place]
        if len(values) >= _FEWEST:
            low, high = np.quantile(values, [_HARDLY, 1 - _HARDLY]).tolist()
            if _APART * high < 1000 * low / _WIDER**2:
                ends[place] = low / _WIDER, high * _WIDER
    return ends


def _kind(q: Requests) -> Integers:
    # Items too: their tokens may not have been recorded.
    media = np.nan_to_num(q.visual_tokens) + np.nan_to_num(q.audio_tokens) + _items(q) > 0
    return media.astype(np.int64)


def _items(q: Requests) -> Floats:
    """Return what is above zero of requests with media: items, or where these are none the time of their encodes."""
    return np.nan_to_num(np.where(q.images > 0, q.images, q.encode_ms))


def _gone(share: float, *, nearly_all: bool) -> tuple[int, int]:
    """Return what a request with a column, and one without, speaks for that it has gone, where BASE has it of a share.

    Where nearly all have to carry it, one in twelve without it speaks neither way; else about half.
    """
    share = min(share, _MOST)
    if nearly_all and share >= _NEARLY_ALL:
        return _ratios(share, 0.8 * share)
    return _ratios(0.8 * share, 0.3 * share)


def _come() -> tuple[int, int]:
    """Return the same of a column that BASE has not, for that it has come."""
    return _ratios(_HARDLY, 0.5)


def _ratios(before: float, after: float) -> tuple[int, int]:
    """Return the logarithm of how much likelier a request with a column, and one without, is after than before."""
    with_it, without = math.log(after / before), math.log((1 - after) / (1 - before))
    return round(_MILLI * with_it), round(_MILLI * without)
