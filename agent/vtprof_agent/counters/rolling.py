"""Gives counter windows to steps by a rolling non-negative fit on their work: the Meter of a running agent."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from vtprof_agent.counters.assessment import FEWEST, MOST_ERROR
from vtprof_agent.counters.gpu_work import GpuWork
from vtprof_agent.counters.idle_power import IdlePower, IdleSeen
from vtprof_agent.counters.kept_windows import KEEP_NS
from vtprof_agent.counters.meter import CLASSES, COUNTERS, CounterWindow, StepCounters, Work
from vtprof_agent.counters.series import Series
from vtprof_agent.counters.share_grid import ShareGrid
from vtprof_agent.counters.work_curve import WorkCurve
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

_SETTLE_NS: Final = 2_000_000_000
"""How often windows are settled: several at once, as each turn costs."""
_SETTLE_STEPS: Final = 4096
"""Sooner when so many steps were added: each is held until its windows are settled."""
_UNTOLD_NS: Final = 10_000_000_000
"""Windows wait no longer to hear that no work was done in them."""
_SILENT_PERIODS: Final = 3
_MOST_WAITING: Final = 100_000
"""Windows taken in but not seen to yet; more only pile up when the loop stands still."""
_MOST_POINTS: Final = 16_000
_MOST_CURVES: Final = 256
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
    """Of encode, prefill and decode in the windows: how much alike they come; None before the first fit, or work."""
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
    why: str | None = None
    """What keeps its values estimated; None where nothing does."""


class RollingMeter:
    """Implements ``meter.Meter``; ``add_window`` and ``expect`` may be called by another thread."""

    def __init__(self, *, window_s: float = 300.0, block_s: float = 5.0, refit_s: float = 10.0) -> None:
        """Fit over the last ``window_s``, in blocks that drop out one by one, every ``refit_s``.

        Sooner at first, and six times more seldom while fits agree and predict what is measured.
        """
        self._lengths = (window_s, block_s, refit_s)
        self._inbox: deque[CounterWindow] = deque(maxlen=_MOST_WAITING)
        self._expected: dict[tuple[str, str], tuple[float, float]] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._curves: dict[tuple[tuple[str, ...], int], WorkCurve] = {}
        self._grids: dict[tuple[str, ...], ShareGrid] = {}
        self._of_gpu: dict[str, GpuWork] = {}
        self._peers: dict[str, list[Series]] = {}
        self._idle: dict[str, IdlePower] = {}
        self._counted: set[str] = set()
        """GPUs of which counters come, or will; the work of all others need not be kept."""
        self._lock = Lock()
        self._now_ns = self._told_ns = 0.0
        self._due_ns = 0.0
        self._added = 0
        """Steps since windows were settled."""

    def expect(self, hw_id: str, keys: Iterable[str], period_s: float) -> None:
        """Say which counters of a GPU will come and how often; without it ``complete`` is always true."""
        with self._lock:
            for key in keys:
                if key in COUNTERS:
                    self._expected[(hw_id, key)] = (period_s * 1e9, self._now_ns)
                    self._counted.add(hw_id)

    def limit_power(self, hw_id: str, limit_mw: float) -> None:
        """Say which power limit a GPU was made for, which bounds its idle power as long as that was not seen."""
        with self._lock:
            self._idle.setdefault(hw_id, IdlePower()).limit(limit_mw)

    def tell_idle(self, hw_id: str, seen: IdleSeen) -> None:
        """Say what an earlier agent saw of a GPU's idle power."""
        with self._lock:
            self._idle.setdefault(hw_id, IdlePower()).tell(seen)

    def idle_seen(self) -> Mapping[str, IdleSeen]:
        """Return by GPU what the next agent is to be told of its idle power."""
        with self._lock:
            return {hw_id: known.seen() for hw_id, known in self._idle.items()}

    def add_window(self, window: CounterWindow) -> None:
        """Take a window; one that is negative, not a number, repeated or out of order is refused and counted."""
        self._inbox.append(window)

    def add(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> None:
        """Take the work of a step that ran on these GPUs; those of one line run one behind the other."""
        curve = self._curves.get((gpus, line)) or self._begin(gpus, line)
        if curve is not None:
            curve.add(work)
            self._added += 1

    def await_step(self, gpus: tuple[str, ...], line: int, awaited: bool) -> None:
        """Tell whether a scheduler has requests, so that a step may be under way that is told once it ended."""
        curve = self._curves.get((gpus, line))
        if curve is not None:
            curve.awaited = awaited

    def advance(self, now_ns: int) -> None:
        """Tell the time (monotonic) up to which every step that ended was added, so that what is due is settled.

        Cheap when nothing is.
        """
        self._told_ns = max(self._told_ns, float(now_ns))
        self._now_ns = max(self._now_ns, self._told_ns)
        self._turn()

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        """Tell whether nothing more is to come for steps that ended by then."""
        grid = self._grids.get(gpus)
        if grid is None or grid.end_ns >= end_ns:
            return True
        self._turn()
        return grid.end_ns >= end_ns or not self._live(gpus)

    def of(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> StepCounters | None:
        """Return the shares of a step that was added, up to half a minute ago; None when no counter covers it.

        A counter of which a class that worked would get nothing is left out: work costs something, the fit cannot tell.
        """
        curve = self._curves.get((gpus, line))
        found = self._grids[gpus].of(work, curve.where(work)) if curve is not None else None
        return None if found is None else _known(found, work)

    def of_run(self, gpus: tuple[str, ...], works: Sequence[Work], line: int = 0) -> StepCounters | None:
        """Return the shares of steps of decoding alone together: what ``of`` would add up to, at a fraction of the cost."""
        curve = self._curves.get((gpus, line))
        if curve is None:
            return None
        found = self._grids[gpus].of_run(works, *curve.spans(works))
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

    def _begin(self, gpus: tuple[str, ...], line: int) -> WorkCurve | None:
        """Begin the curve of a line; None when nothing counts its GPUs, or there are too many."""
        if self._counted.isdisjoint(gpus):
            return None
        with self._lock:
            self._forget()
            if len(self._curves) >= _MOST_CURVES:
                return None
            curve = self._curves[(gpus, line)] = WorkCurve(KEEP_NS, _MOST_POINTS)
            self._grids.setdefault(gpus, ShareGrid())
            for gpu in gpus:
                self._of_gpu.setdefault(gpu, GpuWork()).join(curve)
        return curve

    def _forget(self) -> None:
        """Forget lines that have done no work for as long as it is kept, but the last to work on a set of GPUs."""
        newest: dict[tuple[str, ...], int] = {}
        for (gpus, _), curve in self._curves.items():
            newest[gpus] = max(newest.get(gpus, 0), curve.end_ns)
        for (gpus, line), curve in list(self._curves.items()):
            if curve.end_ns < min(self._heard_ns() - KEEP_NS, newest[gpus]):
                del self._curves[(gpus, line)]
                for gpu in gpus:
                    self._of_gpu[gpu].leave(curve)

    def _heard_ns(self) -> float:
        """Return up to when all steps that ended were added, or are waited for no longer."""
        return max(self._told_ns, self._now_ns - _UNTOLD_NS)

    def _turn(self) -> None:
        """Take the windows in; settle them when that is due."""
        with self._lock:
            while self._inbox:
                window = self._inbox.popleft()
                self._series_of(window).take(window)
                self._now_ns = max(self._now_ns, float(window.end_ns))
            if self._now_ns < self._due_ns and self._added < _SETTLE_STEPS:
                return
            self._due_ns, self._added = self._now_ns + _SETTLE_NS, 0
            self._settle()

    def _series_of(self, window: CounterWindow) -> Series:
        place = (window.hw_id, window.key)
        series = self._series.get(place)
        if series is None:
            self._counted.add(window.hw_id)
            work = self._of_gpu.setdefault(window.hw_id, GpuWork())
            series = self._series[place] = Series(
                window.hw_id, window.key, work, self._peers.setdefault(window.hw_id, []), *self._lengths,
                self._idle.setdefault(window.hw_id, IdlePower()) if window.key == names.GPU_ENERGY_MJ else None,
            )  # fmt: skip
        return series

    def _settle(self) -> None:
        touched: set[tuple[str, ...]] = set()
        told_ns = self._heard_ns()
        self._forget()
        learned = [(series, series.learn(told_ns)) for series in self._series.values()]
        for series, windows in learned:
            if windows is None:
                continue
            settled = series.settle(windows)
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
    sound = seen is not None and all(seen.sound)
    why = None
    if series.shared:
        why = "several servers use this GPU"
    elif series.co_tenant:
        why = "others may use this GPU"
    elif fit is None or seen is None or fit.amounts < FEWEST:
        why = "no fit yet"
    elif seen.condition_number is None:
        why = "no work of ours yet"
    elif not sound:
        unseen = "its idle power was not seen" if fit.idle_error > MOST_ERROR else None
        why = seen.doubt or unseen or "too much alike to be told apart"
    return CounterState(
        series.hw_id, series.key, names.QUALITY_ESTIMATED if why else names.QUALITY_ATTRIBUTED,
        seen.condition_number if seen else None, series.windows, series.refused,
        series.co_tenant, nobodys, round(series.lag_ns), series.failures, why,
    )  # fmt: skip
