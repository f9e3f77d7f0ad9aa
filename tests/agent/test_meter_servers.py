"""RollingMeter where several servers share a GPU: each is given its own, however their rings are read and restarted."""

from itertools import pairwise

import numpy as np
import pytest
from meter_day import DRAM, ENERGY, MS, START_NS

from vtprof_agent.counters.gpu_work import GpuWork
from vtprof_agent.counters.meter import CounterWindow, Work
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.rolling_fit import Fit
from vtprof_agent.counters.series import Series
from vtprof_agent.counters.work_curve import CLASS_COLUMNS, COLUMNS, WorkCurve
from vtprof_schemas import names

GPUS = ("GPU-0",)
WINDOW_MS = 100
IDLE = 90.0 / 1e6
"""90 W, in mJ a ns; steps take 1 / 1.4 a ns, as energy 1e-3 mJ of it, 714 W."""
Steps = list[tuple[Work, float]]


def server(seed: int, seconds: float, *, gap_ms: float, prompts: float) -> Steps:
    """Make steps, each with what it truly takes: 60 a token of context, 8e6 a step, and 20e3 a prompt's token."""
    rng = np.random.default_rng(seed)
    steps: Steps = []
    now = float(START_NS) + rng.uniform(0, 20) * MS
    while now < START_NS + seconds * 1e9:
        requests, tokens = int(rng.integers(1, 30)), 0
        if rng.random() < prompts:
            tokens = int(rng.integers(50, 1500))
        context = requests * int(rng.integers(200, 3000))
        taken = context * 60.0 + 8e6 + tokens * 20e3
        length = taken * 1.4
        work = Work(
            int(now), int(now + length), prefill_tokens=tokens, decode_requests=requests,
            decode_context_tokens=context,
        )  # fmt: skip
        steps.append((work, taken))
        now += length + rng.exponential(gap_ms) * MS
    return steps


