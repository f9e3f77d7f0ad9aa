"""Splits the GPU time of a mixed step by a rolling non-negative fit on its work."""

import numpy as np

from vtprof_agent.counters.meter import Work
from vtprof_agent.counters.rolling_fit import Fit, RollingFit
from vtprof_agent.counters.work_curve import CLASS_COLUMNS, Row, row_of

_BATCH = 256
_FEWEST_STEPS = 30
_MOST_ERROR = 0.15
"""Relative standard error of a class beyond which the fit does not tell it from the others."""


class StepTimeFit:
    """What encode, prefill and decode cost in GPU time, as the last minutes show."""

    def __init__(self, *, window_s: float = 120.0, block_s: float = 2.0, refit_s: float = 30.0) -> None:
        """Fit over the last ``window_s`` of steps, every ``refit_s``, sooner at first."""
        self._rolling = RollingFit(window_s, block_s, always_idle=False)
        self._refit_ns = refit_s * 1e9
        self._rows: list[Row] = []
        self._times: list[int] = []
        self._fit: Fit | None = None
        self._costs: tuple[float, ...] = ()
        self._due_ns = 0.0

    def add(self, work: Work, gpu_ns: int) -> None:
        """Take a step and its GPU time, ns, the encoder's included."""
        if gpu_ns <= 0:
            return
        self._rows.append(row_of(work))
        self._times.append(gpu_ns)
        if len(self._rows) >= _BATCH or work.end_ns >= self._due_ns:
            self._fold(work.end_ns)

    def parts(self, work: Work) -> tuple[float, float, float] | None:
        """Return the fractions of encode, prefill and decode, which sum to 1; None while the fit is not sound.

        A step of one class is that class's without any fit.
        """
        row = row_of(work)
        present = [sum(row[columns]) > 0 for columns in CLASS_COLUMNS]
        if present.count(True) == 1:
            return (float(present[0]), float(present[1]), float(present[2]))
        fit = self._fit
        if fit is None or not any(present) or fit.amounts < _FEWEST_STEPS:
            return None
        if any(error > _MOST_ERROR for error, there in zip(fit.class_error, present, strict=True) if there):
            return None
        costs = [cost * amount for cost, amount in zip(self._costs, row, strict=True)]
        encode, prefill, decode = (sum(costs[columns]) for columns in CLASS_COLUMNS)
        whole = encode + prefill + decode
        return (encode / whole, prefill / whole, decode / whole) if whole > 0 else None

    def _fold(self, now_ns: int) -> None:
        """Add the steps since the last time to the Gram matrices: not one by one, as that is slow."""
        times = np.array(self._times, dtype=float)
        self._rolling.add(now_ns, np.array(self._rows), np.zeros(len(times)), times)
        self._rows, self._times = [], []
        if now_ns >= self._due_ns:
            self._fit = self._rolling.fit()
            self._costs = tuple(self._fit.costs.tolist()) if self._fit else ()
            few = self._rolling.amounts() < 10 * _FEWEST_STEPS
            self._due_ns = now_ns + self._refit_ns / (10 if few else 1)
