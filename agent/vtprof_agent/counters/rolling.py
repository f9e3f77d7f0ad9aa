"""Gives counter windows to steps by a rolling non-negative fit on their work: the Meter of a running agent."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from vtprof_agent.counters.meter import CLASSES, COUNTERS, CounterWindow, StepCounters, Work
from vtprof_agent.counters.series import KEEP_NS, Series
from vtprof_agent.counters.share_grid import ShareGrid
from vtprof_agent.counters.work_curve import WorkCurve
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

_SETTLE_NS: Final = 750_000_000
"""How often windows are settled: several at once, as each turn costs."""
_SILENT_PERIODS: Final = 3
_MOST_WAITING: Final = 100_000
"""Windows taken in but not seen to yet; more only pile up when the loop stands still."""
_MOST_POINTS: Final = 16_000
_MOST_SETS: Final = 256
_NOTHING_RATIO: Final = 1e-9
_NOTHING_MW: Final = 1000.0
"""A GPU that works takes more than a watt for it."""
_TOTALLED: Final = (*CLASSES, names.UNATTRIBUTED)


@dataclass(frozen=True, slots=True)
class CounterState:
    """How well a counter of a GPU is attributed at present."""

    hw_id: str
    key: str
    quality: str
    """The best label that its values get now where classes mix; estimated until there is a sound fit."""
    condition_number: float | None
    """Of the scaled columns of work in use; None before the first fit."""
    windows: int
    """Windows in the fit."""
    refused: int
    """Windows refused: negative, not a number, out of order, repeated."""
    co_tenant: bool
    """What the work does not explain comes and goes over seconds: others may use the GPU."""
    unattributed_ratio: float | None
    """Share of the amount since the start that was given to no work of ours."""
    lag_ns: int
    """How much later than the work its windows are, as estimated, and corrected."""
    failures: int = 0
    """Fits that could not be computed; the one before went on to hold."""


class RollingMeter:
    """Implements ``meter.Meter``; ``add_window`` and ``expect`` may be called by another thread."""

    def __init__(self, *, window_s: float = 300.0, block_s: float = 5.0, refit_s: float = 10.0) -> None:
        """Fit over the last ``window_s``, in blocks that drop out one by one, every ``refit_s``.

        Sooner at first, and three times more seldom while fits agree and predict what is measured.
        """
        self._lengths = (window_s, block_s, refit_s)
        self._inbox: deque[CounterWindow] = deque(maxlen=_MOST_WAITING)
        self._expected: dict[tuple[str, str], tuple[float, float]] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._curves: dict[tuple[str, ...], WorkCurve] = {}
        self._grids: dict[tuple[str, ...], ShareGrid] = {}
        self._of_gpu: dict[str, list[WorkCurve]] = {}
        self._peers: dict[str, list[Series]] = {}
        self._counted: set[str] = set()
        """GPUs of which counters come, or will; the work of all others need not be kept."""
        self._lock = Lock()
        self._now_ns = 0.0
        self._due_ns = 0.0

    def expect(self, hw_id: str, keys: Iterable[str], period_s: float) -> None:
        """Say which counters of a GPU will come and how often; without it ``complete`` is always true."""
        with self._lock:
            for key in keys:
                if key in COUNTERS:
                    self._expected[(hw_id, key)] = (period_s * 1e9, self._now_ns)
                    self._counted.add(hw_id)

    def add_window(self, window: CounterWindow) -> None:
        """Take a window; one that is negative, not a number, repeated or out of order is refused and counted."""
        self._inbox.append(window)

    def add(self, gpus: tuple[str, ...], work: Work) -> None:
        """Take the work of a step that ran on these GPUs."""
        curve = self._curves.get(gpus)
        if curve is None:
            if self._counted.isdisjoint(gpus) or len(self._curves) >= _MOST_SETS:
                return
            with self._lock:
                curve = self._curves[gpus] = WorkCurve(KEEP_NS, _MOST_POINTS)
                self._grids[gpus] = ShareGrid()
                for gpu in gpus:
                    self._of_gpu.setdefault(gpu, []).append(curve)
        curve.add(work)

    def advance(self, now_ns: int) -> None:
        """Tell the time (monotonic), so that windows and fits that are due are settled; cheap when none is."""
        self._now_ns = max(self._now_ns, float(now_ns))
        self._turn()

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        """Tell whether nothing more is to come for steps that ended by then."""
        grid = self._grids.get(gpus)
        if grid is None or grid.end_ns >= end_ns:
            return True
        self._turn()
        return grid.end_ns >= end_ns or not self._live(gpus)

    def of(self, gpus: tuple[str, ...], work: Work) -> StepCounters | None:
        """Return the shares of a step that was added, up to half a minute ago; None when no counter covers it.

        A counter of which a class that worked would get nothing is left out: work costs something, the fit cannot tell.
        """
        grid = self._grids.get(gpus)
        found = grid.of(work, self._curves[gpus].where(work)) if grid is not None else None
        return None if found is None else _known(found, work)

    def of_run(self, gpus: tuple[str, ...], works: Sequence[Work]) -> StepCounters | None:
        """Return the shares of steps of decoding alone together: what ``of`` would add up to, at a fraction of the cost."""
        grid = self._grids.get(gpus)
        if grid is None:
            return None
        curve = self._curves[gpus]
        found = grid.of_run(works, [curve.where(work) for work in works])
        if found is None:
            return None
        ran_ns = sum(work.end_ns - work.start_ns for work in works)
        return _known(found, works[0]._replace(end_ns=works[0].start_ns + ran_ns))

    def totals(self) -> Mapping[tuple[str, str, str], float]:
        """Return the running amounts by (hw_id, counter key, phase or ``names.UNATTRIBUTED``)."""
        with self._lock:
            return {
                (*place, phase): amount
                for place, series in self._series.items()
                for phase, amount in zip(_TOTALLED, series.totals, strict=True)
            }

    def state(self) -> tuple[CounterState, ...]:
        """Return how well each counter of each GPU is attributed."""
        with self._lock:
            return tuple(_state(series) for series in self._series.values())

    def _turn(self) -> None:
        """Take the windows in; settle each ``_SETTLE_NS``."""
        with self._lock:
            while self._inbox:
                window = self._inbox.popleft()
                self._series_of(window).take(window)
                self._now_ns = max(self._now_ns, float(window.end_ns))
            if self._now_ns < self._due_ns:
                return
            self._due_ns = self._now_ns + _SETTLE_NS
            self._settle()

    def _series_of(self, window: CounterWindow) -> Series:
        place = (window.hw_id, window.key)
        series = self._series.get(place)
        if series is None:
            self._counted.add(window.hw_id)
            curves = self._of_gpu.setdefault(window.hw_id, [])
            series = self._series[place] = Series(
                window.hw_id, window.key, curves, self._peers.setdefault(window.hw_id, []), *self._lengths
            )
        return series

    def _settle(self) -> None:
        touched: set[tuple[str, ...]] = set()
        for series in self._series.values():
            settled = series.settle(self._now_ns)
            if settled is None:
                continue
            for gpus, grid in self._grids.items():
                if series.hw_id in gpus:
                    grid.take(series, settled)
                    touched.add(gpus)
        for gpus in touched:
            mine = [series for series in self._series.values() if series.hw_id in gpus]
            self._grids[gpus].merge([series for series in mine if not self._silent(series)])
            self._grids[gpus].judge(mine)

    def _live(self, gpus: tuple[str, ...]) -> bool:
        """Tell whether a counter that was announced for one of these GPUs is still coming, or about to."""
        for (hw_id, key), (period_ns, since_ns) in self._expected.items():
            if hw_id in gpus:
                series = self._series.get((hw_id, key))
                last_ns = series.end_ns if series is not None else since_ns
                if self._now_ns - last_ns <= _SILENT_PERIODS * period_ns + _SETTLE_NS:
                    return True
        return False

    def _silent(self, series: Series) -> bool:
        period_ns, _ = self._expected.get((series.hw_id, series.key), (float(series.period_ns), 0.0))
        return self._now_ns - series.end_ns > _SILENT_PERIODS * period_ns + _SETTLE_NS


def _known(found: StepCounters, work: Work) -> StepCounters | None:
    """Leave out the counters of which a class that worked gets nothing; None when none is left."""
    worked = (
        work.patches > 0 or work.encode_ns > 0,
        work.prefill_tokens > 0,
        work.decode_requests > 0,
    )
    alone = sum(worked) == 1
    time_ns = work.end_ns - work.start_ns
    unknown = set()
    for key, shares in found.shares.items():
        whole = shares[0].amount + shares[1].amount + shares[2].amount
        nothing = time_ns * (_NOTHING_MW / NS_PER_S if key == names.GPU_ENERGY_MJ else _NOTHING_RATIO)
        least = _NOTHING_RATIO * whole  # decode beside a long prefill may well take less than a watt
        if whole <= nothing or (
            not alone
            and any(share.amount <= least for share, at_work in zip(shares, worked, strict=True) if at_work)
        ):
            unknown.add(key)
    if not unknown:
        return found
    left = {key: shares for key, shares in found.shares.items() if key not in unknown}
    return found._replace(shares=left) if left else None


def _state(series: Series) -> CounterState:
    fit, seen = series.fit, series.assessment
    nobodys = series.totals[-1] / sum(series.totals) if any(series.totals) else None
    sound = seen is not None and all(seen.sound) and not series.co_tenant
    return CounterState(
        series.hw_id, series.key, names.QUALITY_ATTRIBUTED if sound else names.QUALITY_ESTIMATED,
        fit.condition_number if fit else None, series.windows, series.refused,
        series.co_tenant, nobodys, round(series.lag_ns), series.failures,
    )  # fmt: skip
