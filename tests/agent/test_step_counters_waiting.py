"""Steps wait for their counters, in order and for as long as is allowed; at the end none waits."""

from counted_steps import ENERGY, SECOND, TWO, FakeMeter, energy, feed, machine
from ring_records import (
    gpu_time,
    step_facts,
)

from vtprof_schemas import names


def test_a_step_waits_for_its_counters_and_those_behind_it_wait_too() -> None:
    meter = FakeMeter({})
    meter.complete_through = 100
    made = machine(meter)
    feed(made, TWO)
    made.advance(SECOND)
    assert [fact.index for fact in step_facts(made)] == [1]
    assert made.take_requests() == []
    meter.complete_through = 140
    made.advance(SECOND)
    assert [fact.index for fact in step_facts(made)] == [2, 3]
    assert len(made.take_requests()) == 2


def test_a_step_whose_counters_never_come_goes_after_the_hold() -> None:
    meter = FakeMeter({})
    meter.complete_through = 0
    made = machine(meter)
    feed(made, TWO)
    made.advance(5 * SECOND - 1)
    assert step_facts(made) == []
    made.advance(5 * SECOND)
    assert [fact.index for fact in step_facts(made)] == [1, 2, 3]


def test_a_step_waits_for_gpu_time_and_counters_both() -> None:
    meter = FakeMeter({})
    meter.complete_through = 0
    made = machine(meter, expects_gpu_time=True)
    feed(made, [*TWO[:9], gpu_time(1, 90, 50)])
    made.advance(SECOND)
    assert step_facts(made) == []
    meter.complete_through = 200
    made.advance(SECOND)
    assert [fact.index for fact in step_facts(made)] == [1]
    feed(made, TWO[9:10], SECOND, first=11)
    made.advance(SECOND)
    assert step_facts(made) == []


def test_without_gpus_nothing_is_metered_and_nothing_waits() -> None:
    meter = FakeMeter({})
    made = machine(meter, gpus=())
    feed(made, TWO)
    made.advance(0)
    assert meter.added == []
    assert len(step_facts(made)) == 3


def test_the_encoders_gpu_time_is_waited_for_a_little_before_the_meter_is_told() -> None:
    meter = FakeMeter({})
    made = machine(meter, expects_gpu_time=True)
    feed(made, TWO)
    made.advance(0)
    assert meter.added == []
    feed(made, [gpu_time(1, 90, 55)], first=20)
    made.advance(0)
    assert [work.encode_ns for _, work in meter.added] == [55, 0, 0]
    late = FakeMeter({})
    made = machine(late, expects_gpu_time=True)
    feed(made, TWO)
    made.advance(200_000_000)
    # Without it the wall time stands in.
    assert [work.encode_ns for _, work in late.added] == [40, 0, 0]


def test_at_the_end_of_the_processes_every_step_is_metered_and_settled() -> None:
    meter = FakeMeter({0: {ENERGY: (8.0, 20.0, 0.0)}})
    meter.complete_through = 0
    made = machine(meter, expects_gpu_time=True)
    feed(made, TWO)
    made.close()
    assert len(meter.added) == 3
    (one, _) = made.take_requests()
    assert energy(one, names.PREFILL) == 5.0
