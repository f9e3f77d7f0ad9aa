"""Which columns of BASE the requests that come carry, of each served model: what one side alone recorded compares nothing.

A phase's time is judged by the load that others' times make, so that a column that is not there makes another phase look
slower. Each request, in order of start, adds a logarithm of likelihood ratios to the evidence that its column has gone
(or is new): at ``_SURE`` the column is left out, and when that much speaks for it again, it is taken in.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.common import PARTS
from vtprof_analyzer.regress.requests import Flags, Integers, Requests
from vtprof_analyzer.regress.thin import of_model

_OF_LOAD: Final = (
    *PARTS, "ttft_ms", "tpot_ms", "output_tokens", "text_tokens", "visual_tokens", "images", "cached_tokens",
)  # fmt: skip
"""Columns without which others' load, or the work itself, is taken for another than it is: nearly all have to carry them."""
_OTHERS: Final = ("unexplained_ms", "kv_bytes", "encoder_hit")
"""Columns without which a request is not judged: no other is the worse for it, and half of the requests are enough."""
FLIGHTS: Final = "in_flight"
"""Of a request without it the cost model knows by itself."""
COLUMNS: Final = (*_OF_LOAD, *_OTHERS, FLIGHTS)
_NOTHING_IF_ZERO: Final = (*PARTS, "images")
"""Zero says as much as nothing: text has no encode, whether that is written or not."""
_MILLI: Final = 1000
_SURE: Final = 20 * _MILLI
"""Thousandths of a logarithm, as whole numbers: how requests are split into polls must change no sum."""
_NEARLY_ALL: Final = 0.9
_MOST: Final = 0.98
"""Share of requests with a column that is taken for all: one without it proves nothing."""
_HARDLY: Final = 0.05
_LEAST: Final = {FLIGHTS: _NEARLY_ALL, "cached_tokens": 1e-9, "encoder_hit": 1e-9}
"""Share of BASE's requests from which on it has a column, where that is another: the cost model takes requests in flight
where nearly all tell of them, and where one tells of hits, those that do not are no part of it."""
_FEWEST: Final = 20
"""BASE's requests of a kind from which on its share is known."""
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
    """Columns that hardly any of BASE's requests carries."""
    evidence: _Numbers
    out: Flags

    @property
    def gone(self) -> frozenset[str]:
        """Return the columns that one side alone carries now."""
        return _named(self.out)

    def walked(self, carried: Flags, kind: Integers, taken: Flags) -> tuple[_Numbers, int | None]:
        """Return the evidence after requests, and the first of them after which a column goes or comes; it changes nothing.

        ``carried`` and ``taken``, requests by columns: whether one carries a column, and whether that tells anything.
        """
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

    def left_out(self, model: str) -> frozenset[str]:
        """Return the columns by which the model's requests cannot be compared now."""
        one = self._models.get(model)
        return frozenset() if one is None else _with_rest(one.gone)

    def told(self, model: str, columns: Collection[str]) -> tuple[str, ...]:
        """Return those of the columns that one side alone carries, in order; not what is left out because of them."""
        gone = self._models[model].gone
        return tuple(name for name in COLUMNS if name in columns and name in gone)

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
        carried, taken, kind = _carried(requests), _taken(requests), _kind(requests)
        places = {
            name: np.flatnonzero(of_model(requests, name))
            for name in dict.fromkeys(requests.models)
            if name in self._models
        }
        end = len(requests)
        for name, rows in places.items():
            _, turned = self._models[name].walked(carried[rows], kind[rows], taken[rows])
            if turned is not None:
                end = min(end, int(rows[turned]) + 1)
        for name, rows in places.items():
            one, before = self._models[name], rows[rows < end]
            evidence, _ = one.walked(carried[before], kind[before], taken[before])
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
            if evidence.shape != one.evidence.shape or out.shape != one.out.shape:
                raise ValueError("columns of another number")
            one.evidence, one.out = evidence, out


def _named(chosen: Flags) -> frozenset[str]:
    """Return the columns that are chosen for requests of either kind."""
    return frozenset(COLUMNS[place] for place in np.flatnonzero(chosen.sum(axis=0)).tolist())


def _with_rest(columns: frozenset[str]) -> frozenset[str]:
    # What is left of TTFT holds what was taken out.
    return columns | {"unexplained_ms"} if columns & {*PARTS, "ttft_ms"} else columns


def _carried(q: Requests) -> Flags:
    """Say which requests carry which columns."""
    carried: Flags = np.isfinite(np.column_stack([getattr(q, name) for name in COLUMNS]))
    return carried


def _taken(q: Requests) -> Flags:
    """Say of which requests it tells anything whether they carry a column: the others need not have it."""
    taken = np.ones((len(q), len(COLUMNS)), np.bool_)
    with np.errstate(invalid="ignore"):
        # What the encoder's cache held does not encode, and of one token there is no time per further token.
        taken[:, COLUMNS.index("encode_ms")] = ~(q.encoder_hit > 0)
        taken[:, COLUMNS.index("tpot_ms")] = ~(q.output_tokens < 2)
    return taken


def _model(runs: Sequence[Requests], name: str) -> _Model:
    tables = [q.select(np.flatnonzero(of_model(q, name))) for q in runs]
    carried = np.concatenate([_carried(q) for q in tables])
    taken = np.concatenate([_taken(q) for q in tables])
    kind = np.concatenate([_kind(q) for q in tables])
    zero = np.concatenate(
        [np.column_stack([getattr(q, column) == 0 for column in COLUMNS]) for q in tables]
    ) & np.array([column in _NOTHING_IF_ZERO for column in COLUMNS])
    shape = (_KINDS, len(COLUMNS))
    known, unknown = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    has, foreign = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for place, column in enumerate(COLUMNS):
        least = _LEAST.get(column, _HARDLY)
        of_all = carried[:, place][taken[:, place]]
        nowhere = not len(of_all) or float(of_all.mean()) < least
        for number in range(_KINDS):
            rows = np.flatnonzero((kind == number) & taken[:, place])
            if len(rows) < _FEWEST:
                continue
            share = float(carried[rows, place].mean())
            has[number, place] = share >= least and not zero[rows, place].all()
            if has[number, place] and column != FLIGHTS:
                known[number, place], unknown[number, place] = _gone(share, nearly_all=column in _OF_LOAD)
            elif nowhere:
                foreign[number, place] = True
                known[number, place], unknown[number, place] = _come()
    return _Model(
        known, unknown, _named(has), _named(foreign), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    )


def _kind(q: Requests) -> Integers:
    media = np.nan_to_num(q.visual_tokens) + np.nan_to_num(q.audio_tokens) > 0
    return media.astype(np.int64)


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
