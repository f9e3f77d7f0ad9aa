"""RollingMeter: what a window measured is given away whole, by work, whatever arrives in whatever order."""

import random

import numpy as np
import pytest
from meter_day import DRAM, ENERGY, MS, START_NS, Day, decode, errors, make_day, run, window, windows_of

from vtprof_agent.counters.meter import CounterWindow, StepCounters, Work
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_schemas import names

GPUS = ("GPU-0",)


def amounts(counters: StepCounters | None) -> list[float]:
    """Return what each class was given."""
    return [share.amount for share in counters.shares[DRAM]] if counters else []


def total(meter: RollingMeter, key: str = DRAM, hw_id: str = "GPU-0") -> float:
    """Add up all that was given away of a counter, to nobody too."""
    return sum(amount for (gpu, name, _), amount in meter.totals().items() if (gpu, name) == (hw_id, key))


def test_two_steps_of_one_class_share_their_window_by_work_and_time() -> None:
    """Windows of 30 and 10; a step of 100 ms lies in the first, one of 50 ms half in each of both.

    Steps do the same work each. Let each cost c in a window that is scaled by s: the first window holds 1.5 of them, the
    second half of one. Scaled to what was measured, the first step gets 30 / 1.5 = 20, the second 20 / 2 + 10 = 20.
    """
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    steps = [decode(0, 75), decode(75, 125)]
    for step in steps:
        meter.add(GPUS, step)
    for one in (window(0, 100, 30.0), window(100, 200, 10.0)):
        meter.add_window(one)
    for later_ms in (300, 2400, 4500):
        meter.advance(START_NS + later_ms * MS)
    given = [meter.of(GPUS, step) for step in steps]
    assert [one.shares[DRAM][2].amount for one in given if one] == pytest.approx([20.0, 20.0])
    assert [one.shares[DRAM][0].amount for one in given if one] == [0.0, 0.0]
    assert meter.totals()[("GPU-0", DRAM, names.DECODE)] == pytest.approx(40.0)


def test_known_split_of_encode_and_decode_is_found() -> None:
    """Windows hold 1 or 2 decode steps of 10 and 0 or 1 encodes of 40, each wholly inside: two unknowns, no noise."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    mixed = []
    for place in range(60):
        at, steps, encodes = place * 100.0, 1 + place % 2, (place // 2) % 2
        for number in range(steps):
            meter.add(GPUS, decode(at + 10 + 20 * number, at + 30 + 20 * number))
        if encodes:
            begin, end = START_NS + int((at + 60) * MS), START_NS + int((at + 90) * MS)
            work = Work(begin, end, patches=1000, encode_pairs=1_000_000, encode_ns=30 * MS)
            meter.add(GPUS, work)
            mixed.append(work)
        meter.add_window(window(at, at + 100, 10.0 * steps + 40.0 * encodes))
        meter.advance(START_NS + int((at + 100) * MS))
    meter.advance(START_NS + 8000 * MS)
    shares = [counters.shares[DRAM] for work in mixed[10:] if (counters := meter.of(GPUS, work))]
    assert len(shares) == len(mixed) - 10
    for encode, _, other in shares:
        assert encode.amount == pytest.approx(40.0, rel=0.01)
        assert encode.low <= 40.0 <= encode.high
        assert other.amount == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_shares_and_what_is_nobodys_add_up_to_what_was_measured(seed: int) -> None:
    """To the float: over all windows, and for each class over all steps."""
    day = make_day(seed, 12)
    meter = RollingMeter()
    windows = windows_of(day, seed, noise=0.05, idle=0.05)
    given = run(meter, day, windows)
    assert total(meter) == pytest.approx(sum(one.amount for one in windows), rel=1e-9)
    edge_ns = windows[-1].end_ns - 1000 * MS
    # The first fits change much; later all windows of a step are settled when it is asked for, and nothing changes.
    late = [step for step in day.steps if step.start_ns > START_NS + 6000 * MS and step.end_ns < edge_ns]
    found = [one for step, one in zip(day.steps, given, strict=True) if step in set(late)]
    assert [amounts(one) for one in found] == [amounts(meter.of(GPUS, step)) for step in late]
    assert all(share.low <= share.amount <= share.high for one in found if one for share in one.shares[DRAM])


def test_sum_over_steps_is_the_sum_over_windows() -> None:
    """Steps end with windows here: from 2 s on (settled by one fit) what steps got is what the windows gave."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    rng = random.Random(3)
    steps, given = [], []
    for place in range(80):
        at = place * 100.0
        cut = rng.uniform(20, 80)
        steps += [decode(at, at + cut, rng.randint(1, 30)), decode(at + cut, at + 100, rng.randint(1, 30))]
        for step in steps[-2:]:
            meter.add(GPUS, step)
        meter.add_window(window(at, at + 100, rng.uniform(20, 60)))
        meter.advance(START_NS + int((at + 100) * MS))
    meter.advance(START_NS + 10_000 * MS)
    given = [meter.of(GPUS, step) for step in steps]
    mine = sum(one.shares[DRAM][2].amount for one in given if one)
    assert mine == pytest.approx(meter.totals()[("GPU-0", DRAM, names.DECODE)], rel=1e-9)
    assert total(meter) == pytest.approx(mine + meter.totals()[("GPU-0", DRAM, names.UNATTRIBUTED)], rel=1e-9)


