"""Detail is shed before a limit is exceeded, said once with its reason, and taken up again without flapping."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.budget import RISE_S, Budget, Verdict, release_memory

S = 1_000_000_000
MB = 1_000_000
SHARE_LEFT = {3: 1.0, 2: 1 / 3, 1: 1 / 10}
"""Of the simulated cost, by level."""


class Plant:
    """An agent whose costs follow its level; it keeps the mean that the limit is about by arithmetic of its own."""

    def __init__(self, budget: Budget, period_s: float = 1.0) -> None:
        self.budget, self.period_s = budget, period_s
        self.now_s = self.cpu_s = 0.0
        self.probe_ns = 0.0
        self.mean = self.highest = 0.0
        self.said: list[str] = []
        self.levels: list[int] = []
        self.drops = 0
        self._verdict(budget.look(0, 3.0, 57 * MB, {"r": 0}))
        self.cpu_s = 3.0

    def run(
        self,
        seconds: float,
        cpu: float = 0.0,
        rss: Callable[[float], float] = lambda _: 57 * MB,
        probe: float = 0.0,
    ) -> None:
        """Let time pass under costs that are those of the full detail."""
        for _ in range(round(seconds / self.period_s)):
            left = SHARE_LEFT[self.budget.level]
            self.now_s += self.period_s
            self.cpu_s += cpu * left * self.period_s
            self.probe_ns += probe * left * self.period_s * S
            self.mean += (cpu * left - self.mean) * (1 - math.exp(-self.period_s / 60.0))
            self.highest = max(self.highest, self.mean)
            now_ns = round(self.now_s * S)
            self._verdict(self.budget.look(now_ns, self.cpu_s, rss(self.now_s), {"r": round(self.probe_ns)}))

    def _verdict(self, verdict: Verdict) -> None:
        self.levels.append(verdict.level)
        self.drops += verdict.drop_caches
        if verdict.said is not None:
            self.said.append(verdict.said)


def test_cpu_time_is_short_before_detail_is_shed_for_it_and_no_more_once_it_is_low_again() -> None:
    plant = Plant(Budget(0.1, 0, 0))
    plant.run(300, cpu=0.06)
    assert not plant.budget.strained
    plant.run(300, cpu=0.095)
    assert plant.budget.strained and plant.budget.level == 3
    plant.run(6, cpu=0.01)  # the long average is at 0.0869, the short one at 0.0356
    assert not plant.budget.strained


def test_a_limit_of_none_is_never_short() -> None:
    plant = Plant(Budget(0, 0, 0))
    plant.run(100, cpu=8)
    assert not plant.budget.strained


def test_within_the_limits_nothing_happens_and_the_start_does_not_count() -> None:
    budget = Budget(0.05, 100 * MB, 0.005)
    plant = Plant(budget)
    plant.run(600, cpu=0.045, probe=0.0045)
    assert (set(plant.levels), plant.said, budget.reason) == ({3}, [], None)
    assert budget.seconds == pytest.approx({3: 600, 2: 0, 1: 0})
    assert budget.cpu_ratio == pytest.approx(0.045, rel=0.01)
    assert budget.probe_ratio == pytest.approx(0.0045, rel=0.01)


@settings(max_examples=60, deadline=None)
@given(cpu=st.floats(0.051, 0.3), before=st.floats(0.0, 0.02), period_s=st.sampled_from([0.5, 1.0, 2.0]))
def test_the_mean_over_a_minute_stays_below_the_limit_while_any_level_can_keep_it_there(
    cpu: float, before: float, period_s: float
) -> None:
    plant = Plant(Budget(0.05, 0, 0), period_s)
    plant.run(300, cpu=before)
    plant.run(900, cpu=cpu)
    assert plant.highest < 0.05
    assert min(plant.levels) < 3


def test_a_change_is_said_once_with_its_reason_and_the_time_at_each_level_is_kept() -> None:
    plant = Plant(Budget(0.05, 0, 0))
    plant.run(100, cpu=0.1)
    assert len(plant.said) == 1
    assert plant.said[0].startswith(
        "detail lowered to 2 (windows, no single steps): the agent's CPU time 0.0"
    )
    assert plant.said[0].endswith(" cores, limit 0.05")
    assert plant.said[0].endswith(f": {plant.budget.reason}")
    assert sum(plant.budget.seconds.values()) == pytest.approx(100)
    assert plant.budget.seconds[2] == pytest.approx(plant.levels.count(2) - 1, abs=1.01)


def test_a_burst_of_two_seconds_is_no_reason() -> None:
    plant = Plant(Budget(0.05, 0, 0))
    plant.run(2, cpu=0.6)
    plant.run(60, cpu=0.01)
    assert set(plant.levels) == {3}


def test_detail_comes_back_after_the_load_went_one_level_at_a_time() -> None:
    plant = Plant(Budget(0.05, 0, 0))
    plant.run(300, cpu=0.4)
    assert plant.budget.level == 1
    plant.run(RISE_S - 5, cpu=0.0)
    assert plant.budget.level == 1
    plant.run(400, cpu=0.0)
    assert plant.budget.level == 3
    assert plant.budget.reason is None
    assert [line.split(" (")[0] for line in plant.said] == [
        "detail lowered to 2",
        "detail lowered to 1",
        "detail raised to 2",
        "detail raised to 3",
    ]


@settings(max_examples=12, deadline=None)
@given(cpu=st.floats(0.04, 0.6))
def test_a_steady_load_does_not_make_it_flap(cpu: float) -> None:
    """A day under one load: each vain rise doubles the wait, up to an hour, so that there are few."""
    plant = Plant(Budget(0.05, 0, 0), period_s=5.0)
    plant.run(86_400, cpu=cpu)
    changes = sum(one != other for one, other in zip(plant.levels, plant.levels[1:], strict=False))
    assert changes <= 2 * (24 + 8)
    plant.run(3 * 3600, cpu=0.0)
    assert plant.budget.level == 3


def test_a_ramp_of_memory_is_met_before_the_limit_and_caches_are_dropped() -> None:
    plant = Plant(Budget(0, 100 * MB, 0))
    shed_at: list[float] = []

    def rss(now_s: float) -> float:
        if plant.budget.level == 3:
            return 57 * MB + now_s * MB / 2
        shed_at.append(now_s)
        return 80 * MB

    plant.run(120, rss=rss)
    assert 57 + shed_at[0] / 2 < 100
    assert plant.drops == 1
    assert "the agent's memory 9" in plant.said[0]
    assert "MB soon, of 100.0 MB" in plant.said[0]


def test_memory_that_no_level_can_lower_is_said_once_with_what_to_do() -> None:
    plant = Plant(Budget(0, 100 * MB, 0))
    plant.run(1200, rss=lambda _: 120 * MB)
    assert plant.budget.level == 1
    assert len(plant.said) == 3
    assert plant.said[-1].startswith("at the lowest detail and still the agent's memory 120.0 MB")
    assert plant.said[-1].endswith("raise budget_rss_bytes")


def test_the_probe_s_time_counts_for_the_process_where_it_is_most() -> None:
    budget = Budget(0, 0, 0.005)
    for second in range(120):
        ns = second * S
        verdict = budget.look(
            ns, 0.0, 0, {"quiet": 10**9, "busy": int(ns * 0.02), "late": 5 * 10**11 if second < 60 else 0}
        )
    assert verdict.level < 3
    assert budget.reason is not None and budget.reason.startswith("the probe's share of a process's time 0.0")
    budget.look(121 * S, 0.0, 0, {"quiet": 10**9})
    assert budget.probe_ratio == 0.0, "a ring that is gone costs nothing"


def test_no_limit_is_no_limit() -> None:
    plant = Plant(Budget(0, 0, 0))
    plant.run(300, cpu=8.0, rss=lambda _: 1e12, probe=0.9)
    assert set(plant.levels) == {3}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-S, 100 * S), st.floats(0, 1e6), st.floats(0, 1e12), st.integers(0, 2**63)),
        max_size=60,
    )
)
def test_nothing_measured_breaks_it(measured: list[tuple[int, float, float, int]]) -> None:
    budget, now_ns, before = Budget(0.05, 100 * MB, 0.005), 0, 3
    for step_ns, cpu_s, rss, probe_ns in measured:
        now_ns += step_ns
        level = budget.look(now_ns, cpu_s, rss, {"r": probe_ns}).level
        assert level in (1, 2, 3)
        assert abs(level - before) <= 1
        before = level


def test_memory_can_be_given_back_at_any_time() -> None:
    release_memory()
