"""Series are fitted again every ten seconds, each minute while nothing changes, soon when it does; one finds the delay."""

from collections import Counter
from itertools import pairwise

import pytest
from meter_day import DRAM, MS, START_NS, make_day, run, windows_of

from vtprof_agent.counters import series
from vtprof_agent.counters.lag import Lag, find_lag
from vtprof_agent.counters.meter import COUNTERS, CounterWindow, Work
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


def test_steady_amounts_are_fitted_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 100 s to 400 s: five times, one more or less; before that no fit is used for longer than it was made from."""
    fitted = fits_over(monkeypatch, [50.0] * 4000)
    assert 4 <= sum(place >= 1000 for place in fitted) <= 6
    assert all(later <= 2 * place + 50 for place, later in pairwise(fitted[:20]))


def test_amounts_that_the_fit_does_not_predict_are_fitted_within_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 200 s each step begins to take a tenth more: the next fit comes within 10 s and a turn, and more follow."""
    fitted = fits_over(monkeypatch, [50.0] * 2000 + [55.0] * 500)
    later = [place for place in fitted if place >= 2000]
    assert later[0] <= 2000 + 105
    assert len(later) >= 4


@pytest.mark.parametrize("exact", [True, False])
def test_one_counter_searches_on_for_the_delay_of_all_that_are_read_in_one_sample(
    monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    """Each searches six times within 40 s; two minutes later, when the delay has moved from 40 ms to 50, one finds it.

    Counters whose edges are not exact have clocks of their own: each goes on searching.
    """
    searches: Counter[bool] = Counter()
    late = False

    def watched(*given: object, **named: object) -> Lag:
        searches[late] += 1
        return find_lag(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(series, "find_lag", watched)
    day, meter = make_day(12, 165), RollingMeter()
    moved_ns = START_NS + 40_000 * MS
    windows = [
        CounterWindow(one.hw_id, one.key, one.start_ns + more, one.end_ns + more, one.amount, exact)
        for place, key in enumerate(COUNTERS[:3])
        for one in windows_of(day, place, key=key, late_ms=40)
        for more in [10 * MS if one.start_ns >= moved_ns else 0]
    ]
    advance = meter.advance

    def watch_time(now_ns: int) -> None:
        nonlocal late
        late = now_ns > moved_ns
        advance(now_ns)

    monkeypatch.setattr(meter, "advance", watch_time)
    run(meter, day, windows)
    assert searches[False] >= 18
    assert searches[True] == (1 if exact else 3)
    assert [state.lag_ns / MS for state in meter.state()] == pytest.approx([50] * 3, abs=5)