def test_windows_without_work_of_ours_are_nobodys() -> None:
    """Ten windows of 5 and no step at all."""
    meter = RollingMeter()
    for place in range(10):
        meter.add_window(window(place * 100, place * 100 + 100, 5.0))
    meter.advance(START_NS + 12_000 * MS)
    assert meter.totals()[("GPU-0", DRAM, names.UNATTRIBUTED)] == pytest.approx(50.0)
    assert total(meter) == pytest.approx(50.0)


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_amounts_that_cannot_be_are_refused_and_counted(amount: float) -> None:
    """And change nothing else."""
    meter = RollingMeter()
    meter.add_window(window(0, 100, 7.0))
    meter.add_window(window(100, 200, amount))
    meter.advance(START_NS + 12_000 * MS)
    assert total(meter) == 7.0
    assert [state.refused for state in meter.state()] == [1]


def test_repeated_and_late_windows_change_nothing() -> None:
    """Each window twice, and every tenth once more a second later."""
    day = make_day(5, 10)
    windows = windows_of(day, 5)
    plain, noisy = RollingMeter(), RollingMeter()
    run(plain, day, windows)
    again = [
        copy
        for place, one in enumerate(windows)
        for copy in [one, one, *windows[max(place - 10, 0) : place - 9 if place > 9 else 0]]
    ]
    for one in again:
        noisy.add_window(one)
    # All windows lie in the box before the first turn: the order among them is the order in which they came.
    for step in day.steps:
        noisy.add(GPUS, step)
    noisy.advance(day.steps[-1].end_ns + 12_000 * MS)
    assert total(noisy) == pytest.approx(total(plain), rel=1e-9)
    assert noisy.state()[0].refused == len(again) - len(windows)


def test_order_between_counters_and_gpus_does_not_matter() -> None:
    """Two GPUs and two counters, shuffled within each tenth of a second."""
    day = make_day(6, 8)
    gpus = ("GPU-0", "GPU-1")
    series = [windows_of(day, 6, key=key, hw_id=gpu) for gpu in gpus for key in (DRAM, ENERGY)]
    rng = random.Random(1)
    orders = []
    for _ in range(2):
        meter = RollingMeter()
        rounds = [list(together) for together in zip(*series, strict=True)]
        for together in rounds:
            rng.shuffle(together)
        run(meter, day, [one for together in rounds for one in together], gpus)
        orders.append(dict(meter.totals().items()))
    assert orders[0] == pytest.approx(orders[1], rel=1e-9)


def test_time_of_which_work_was_not_told_yet_is_no_pause() -> None:
    """Rings read each 2.5 s while windows come at once: nothing is taken for idle, and nothing stays nobody's."""
    day = make_day(12, 30)
    windows = windows_of(day, 12)
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    steps, given = list(day.steps), []
    for now_ns in range(START_NS, windows[-1].end_ns + 10_000 * MS, 2500 * MS):
        for one in windows:
            if now_ns - 2500 * MS < one.end_ns <= now_ns:
                meter.add_window(one)
                meter.complete(
                    GPUS, one.end_ns
                )  # as the steps of other rings ask while this one waits to be read
        while steps and steps[0].end_ns <= now_ns:
            given.append(steps.pop(0))
            meter.add(GPUS, given[-1])
        meter.advance(now_ns)
    shares = [meter.of(GPUS, step) for step in given]
    nobodys = meter.totals()[("GPU-0", DRAM, names.UNATTRIBUTED)]
    assert nobodys < 0.01 * total(meter)
    assert (errors(day, shares, skip_s=20.0) < (0.05, 0.03, 0.01)).all()


