"""What counts as attainable: the best of bursts that take turns, on a clock that the test's work moves."""

import json
from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest

from vtprof_agent import calibrate_host
from vtprof_agent.calibrate_host import Burst, best_rates
from vtprof_schemas import names


class _Machine:
    """A clock that bursts move by the times they are told to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now

    def burst(self, name: str, amount: float, times: Iterator[float]) -> Burst:
        def work() -> None:
            self.ran.append(name)
            self.now += next(times)

        return Burst(amount, work)


def test_one_quiet_moment_among_busy_ones_says_what_is_attainable() -> None:
    machine = _Machine()
    busy = chain([0.25, 0.25, 0.0625, 0.25], repeat(0.25))
    (rate,) = best_rates([machine.burst("gemm", 8.0, busy)], 1.0, machine.clock)
    assert rate == 8.0 / 0.0625


def test_bursts_share_the_time_alike_though_one_is_long() -> None:
    machine = _Machine()
    long, short = machine.burst("long", 1.0, repeat(0.5)), machine.burst("short", 1.0, repeat(0.125))
    assert best_rates([long, short], 2.0, machine.clock) == [2.0, 8.0]
    assert machine.ran.count("short") >= 4 * (machine.ran.count("long") - 1)


def test_each_burst_runs_once_though_the_first_takes_all_the_time() -> None:
    machine = _Machine()
    slow, other = machine.burst("slow", 6.0, repeat(3.0)), machine.burst("other", 1.0, repeat(0.5))
    assert best_rates([slow, other], 1.5, machine.clock) == [2.0, 2.0]
    assert machine.ran == ["slow", "other"]


def test_the_measurement_says_how_it_was_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rates(
        bursts: list[Burst], _budget_s: float, _clock: Callable[[], float] | None = None
    ) -> list[float]:
        # 2 n^3 FLOP; bytes read and written.
        assert [burst.amount for burst in bursts] == [1024, 8192, 1 << 15, 1 << 15]
        for burst in bursts:
            burst.work()
        return [float(place) for place in range(len(bursts))]

    monkeypatch.setattr(calibrate_host, "COPY_ARRAY_BYTES", 1 << 16)
    monkeypatch.setattr(calibrate_host, "COPY_BURST_BYTES", 1 << 14)
    monkeypatch.setattr(calibrate_host, "GEMM_SIZES", (8, 16))
    monkeypatch.setattr(calibrate_host, "best_rates", rates)
    monkeypatch.setattr(calibrate_host.os, "sched_getaffinity", lambda _: {0, 1})
    calibrate_host.main()
    attributes = json.loads(capsys.readouterr().out)
    # Bursts 0 and 1 are GEMMs, 2 and 3 copies on one thread and on two.
    assert (attributes[names.DEVICE_PEAK_FLOPS], attributes[names.DEVICE_BANDWIDTH]) == (1.0, 3.0)
    assert "best burst in 1.5 s: float32 GEMM 8/16" in attributes[names.DEVICE_PEAK_SOURCE]