def windows(
    servers: list[Steps], seconds: int, key: str, *, noise: float, idle: float = 0.0
) -> list[CounterWindow]:
    """Add up what the servers take in each tenth of a second, each step evenly over its time."""
    edges = START_NS + np.arange(seconds * 1000 // WINDOW_MS + 1) * float(WINDOW_MS * MS)
    whole = idle * (edges - edges[0])
    for steps in servers:
        times = np.array([(work.start_ns, work.end_ns) for work, _ in steps], dtype=float).ravel()
        taken = np.cumsum([(0.0, amount) for _, amount in steps])
        whole = whole + np.interp(edges, times, taken)
    rng = np.random.default_rng(7)
    amounts = np.diff(whole) * (1 + noise * rng.standard_normal(len(edges) - 1))
    return [
        CounterWindow("GPU-0", key, int(begin), int(end), float(amount))
        for begin, end, amount in zip(edges[:-1], edges[1:], amounts, strict=True)
    ]


def read(
    meter: RollingMeter, servers: list[Steps], seen: list[CounterWindow], every_ms: list[int], *, first_s: int
) -> tuple[list[float], list[float]]:
    """Read each server's steps in batches of so many ms; return what each is given, and its truth, from ``first_s`` on."""
    meter.expect("GPU-0", {window.key for window in seen}, 0.1)
    key, coming = seen[0].key, list(reversed(seen))
    unread = [list(reversed(steps)) for steps in servers]
    held: list[list[tuple[Work, float]]] = [[] for _ in servers]
    told = [START_NS] * len(servers)
    given, truth = [0.0] * len(servers), [0.0] * len(servers)
    for now_ms in range(0, seen[-1].end_ns // MS - START_NS // MS, 50):
        now = START_NS + now_ms * MS
        while coming and coming[-1].end_ns <= now:
            meter.add_window(coming.pop())
        for line, every in enumerate(every_ms):
            if (now_ms + 50 * line) % every:  # not at the same time
                continue
            told[line] = now
            while unread[line] and unread[line][-1][0].end_ns <= now:
                step = unread[line].pop()
                meter.add(GPUS, step[0], line)
                held[line].append(step)
        meter.advance(min(told))
        for line, steps in enumerate(held):
            while steps and (
                meter.complete(GPUS, steps[0][0].end_ns) or steps[0][0].end_ns < now - 5000 * MS
            ):
                work, amount = steps.pop(0)
                counters = meter.of(GPUS, work, line)
                if work.start_ns > START_NS + first_s * 1000 * MS and counters is not None:
                    given[line] += sum(share.amount for share in counters.shares[key])
                    truth[line] += amount
    return given, truth


@pytest.mark.parametrize("every_ms", [[50, 50], [250, 1000], [1000, 250]])
def test_two_servers_are_each_given_their_own_whatever_the_batches(every_ms: list[int]) -> None:
    """Both work most of the time, and at the same time: what a second's batch holds lies where it lay, not behind."""
    servers = [server(1, 40, gap_ms=3, prompts=0.1), server(2, 40, gap_ms=6, prompts=0.3)]
    given, truth = read(RollingMeter(), servers, windows(servers, 40, DRAM, noise=0.01), every_ms, first_s=15)
    assert min(truth) > 0.3 * max(truth)
    assert given == pytest.approx(truth, rel=0.03)


def test_a_server_that_works_seldom_is_given_its_own_beside_one_that_works_always() -> None:
    """The windows do not wait for the second server's next step, nor is that one laid behind what the first did."""
    servers = [server(3, 60, gap_ms=2, prompts=0.1), server(4, 60, gap_ms=700, prompts=0.5)]
    given, truth = read(
        RollingMeter(), servers, windows(servers, 60, DRAM, noise=0.005), [250, 250], first_s=20
    )
    assert given == pytest.approx(truth, rel=0.04)


def test_idle_power_is_what_flows_while_neither_of_two_servers_works() -> None:
    """A pause is where both rest. Their times add up to more than there is: by that sum there would be no pause at all."""
    servers = [server(5, 60, gap_ms=5, prompts=0.1), server(6, 60, gap_ms=5, prompts=0.2)]
    servers = [[(work, taken * 1e-3) for work, taken in steps] for steps in servers]
    energy = windows(servers, 60, ENERGY, noise=0.005, idle=IDLE)
    given, truth = read(RollingMeter(), servers, energy, [250, 1000], first_s=20)
    assert given == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_time_in_which_any_server_ran_is_the_union_of_their_steps(seed: int) -> None:
    """Expected: counted on a grid of 10 us, into which all steps fall."""
    rng = np.random.default_rng(seed)
    gpu, busy = GpuWork(), np.zeros(40_000, dtype=bool)
    for _ in range(3):
        curve, at = WorkCurve(10**12, 10_000), int(rng.integers(0, 500))
        gpu.join(curve)
        while at < 39_000:
            end = at + int(rng.integers(1, 300))
            patches = int(rng.integers(0, 2))
            curve.add(Work(at * 10_000, end * 10_000, patches, encode_ns=10_000, decode_requests=patches + 1))
            busy[at:end] = True
            at = end + int(rng.integers(0, 600))
    cuts = range(0, 40_001, 2500)
    expected = [busy[a:b].sum() * 10_000 for a, b in pairwise(cuts)]
    edges = np.array(cuts) * 10_000.0
    for _ in range(2):
        assert gpu.between(edges[:-1], edges[1:])[:, COLUMNS] == pytest.approx(expected, abs=1.0)


def test_a_server_that_restarts_three_hundred_times_goes_on_being_given_its_own() -> None:
    """A step each 100 ms that takes 40, a new line every 3 s, another server beside it; few curves stay."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    held: list[tuple[Work, int]] = []
    given = []
    most = 0
    for place in range(300 * 30):
        begin = START_NS + place * 100 * MS
        for line, (at, tokens) in ((place // 30 + 1, (10, 4000)), (0, (30, 1000 * (1 + place % 7)))):
            work = Work(
                begin + at * MS, begin + (at + 40) * MS, decode_requests=4, decode_context_tokens=tokens
            )
            meter.add(GPUS, work, line)
            if line:
                held.append((work, line))
        meter.add_window(CounterWindow("GPU-0", DRAM, begin, begin + 100 * MS, 40.0 + 10.0 * (1 + place % 7)))
        meter.advance(begin + 100 * MS)
        while held and meter.complete(GPUS, held[0][0].end_ns):
            work, line = held.pop(0)
            counters = meter.of(GPUS, work, line)
            given.append(counters.shares[DRAM][2].amount if counters else 0.0)
        most = max(most, len(meter._curves))
    assert len(given) > 8900
    assert given[600:] == pytest.approx([40.0] * len(given[600:]), rel=0.1)
    assert np.mean(given[600:]) == pytest.approx(40.0, rel=0.02)
    assert most < 50
    assert meter.state()[0].lag_ns == 0


def test_counters_of_servers_that_share_a_gpu_are_estimated() -> None:
    """A unit of work is held to cost the same for both, which of two models is not so."""
    both = [server(seed, 40, gap_ms=5, prompts=0.1) for seed in (1, 2)]
    meter = RollingMeter()
    read(meter, both, windows(both, 40, DRAM, noise=0.005), [250, 250], first_s=20)
    assert [state.quality for state in meter.state()] == [names.QUALITY_ESTIMATED]
    assert [state.why for state in meter.state()] == ["several servers use this GPU"]
    alone = RollingMeter()
    read(alone, both[:1], windows(both[:1], 40, DRAM, noise=0.005), [250], first_s=20)
    assert [state.quality for state in alone.state()] == [names.QUALITY_ATTRIBUTED]


def test_a_window_in_which_a_server_is_first_heard_of_gives_steps_no_more_than_the_fit() -> None:
    """Both windows hold 1.5 times what the fit says of the work known: in the first other work may have been."""
    gpu, curve = GpuWork(), WorkCurve(60_000 * MS, 1000)
    gpu.join(curve)
    for begin_ms in (50, 100, 150):
        curve.add(Work(begin_ms * MS, (begin_ms + 50) * MS, decode_requests=1, decode_context_tokens=1000))
    series = Series("GPU-0", DRAM, gpu, [], 300, 5, 10)
    costs = np.zeros(COLUMNS)
    costs[CLASS_COLUMNS[2].start] = 1.0
    series.fit = Fit(costs, 0.0, (0.0, 0.0, 0.1), 100, 0.0)
    starts, ends = np.array([0.0, 100.0]) * MS, np.array([100.0, 200.0]) * MS
    settled = series._give(starts, ends, np.array([1500.0, 3000.0]), gpu.between(starts, ends))
    assert settled.given[:, 2].tolist() == [1000.0, 3000.0]
    assert settled.given[:, 3].tolist() == [500.0, 0.0]
