"""BASE as a yardstick for requests that lack some of its columns: fitted anew without them, when it is first asked for."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from vtprof_analyzer.regress.base_model import CostModel
from vtprof_analyzer.regress.common import without
from vtprof_analyzer.regress.requests import Requests
from vtprof_analyzer.watch.blocks import Tail, tails_of
from vtprof_analyzer.watch.stream import Stream
from vtprof_analyzer.watch.two_way import Thresholds

LEFT_OUT: Final = ("queue",)
"""Phases that are not judged: near saturation a queue is what the last minutes were, which no request tells of.
Objectives show it."""
_NEEDED: Final[Mapping[str, frozenset[str]]] = {
    "encode": frozenset({"prefill_ms"}),
    "decode": frozenset({"prefill_ms"}),
    # It would be the TTFT as a whole, with the queue in it.
    "unexplained": frozenset({"unexplained_ms"}),
}
"""Columns without which a phase is not judged: what load does to it would be a slower engine."""
_NEEDED_OR_FLIGHTS: Final[Mapping[str, frozenset[str]]] = {
    "encode": frozenset({"tpot_ms", "output_tokens"}),
    "prefill": frozenset({"tpot_ms", "output_tokens"}),
}
"""The same, but of requests that tell how many were in flight beside them."""


class Yardstick(NamedTuple):
    """A cost model of BASE and its tails, by phase and model."""

    model: CostModel
    tails: Mapping[tuple[str, str], Tail]

    def phases(self, model: str, left_out: Collection[str], *, flights: bool) -> list[str]:
        """Return the phases of a model that can be judged without some columns; ``flights``: BASE has those."""
        return [
            phase
            for phase in self.model.phases
            if phase not in LEFT_OUT
            and self.model.noise_of(phase, model) is not None
            and not _NEEDED.get(phase, frozenset()).intersection(left_out)
            and (flights or not by_flights(phase, left_out))
        ]

    def stream(self, model: str, phase: str, thresholds: Thresholds) -> Stream:
        """Return what judges a phase's requests. Raises KeyError where BASE has not the phase."""
        noise = self.model.noise_of(phase, model)
        if noise is None:
            raise KeyError(phase)
        spread, part = self.model.spread(phase, model), self.model.part(phase, model)
        return Stream(phase, model, noise, spread, self.tails.get((phase, model)), thresholds, part)


def by_flights(phase: str, left_out: Collection[str]) -> bool:
    """Say whether load on a phase is known by the requests in flight alone, where some columns are left out."""
    return bool(_NEEDED_OR_FLIGHTS.get(phase, frozenset()).intersection(left_out))


def load_columns(phase: str, *, flights: bool) -> frozenset[str]:
    """Return the columns that tell the load which a phase meets; ``flights``: requests in flight are known."""
    return _NEEDED.get(phase, frozenset()) | (
        frozenset() if flights else _NEEDED_OR_FLIGHTS.get(phase, frozenset())
    )


class Yardsticks:
    """BASE without any columns that are asked for."""

    def __init__(self, model: CostModel, runs: Sequence[Requests]) -> None:
        """Begin with the model of all columns, and the runs it was fitted to."""
        self._runs = runs
        self._made = {frozenset[str](): Yardstick(model, tails_of(model, runs))}

    def without(self, columns: frozenset[str]) -> Yardstick:
        """Return BASE as if nobody had recorded these columns."""
        if columns not in self._made:
            runs = [without(run, columns) for run in self._runs]
            model = CostModel.fit(runs)
            self._made[columns] = Yardstick(model, tails_of(model, runs))
        return self._made[columns]
