"""One phase of one served model as it comes: requests fill blocks, blocks are judged, and what changed is told."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.base_model import BLOCK_REQUESTS, Noise
from vtprof_analyzer.regress.requests import Flags, Floats, Integers
from vtprof_analyzer.watch.blocks import MOST_BEYOND, Tail, shape_of
from vtprof_analyzer.watch.events import Alarm, Event, Kind, Level, Over, Standing
from vtprof_analyzer.watch.past import Past, Since, Totals
from vtprof_analyzer.watch.two_way import ShiftWatch, TailWatch, Thresholds, Turn

_LARGEST_EFFECT: Final = 30.0
"""Of logarithms."""
_Z_95: Final = 1.96
_MANY: Final = 0.2
"""Share of the last requests unlike BASE or its load that must surely be slower for those of them to count."""
_SOME: Final = 0.01
"""Share of requests under more load than BASE met from which on an effect is told as "at least"."""
_TWICE: Final = math.log(2)
"""So is one of that size: a slow engine makes load of its own, which is accounted for like any other."""
_SHOWN_RANKS: Final = (0.9, 0.75)
"""Requests of a block that may show a shift, by the rank of their residual: the largest show chance."""
_SHOWN_FAR: Final = 2
_EVIDENCE: Final = 5
_KEPT_PAST: Final = 1000
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
    at_least: int
    """Requests of it under more load than BASE met."""


class _Shown(NamedTuple):
    """Requests of a block that may show an effect, by residual and id."""

    typical: list[tuple[float, str]]
    far: list[tuple[float, str]]
    """Beyond the limit of the tail."""


class Stream:
    """Fills the blocks of one phase of one model, and judges them."""

    def __init__(
        self,
        phase: str,
        model: str,
        noise: Noise,
        spread: float,
        tail: Tail | None,
        thresholds: Thresholds,
        part: float = 1.0,
    ) -> None:
        """Judge by a phase's noise in BASE; ``spread`` is its requests' standard deviation, ``tail`` may be unknown.

        ``part`` of what is held against BASE is the phase's own time.
        """
        self._phase, self._model, self._part = phase, model, part
        self._spread, self._tail = spread, tail
        self._shift = ShiftWatch(phase, noise, thresholds)
        self._far = TailWatch(tail, thresholds) if tail else None
        self._ids: list[str] = []
        self._starts: list[int] = []
        self._values: list[float] = []
        self._expected: list[float] = []
        self._unlike = 0
        self._at_least = 0
        self._votes: list[bool] = []
        """Of the last requests unlike BASE or its load, which were surely slower."""
        self._past: list[Past] = []
        """Blocks that were judged, the last one last; of fewer of them, what may show an effect."""
        self._shown: list[_Shown] = []
        self._since: dict[Kind, Since] = {}
        """What was seen since each alarm that is not over began."""
        self._alarms: dict[Kind, Alarm] = {}
        """As they were told."""
        self._all = Totals()
        self._given_up = 0

    def fill(
        self, ids: NDArray[Any], start_ns: Integers, values: Floats, expected: Floats, at_least: Flags
    ) -> Iterator[Block]:
        """Take requests that have the phase, in order of start, and yield the blocks that become full.

        A value that is NaN has nothing alike in BASE. A block is full with 60 others; where there are as many NaN
        before that, it is given up.
        """
        values = self._voted(values, at_least)
        known = np.isfinite(values)
        at_least = at_least & known
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
            self._at_least += int(np.count_nonzero(at_least[part]))
            begin = end
            if len(full):
                last_ns = int(start_ns[end - 1])
                judged = len(self._values) == BLOCK_REQUESTS
                first_ns = self._starts[0] if self._starts else last_ns
                values_of, expected_of = np.array(self._values), np.array(self._expected)
                self._given_up += not judged
                yield Block(judged, first_ns, last_ns, self._ids, values_of, expected_of, self._at_least)
                self._ids, self._starts, self._values, self._expected = [], [], [], []
                self._unlike = self._at_least = 0

    def _voted(self, values: Floats, at_least: Flags) -> Floats:
        """Return values without those under more load than BASE met, unless many such requests are surely slower: in a
        crowd a few always are."""
        voted = values.copy()
        for at in np.flatnonzero(at_least | ~np.isfinite(values)).tolist():
            self._votes = [*self._votes, bool(at_least[at])][-BLOCK_REQUESTS:]
            if sum(self._votes) < _MANY * BLOCK_REQUESTS:
                voted[at] = np.nan
        return voted

    def judge(self, block: Block) -> list[Event]:
        """Judge a block that is to be judged; return what changed with it."""
        shape = shape_of(block.values, self._spread)
        excess = block.values - shape.median
        beyond = self._tail.beyond(excess, block.expected) if self._tail else np.zeros(len(excess), np.bool_)
        self._keep(block, shape.mean, beyond)
        events: list[Event] = []
        # Under more load than BASE met only what is surely slower counts, and by how much less than it is nobody knows.
        crowded = self._shift.effect is not None and 2 * block.at_least > len(block.values)
        if not crowded and (turn := self._shift.add(shape.mean)):
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
            ratio = self._newest(kind).effect_ratio if kind in self._alarms else None
            yield Level(self._phase, kind, self._model, *watch.level, ratio)

    def firing(self) -> Iterator[Alarm]:
        """Yield the alarms that are not over, with all that was seen since they began."""
        for kind in self._alarms:
            yield self._newest(kind)

    def standing(self) -> Standing:
        """Return what is known of the phase so far."""
        blocks = self._all.blocks
        if not blocks:
            return Standing(self._phase, self._model, 0, self._given_up, None, None, None)
        spread = self._shift.spread
        sd = math.sqrt(self._all.variance(spread.long_run_sd) / blocks + spread.offset_sd**2)
        low, middle, high = (self._ratio("shift", self._all.mean + z * sd) for z in (-_Z_95, 0.0, _Z_95))
        return Standing(self._phase, self._model, blocks, self._given_up, middle, low, high)

    def _keep(self, block: Block, mean: float, beyond: Flags) -> None:
        order = np.argsort(block.values, kind="stable")
        typical = [order[int(rank * (len(order) - 1))] for rank in _SHOWN_RANKS]
        far = [at for at in order[: -_SHOWN_FAR - 1 : -1] if beyond[at]]
        shown = [[(float(block.values[at]), block.ids[at]) for at in chosen] for chosen in (typical, far)]
        past = Past(block.begin_ns, mean, int(np.count_nonzero(beyond)), block.at_least)
        self._past = [*self._past, past][-_KEPT_PAST:]
        for since in (self._all, *self._since.values()):
            since.add(past)
        self._shown = [*self._shown, _Shown(*shown)][-_KEPT_SHOWN:]

    def _told(self, kind: Kind, turn: Turn, block: Block) -> Event:
        blocks = turn.found.blocks
        began_ns = self._past[-min(blocks, len(self._past))].begin_ns
        requests = BLOCK_REQUESTS * blocks
        if not turn.raised:
            # What came since its end says nothing of it.
            for past in self._past[-blocks:]:
                self._since[kind].leave_out(past)
            last = self._newest(kind)
            del self._since[kind], self._alarms[kind]
            return Over(self._phase, kind, self._model, block.end_ns, began_ns, requests, last)
        lists = [one.typical if kind == "shift" else one.far for one in self._shown[-blocks:]]
        evidence = sorted((one for listed in lists for one in listed), reverse=True)[:_EVIDENCE]
        statistic, threshold = (self._far if kind == "tail" and self._far else self._shift).level
        self._since[kind] = Since.of(
            self._past[-blocks:], *(self._shift.before if kind == "shift" else (0.0, 0.0))
        )
        self._alarms[kind] = Alarm(
            self._phase, kind, self._model, began_ns, block.end_ns, 0.0, 0.0, 0.0, requests,
            tuple(name for _, name in evidence), statistic, threshold,
        )  # fmt: skip
        return self._newest(kind)

    def _newest(self, kind: Kind) -> Alarm:
        """Return an alarm with what all blocks since it began come to."""
        since, tail = self._since[kind], self._tail if kind == "tail" else None
        requests = BLOCK_REQUESTS * since.blocks
        share = (since.far + 0.5) / (requests + 1)
        if tail:
            effect = share
            sd = math.sqrt(tail.dispersion * share * (1 - share) / max(requests, 1))
        else:
            effect = since.mean - since.before
            variance = since.variance(self._shift.spread.long_run_sd) / max(since.blocks, 1)
            sd = math.sqrt(variance + since.before_variance)
        low, middle, high = (self._ratio(kind, effect + z * sd) for z in (-_Z_95, 0.0, _Z_95))
        return replace(
            self._alarms[kind],
            effect_ratio=middle,
            ci_low=low,
            ci_high=high,
            requests=requests,
            at_least=not tail and (since.at_least > _SOME * requests or effect >= _TWICE),
            share_ratio=share if tail else None,
            base_share_ratio=tail.share if tail else None,
        )

    def _ratio(self, kind: Kind, effect: float) -> float:
        if kind == "tail" and self._tail:
            return max(effect, 0.0) / self._tail.share - 1
        return max(math.expm1(min(effect, _LARGEST_EFFECT)) / self._part, -1.0)

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
            "at_least": self._at_least,
            "votes": [int(one) for one in self._votes],
            "given_up": self._given_up,
            "past": [list(one) for one in self._past],
            "all": self._all.state(),
            "since": {kind: one.state() for kind, one in self._since.items()},
            "alarms": {
                kind: {**asdict(one), "evidence": list(one.evidence)} for kind, one in self._alarms.items()
            },
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
        self._at_least, self._given_up = int(state["at_least"]), int(state["given_up"])
        self._votes = [bool(one) for one in state["votes"]][-BLOCK_REQUESTS:]
        self._past = [Past.of(one) for one in state["past"]][-_KEPT_PAST:]
        self._all = Totals.restored(state["all"])
        self._since, self._alarms = {}, {}
        firing: list[tuple[Kind, ShiftWatch | TailWatch | None]] = [
            ("shift", self._shift),
            ("tail", self._far),
        ]
        for kind, watch in firing:
            if watch and watch.effect is not None:
                self._since[kind] = Since.restored(state["since"][kind])
                given = state["alarms"][kind]
                self._alarms[kind] = Alarm(
                    **{**given, "evidence": tuple(str(one) for one in given["evidence"])}
                )
        self._shown = [
            _Shown(*([(float(value), str(name)) for value, name in listed] for listed in both))
            for both in state["shown"]
        ][-_KEPT_SHOWN:]
