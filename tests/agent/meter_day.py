"""A small simulated GPU for the tests of attribution: steps, what each truly used, and counter windows of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vtprof_agent.counters.meter import CounterWindow, StepCounters, Work
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_schemas import names

DRAM, ENERGY = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ
START_NS = 5_000_000_000_000
MS = 1_000_000
HOLD_MS = 5_000
"""So long a step waits for its windows, as in a running agent."""
Beside = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Day:
    """Steps, and what encode, prefill and decode truly used of a counter in each."""

    steps: list[Work]
    truth: np.ndarray


def make_day(seed: int, seconds: float, *, classes: str = "epd", gap_ms: float = 3.0) -> Day:
    """Make steps of a linear machine: amounts, and with them durations, follow from the work."""
    rng = np.random.default_rng(seed)
    steps, truth, now = [], [], float(START_NS)
    while now < START_NS + seconds * 1e9:
        patches = int(rng.integers(500, 4000)) if "e" in classes and rng.random() < 0.12 else 0
        tokens = int(rng.integers(50, 2000)) if "p" in classes and (patches or rng.random() < 0.1) else 0
        requests = int(rng.integers(1, 40)) if "d" in classes else 0
        context = requests * int(rng.integers(200, 3000))
        encode = patches * 9_000.0
        weights = 12e6 if tokens + requests else 0.0
        prefill = tokens * 20_000.0 + weights * tokens / max(tokens + requests, 1)
        decode = context * 60.0 + weights * requests / max(tokens + requests, 1)
        encode_ns = int(encode * 2.2)
        length = encode_ns + (prefill * 1.6 + decode * 1.25) + 1e5
        steps.append(
            Work(
                int(now), int(now + length), patches, patches * 1000, tokens, tokens * tokens // 2, requests, context,
                encode_ns,
            )
        )  # fmt: skip
        truth.append((encode, prefill, decode))
        now += length + rng.exponential(gap_ms * MS)
    return Day(steps, np.array(truth))


def windows_of(
    day: Day, seed: int, *, period_ms: float = 100, noise: float = 0.01, late_ms: float = 0.0, idle: float = 0.0,
    beside: Beside | None = None, key: str = DRAM, hw_id: str = "GPU-0",
) -> list[CounterWindow]:  # fmt: skip
    """Read the day's counter every period: ``idle`` a ns and ``beside`` are not of the steps; ``late_ms``: its clock."""
    rng = np.random.default_rng(seed)
    times, sums = [float(START_NS)], [0.0]
    for step, (encode, prefill, decode) in zip(day.steps, day.truth, strict=True):
        middle = step.start_ns + step.encode_ns
        times += [step.start_ns, middle, step.end_ns]
        sums += [sums[-1], sums[-1] + encode, sums[-1] + encode + prefill + decode]
    edges = np.arange(START_NS, day.steps[-1].end_ns, period_ms * MS)
    amounts = np.diff(np.interp(edges, times, sums)) + idle * np.diff(edges)
    if beside is not None:
        amounts = amounts + beside(amounts, rng)
    amounts = np.maximum(amounts * (1 + noise * rng.standard_normal(len(amounts))), 0.0)
    late_ns = round(late_ms * MS)
    return [
        CounterWindow(hw_id, key, int(begin) + late_ns, int(end) + late_ns, float(amount))
        for begin, end, amount in zip(edges[:-1], edges[1:], amounts, strict=True)
    ]


def run(
    meter: RollingMeter, day: Day, windows: Iterable[CounterWindow], gpus: tuple[str, ...] = ("GPU-0",),
    expected: Iterable[str] | None = None,
) -> list[StepCounters | None]:  # fmt: skip
    """Feed a day as the agent does: a step is held until its windows are complete, 5 s at most."""
    seen = list(windows)
    for hw_id in gpus:
        meter.expect(hw_id, {window.key for window in seen} if expected is None else expected, 0.1)
    events: list[tuple[int, int, Work | CounterWindow]] = [(window.end_ns, 0, window) for window in seen]
    events += [(step.end_ns + 2 * MS, 1, step) for step in day.steps]
    held: list[Work] = []
    given: list[StepCounters | None] = []
    for now_ns, _, event in sorted(events, key=lambda one: one[:2]):
        if isinstance(event, CounterWindow):
            meter.add_window(event)
        else:
            meter.add(gpus, event)
            held.append(event)
        meter.advance(now_ns)
        while held and (meter.complete(gpus, held[0].end_ns) or now_ns - held[0].end_ns > HOLD_MS * MS):
            given.append(meter.of(gpus, held.pop(0)))
    last_ns = day.steps[-1].end_ns
    for later_ns in range(last_ns, last_ns + 2 * HOLD_MS * MS, 250 * MS):
        meter.advance(later_ns)
    return given + [meter.of(gpus, step) for step in held]


def errors(day: Day, given: list[StepCounters | None], key: str = DRAM, skip_s: float = 15.0) -> np.ndarray:
    """Return |given - true| / true by class, over the steps behind the first seconds."""
    true, got = np.zeros(3), np.zeros(3)
    for step, used, counters in zip(day.steps, day.truth, given, strict=True):
        if step.start_ns >= START_NS + skip_s * 1e9 and counters is not None:
            true += used
            got += [share.amount for share in counters.shares[key]]
    return np.abs(got - true) / np.maximum(true, 1e-9)


def window(
    start_ms: float, end_ms: float, amount: float, key: str = DRAM, hw_id: str = "GPU-0"
) -> CounterWindow:
    """Make a window, ms after the start."""
    return CounterWindow(hw_id, key, START_NS + int(start_ms * MS), START_NS + int(end_ms * MS), amount)


def decode(start_ms: float, end_ms: float, requests: int = 4) -> Work:
    """Make a step that only decodes."""
    begin, end = START_NS + int(start_ms * MS), START_NS + int(end_ms * MS)
    return Work(begin, end, decode_requests=requests, decode_context_tokens=1000 * requests)