def test_gap_in_the_windows_lowers_the_label_and_fills_in_the_step() -> None:
    """Without the windows of one second a step in it is estimated, near the truth; others keep theirs."""
    day = make_day(7, 20, classes="d")
    hole = (START_NS + 15_000 * MS, START_NS + 16_000 * MS)
    windows = [one for one in windows_of(day, 7) if not hole[0] <= one.start_ns < hole[1]]
    given = run(RollingMeter(), day, windows)
    for step, used, counters in zip(day.steps, day.truth, given, strict=True):
        if counters is None or step.start_ns < START_NS + 10_000 * MS:
            continue
        inside = hole[0] < step.start_ns and step.end_ns < hole[1]
        outside = step.end_ns < hole[0] - 100 * MS or step.start_ns > hole[1] + 100 * MS
        if inside:
            assert counters.quality[DRAM] == names.QUALITY_ESTIMATED
            assert counters.shares[DRAM][2].amount == pytest.approx(used[2], rel=0.1)
        if outside and step.end_ns < day.steps[-1].end_ns - 1000 * MS:
            assert counters.quality[DRAM] == names.QUALITY_MEASURED


def test_counter_that_one_of_two_gpus_lacks_is_scaled_up_and_estimated() -> None:
    """GPU-1 has no energy: its half is put in as the other's, and the label says so; bandwidth is whole."""
    day = make_day(8, 20, classes="d")
    windows = windows_of(day, 1) + windows_of(day, 2, hw_id="GPU-1") + windows_of(day, 3, key=ENERGY)
    given = run(RollingMeter(), day, windows, ("GPU-0", "GPU-1"))
    sound = [
        one
        for step, one in zip(day.steps, given, strict=True)
        if step.start_ns > START_NS + 10_000 * MS and one
    ]
    late = [one for one in sound if one.quality[DRAM] == names.QUALITY_MEASURED]
    assert len(late) > len(sound) * 0.8
    for counters in late:
        assert counters.gpus == 2
        assert counters.quality[ENERGY] == names.QUALITY_ESTIMATED
        ratio = counters.shares[ENERGY][2].amount / counters.shares[DRAM][2].amount
        assert ratio == pytest.approx(1.0, abs=0.15)


def test_complete_waits_for_windows_and_not_for_a_silent_source() -> None:
    """Nothing expected: complete at once. Expected: when its windows are settled, or 3 periods of silence have passed."""
    meter = RollingMeter()
    step = decode(0, 50)
    meter.add(GPUS, step)
    meter.advance(step.end_ns)
    assert meter.complete(GPUS, step.end_ns)
    meter.expect("GPU-0", [DRAM], 0.1)
    meter.add(GPUS, step)  # of a GPU without counters no work is kept
    meter.advance(step.end_ns + 10 * MS)
    assert not meter.complete(GPUS, step.end_ns)
    meter.add_window(window(0, 100, 3.0))
    meter.add(GPUS, decode(100, 150))
    meter.advance(START_NS + 2100 * MS)
    assert meter.complete(GPUS, step.end_ns)
    assert not meter.complete(GPUS, START_NS + 2000 * MS)
    meter.advance(START_NS + 4500 * MS)
    assert meter.complete(GPUS, START_NS + 2000 * MS)


def test_unknown_gpus_get_nothing() -> None:
    """Neither an error nor a share."""
    meter = RollingMeter()
    assert meter.of(("GPU-9",), decode(0, 10)) is None
    assert meter.complete(("GPU-9",), START_NS)
    meter.add(("GPU-9",), decode(0, 10))
    assert meter.of(("GPU-9",), decode(0, 10)) is None


def test_clock_offset_of_forty_milliseconds_is_found_and_corrected() -> None:
    """Windows that come 40 ms late; after the search the error is what it is without an offset."""
    day = make_day(9, 30)
    meter = RollingMeter()
    given = run(meter, day, windows_of(day, 9, late_ms=40))
    assert meter.state()[0].lag_ns == pytest.approx(40 * MS, abs=5 * MS)
    assert (errors(day, given) < (0.05, 0.03, 0.01)).all()


