"""Series are fitted again every ten seconds, three times more seldom while nothing changes, and soon when it does."""

import pytest
from meter_day import DRAM, MS, START_NS

from vtprof_agent.counters.meter import CounterWindow, Work
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.rolling_fit import Fit, RollingFit


def fits_over(monkeypatch: pytest.MonkeyPatch, amounts: list[float]) -> list[int]:
    """Feed windows of 100 ms, each with two steps of the same work; return in which windows was fitted."""
    fitted: list[int] = []
    fit = RollingFit.fit

    def watched(self: RollingFit, *given: object) -> Fit | None:
        fitted.append(place)
        return fit(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(RollingFit, "fit", watched)
    meter = RollingMeter()
    for place, amount in enumerate(amounts):
        begin = START_NS + place * 100 * MS
        for at in (begin, begin + 50 * MS):
            meter.add(("GPU-0",), Work(at, at + 50 * MS, decode_requests=4, decode_context_tokens=4000))
        meter.add_window(CounterWindow("GPU-0", DRAM, begin, begin + 100 * MS, amount))
        meter.advance(begin + 100 * MS)
    return fitted


def test_steady_amounts_are_fitted_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 100 s to 400 s: ten times, one more or less."""
    fitted = fits_over(monkeypatch, [50.0] * 4000)
    assert 9 <= sum(place >= 1000 for place in fitted) <= 11


def test_amounts_that_the_fit_does_not_predict_are_fitted_within_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 200 s each step begins to take a tenth more: the next fit comes within 10 s and a turn, and more follow."""
    fitted = fits_over(monkeypatch, [50.0] * 2000 + [55.0] * 500)
    later = [place for place in fitted if place >= 2000]
    assert later[0] <= 2000 + 105
    assert len(later) >= 4
