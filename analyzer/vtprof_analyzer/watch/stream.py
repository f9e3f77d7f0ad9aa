"""One phase of one served model as it comes: requests fill blocks, blocks are judged, and what changed is told."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.base_model import BLOCK_REQUESTS, Noise
from vtprof_analyzer.regress.requests import Flags, Floats, Integers
from vtprof_analyzer.watch.blocks import MOST_BEYOND, Tail, shape_of
from vtprof_analyzer.watch.events import Alarm, Event, Kind, Level, Over
from vtprof_analyzer.watch.two_way import ShiftWatch, TailWatch, Thresholds, Turn

_LARGEST_EFFECT: Final = 30.0
"""Of logarithms."""
_Z_95: Final = 1.96
_SHOWN_RANKS: Final = (0.9, 0.75)
"""Requests of a block that may show a shift, by the rank of their residual: the largest show chance."""
_SHOWN_FAR: Final = 2
_EVIDENCE: Final = 5
_KEPT_BEGINS: Final = 1000
_KEPT_SHOWN: Final = 128
"""Blocks that are remembered."""


class Block(NamedTuple):
    """Requests in a row that are judged together."""

    judged: bool
    """False: most had nothing alike in BASE."""
    begin_ns: int
    """Start of its first request."""
    end_ns: int
    """Start of its last one."""
    ids: Sequence[str]
    values: Floats
    expected: Floats
    """Logarithm of the time that was expected of each."""


class _Shown(NamedTuple):
    """Requests of a block that may show an effect, by residual and id."""

    typical: list[tuple[float, str]]
    far: list[tuple[float, str]]
    """Beyond the limit of the tail."""


class Stream:
    """Fills the blocks of one phase of one model, and judges them."""

    def __init__(
        self, phase: str, model: str, noise: Noise, spread: float, tail: Tail | None, thresholds: Thresholds
    ) -> None:
        """Judge by a phase's noise in BASE; ``spread`` is its requests' standard deviation, ``tail`` may be unknown."""
        self._phase, self._model = phase, model
        self._spread, self._tail = spread, tail
        self._shift = ShiftWatch(phase, noise, thresholds)
        self._far = TailWatch(tail, thresholds) if tail else None
        self._ids: list[str] = []
        self._starts: list[int] = []
        self._values: list[float] = []
        self._expected: list[float] = []
        self._unlike = 0
        self._begins: list[int] = []
        """Of blocks that were judged, the last one last; of fewer of them, what may show an effect."""
        self._shown: list[_Shown] = []

    def fill(
        self, ids: NDArray[Any], start_ns: Integers, values: Floats, expected: Floats
    ) -> Iterator[Block]:
        """Take requests that have the phase, in order of start, and yield the blocks that become full.

        A value that is NaN has nothing alike in BASE. A block is full with 60 others; where there are as many NaN
        before that, it is given up.
        """
        known = np.isfinite(values)
        begin = 0
        while begin < len(values):
            wanted, unwanted = BLOCK_REQUESTS - len(self._values), BLOCK_REQUESTS - self._unlike
            alike = np.cumsum(known[begin : begin + wanted + unwanted])
            unlike = np.arange(1, len(alike) + 1) - alike
            full = np.flatnonzero((alike >= wanted) | (unlike >= unwanted))
            end = begin + (int(full[0]) + 1 if len(full) else len(alike))
            part, chosen = slice(begin, end), known[begin:end]
            self._ids += [str(one) for one in ids[part][chosen].tolist()]
            self._starts += start_ns[part][chosen].tolist()
            self._values += values[part][chosen].tolist()
            self._expected += expected[part][chosen].tolist()
            self._unlike += int(np.count_nonzero(~chosen))
            begin = end
            if len(full):
                last_ns = int(start_ns[end - 1])
                judged = len(self._values) == BLOCK_REQUESTS
                first_ns = self._starts[0] if self._starts else last_ns
                values_of, expected_of = np.array(self._values), np.array(self._expected)
                yield Block(judged, first_ns, last_ns, self._ids, values_of, expected_of)
                self._ids, self._starts, self._values, self._expected, self._unlike = [], [], [], [], 0

    def judge(self, block: Block) -> list[Event]:
        """Judge a block that is to be judged; return what changed with it."""
        shape = shape_of(block.values, self._spread)
        excess = block.values - shape.median
        beyond = self._tail.beyond(excess, block.expected) if self._tail else np.zeros(len(excess), np.bool_)
        self._keep(block, beyond)
        events: list[Event] = []
        if turn := self._shift.add(shape.mean):
            events.append(self._told("shift", turn, block))
        if self._far is None:
            return events
        if self._shift.effect is not None and self._far.effect is None:
            # What a shift put beyond the limit is no tail.
            self._far.start_again()
        elif turn := self._far.add(min(int(np.count_nonzero(beyond)), MOST_BEYOND), len(block.values)):
            events.append(self._told("tail", turn, block))
        return events

    def levels(self) -> Iterator[Level]:
        """Yield how each test stands."""
        watches: list[tuple[Kind, ShiftWatch | TailWatch]] = [("shift", self._shift)]
        if self._far:
            watches.append(("tail", self._far))
        for kind, watch in watches:
            ratio = None if watch.effect is None else self._ratio(kind, watch.effect)
            yield Level(self._phase, kind, self._model, *watch.level, ratio)

    def _keep(self, block: Block, beyond: Flags) -> None:
        order = np.argsort(block.values, kind="stable")
        typical = [order[int(rank * (len(order) - 1))] for rank in _SHOWN_RANKS]
        far = [at for at in order[: -_SHOWN_FAR - 1 : -1] if beyond[at]]
        shown = [[(float(block.values[at]), block.ids[at]) for at in chosen] for chosen in (typical, far)]
        self._begins = [*self._begins, block.begin_ns][-_KEPT_BEGINS:]
        self._shown = [*self._shown, _Shown(*shown)][-_KEPT_SHOWN:]

    def _told(self, kind: Kind, turn: Turn, block: Block) -> Event:
        blocks = turn.found.blocks
        began_ns = self._begins[-min(blocks, len(self._begins))]
        requests = BLOCK_REQUESTS * blocks
        if not turn.raised:
            return Over(self._phase, kind, self._model, block.end_ns, began_ns, requests)
        lists = [one.typical if kind == "shift" else one.far for one in self._shown[-blocks:]]
        evidence = sorted((one for listed in lists for one in listed), reverse=True)[:_EVIDENCE]
        effect, sd = turn.found.effect, turn.found.effect_sd
        low, middle, high = (self._ratio(kind, effect + z * sd) for z in (-_Z_95, 0.0, _Z_95))
        statistic, threshold = (self._far if kind == "tail" and self._far else self._shift).level
        return Alarm(
            self._phase, kind, self._model, began_ns, block.end_ns, middle, low, high, requests,
            tuple(name for _, name in evidence), statistic, threshold,
        )  # fmt: skip

    def _ratio(self, kind: Kind, effect: float) -> float:
        if kind == "tail" and self._tail:
            return max(effect, 0.0) / self._tail.share - 1
        return math.expm1(min(effect, _LARGEST_EFFECT))

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain JSON."""
        return {
            "shift": self._shift.state(),
            "tail": self._far.state() if self._far else None,
            "ids": list(self._ids),
            "starts": list(self._starts),
            "values": list(self._values),
            "expected": list(self._expected),
            "unlike": self._unlike,
            "begins": list(self._begins),
            "shown": [[one.typical, one.far] for one in self._shown],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the stream was that `state` was taken of."""
        self._shift.restore(state["shift"])
        if self._far and state["tail"] is not None:
            self._far.restore(state["tail"])
        self._ids = [str(one) for one in state["ids"]]
        self._starts = [int(one) for one in state["starts"]]
        self._values = [float(one) for one in state["values"]]
        self._expected = [float(one) for one in state["expected"]]
        if (
            not len(self._ids)
            == len(self._starts)
            == len(self._values)
            == len(self._expected)
            < BLOCK_REQUESTS
        ):
            raise ValueError("a block of another size")
        self._unlike = int(state["unlike"])
        self._begins = [int(one) for one in state["begins"]][-_KEPT_BEGINS:]
        self._shown = [
            _Shown(*([(float(value), str(name)) for value, name in listed] for listed in both))
            for both in state["shown"]
        ][-_KEPT_SHOWN:]