def test_uncertain_edges_are_added_up_to_a_second() -> None:
    """Values that are latched up to half a period late, at random: the same amount, a tenth of the windows in the fit."""
    day = make_day(10, 20)
    rng, carried, unsure = random.Random(1), 0.0, []
    for one in windows_of(day, 10):
        kept = rng.uniform(0.5, 1.0) * one.amount
        unsure.append(
            CounterWindow(one.hw_id, one.key, one.start_ns, one.end_ns, carried + kept, exact_edges=False)
        )
        carried = one.amount - kept
    meter = RollingMeter()
    run(meter, day, unsure)
    whole = len(unsure) // 10
    assert meter.state()[0].windows == whole
    assert total(meter) == pytest.approx(sum(one.amount for one in unsure[: whole * 10]), rel=1e-9)


def test_uncertain_edges_that_are_only_late_are_used_as_they_come() -> None:
    """A lag of 60 ms that is always the same is found, and then the windows count one by one."""
    day = make_day(11, 30)
    late = windows_of(day, 11, late_ms=60)
    meter = RollingMeter()
    given = run(
        meter,
        day,
        [CounterWindow(w.hw_id, w.key, w.start_ns, w.end_ns, w.amount, exact_edges=False) for w in late],
    )
    assert meter.state()[0].lag_ns == pytest.approx(60 * MS, abs=5 * MS)
    assert meter.state()[0].windows > 100
    assert (errors(day, given) < (0.05, 0.03, 0.01)).all()


def test_memory_stays_flat_over_hours() -> None:
    """Two hours of a step and a window each second: what is kept does not grow from the first hour to the second."""
    meter = RollingMeter()
    sizes = []
    for second in range(7200):
        at = second * 1000.0
        meter.add(GPUS, decode(at, at + 500))
        meter.add_window(window(at, at + 1000, 10.0))
        meter.advance(START_NS + (second + 1) * 1000 * MS)
        if second % 600 == 599:
            sizes.append(kept_bytes(meter))
    assert max(sizes[6:]) <= max(sizes[:6])


def kept_bytes(meter: RollingMeter) -> int:
    """Add up what hangs on a meter, arrays by their size."""
    seen: set[int] = set()
    todo: list[object] = [meter]
    size = 0
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        size += one.nbytes if isinstance(one, np.ndarray) else 8
        if isinstance(one, dict):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)) or type(one).__name__ == "deque":
            todo += list(one)
        elif type(one).__module__.startswith("vtprof_agent"):
            slots = getattr(type(one), "__slots__", ())
            todo += [getattr(one, name) for name in slots] if slots else list(vars(one).values())
    return size


def test_steps_of_a_set_add_up_whatever_they_overlap() -> None:
    """Steps that overlap by a tenth, as with async scheduling: nothing is lost and nothing counted twice."""
    meter = RollingMeter()
    steps = [decode(place * 20, place * 20 + 22) for place in range(200)]
    day = Day(steps, np.zeros((200, 3)))
    windows = [window(place * 100, place * 100 + 100, 10.0) for place in range(41)]
    given = run(meter, day, windows)
    late = [one.shares[DRAM][2].amount for one in given[-100:-10] if one]
    assert sum(late) == pytest.approx(90 * 2.0, rel=0.01)


def test_work_that_the_fit_gives_nothing_is_not_known_instead_of_free() -> None:
    """A counter that stands at 70 % with and without work says nothing of the work: no value, least of all 0."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    mixed = []
    for place in range(80):
        at = place * 100.0
        if place % 3:
            begin, end = START_NS + int((at + 10) * MS), START_NS + int((at + 60) * MS)
            work = Work(
                begin, end, patches=500 * (place % 5 + 1), encode_ns=20 * MS, decode_requests=place % 7 + 1
            )
            meter.add(GPUS, work)
            mixed.append(work)
        meter.add_window(window(at, at + 100, 70.0 * MS))
        meter.advance(START_NS + int((at + 100) * MS))
    meter.advance(START_NS + 9000 * MS)
    assert [meter.of(GPUS, work) for work in mixed[20:]] == [None] * len(mixed[20:])
    assert meter.totals()[("GPU-0", DRAM, names.UNATTRIBUTED)] == pytest.approx(80 * 70.0 * MS, rel=0.01)
