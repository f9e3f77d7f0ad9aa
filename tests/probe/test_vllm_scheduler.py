"""The scheduler's hooks write what each request waited for and computed, and each step once, in a readable order."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from probe_doubles import ListRing
from vllm_scheduler_doubles import Feature, Place, Request, Scheduler

from vtprof_probe.engines import vllm_scheduler
from vtprof_probe.engines.vllm_hooks import HOOKS
from vtprof_probe.engines.vllm_scheduler import MAX_IN_FLIGHT, SchedulerHooks, install_scheduler
from vtprof_probe.engines.vllm_shared import STEP_ATTRIBUTE, number
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.recorder import Recorder
from vtprof_schemas import names, records


class Probe:
    """The hooks on the double's class, a ring in memory and a clock that gains 1 ns with each look."""

    def __init__(self) -> None:
        self.ring = ListRing()
        self.time_ns = 1000
        self.detached = 0
        self.recorder = Recorder(lambda: self.ring, clock=self.now)
        self.patches = Patches(self.recorder.fault)
        self.hooks = SchedulerHooks(self.recorder, self.detach)

    def now(self) -> int:
        self.time_ns += 1
        return self.time_ns

    def detach(self) -> None:
        self.detached += 1
        self.patches.undo()
        self.recorder.close()

    def attach(self) -> None:
        set_by_name: dict[str, Any] = {}
        setter: Any = SimpleNamespace(set=lambda name, begin, end: set_by_name.update({name: (begin, end)}))
        install_scheduler(setter, self.recorder, self.detach)
        for name, (begin, end) in set_by_name.items():
            (target,) = HOOKS[name].targets
            assert self.patches.wrap(Scheduler, target.qualname.split(".")[1], begin, end)


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_scheduler, "_numbers", {})


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe()
    yield made
    made.patches.undo()


@pytest.fixture
def attached(probe: Probe) -> Probe:
    probe.attach()
    return probe


def run(scheduler: Scheduler, steps: int = 100) -> list[Any]:
    """Let the engine work until nothing is left; return the outputs of its steps."""
    outputs = []
    for _ in range(steps):
        output = scheduler.schedule()
        if not output.total_num_scheduled_tokens:
            break
        outputs.append(output)
        scheduler.update_from_output(output)
    return outputs


def fields(ring: ListRing, kind: str, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in keys) for row in ring.of(kind)]


def test_one_request_from_queue_to_end(attached: Probe) -> None:
    scheduler = Scheduler(budget=8)
    # 20 prompt tokens, an image on 4..14; three chunks of 8, 8 and 4, then three decode steps to 4 tokens.
    scheduler.add_request(Request("a", 20, [Feature(Place(4, 10), identifier="x")], max_tokens=4))
    outputs = run(scheduler)
    ring = attached.ring

    assert len(outputs) == 6
    assert [getattr(output, STEP_ATTRIBUTE) for output in outputs] == [1, 2, 3, 4, 5, 6]
    assert fields(ring, "prefill", "step", "tokens", "visual_tokens", "context_tokens", "last") == [
        (1, 8, 4, 0, 0),
        (2, 8, 6, 8, 0),
        (3, 4, 0, 16, 1),
    ]
    assert {row["cached_tokens"] for row in ring.of("prefill")} == {0}, (
        "computed before is not found in a cache"
    )
    # The queries of the first chunk see 1+2+...+8 = 36 keys, those at 4..7 of them 5+6+7+8 = 26.
    assert fields(ring, "prefill", "attention_pairs", "visual_attention_pairs")[0] == (36, 26)
    assert fields(ring, "step", "prefill_tokens", "decode_requests", "decode_context_tokens") == [
        (8, 0, 0), (8, 0, 0), (4, 0, 0), (0, 1, 20), (0, 1, 21), (0, 1, 22),
    ]  # fmt: skip
    assert fields(ring, "step", "kv_used_tokens", "kv_visual_tokens", "decode_visual_tokens")[-1] == (
        23,
        10,
        10,
    )
    assert {row["encode_ns"] for row in ring.of("step")} == {records.UNKNOWN}
    assert ring.of("step")[0]["kv_used_blocks"] == 101 - 1 - 60
    assert [kind for kind, _ in ring.rows][:3] == ["queue", "prefill", "step"]
    assert [kind for kind, _ in ring.rows][-1] == "left"
    assert ring.one("left") | {"time_ns": 0} == {
        "request": number("a"), "step": 6, "time_ns": 0, "output_tokens": 4,
    }  # fmt: skip
    assert ring.of("encode") == [], "it was encoded in its own steps: the worker's to tell"
    assert ring.hook_errors == 0


def test_steps_follow_each_other_without_overlap(attached: Probe) -> None:
    scheduler = Scheduler(late=True)
    for index in range(4):
        scheduler.add_request(Request(f"r{index}", 12, max_tokens=5))
    flying = [scheduler.schedule()]
    while flying:
        output = scheduler.schedule()
        if output.total_num_scheduled_tokens:
            flying.append(output)
        scheduler.update_from_output(flying.pop(0))
    spans = fields(attached.ring, "step", "start_ns", "end_ns")
    assert len(spans) > 5
    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert [row["step"] for row in attached.ring.of("step")] == list(range(1, len(spans) + 1))


def test_queue_lasts_from_arrival_to_the_step_that_takes_it(attached: Probe) -> None:
    scheduler = Scheduler(seats=1)
    scheduler.add_request(Request("a", 4, max_tokens=2))
    attached.time_ns = 5000
    scheduler.add_request(Request("b", 4, max_tokens=1))
    run(scheduler)
    starts = dict(fields(attached.ring, "step", "step", "start_ns"))
    first, second = attached.ring.of("queue")
    assert (first["request"], first["end_ns"]) == (number("a"), starts[1])
    assert first["start_ns"] < 5000
    assert (second["request"], second["start_ns"], second["end_ns"]) == (number("b"), 5001, starts[3])
    assert [row["waiting"] for row in attached.ring.of("step")] == [1, 1, 0]


def test_prefix_and_encoder_cache_hits(attached: Probe) -> None:
    scheduler = Scheduler(budget=64)
    items = [Feature(Place(2, 4), identifier="seen"), Feature(Place(8, 4), identifier="new")]
    scheduler.encoder_cache.add("seen")
    scheduler.add_request(Request("a", 20, items, max_tokens=1))
    # Its first image lies within the 6 tokens that the prefix cache has: nobody needs its features.
    scheduler.add_request(Request("b", 20, items, max_tokens=1, cached=6))
    run(scheduler)
    assert fields(attached.ring, "encode", "request", "items", "cache_hits", "patches") == [
        (number("a"), 0, 1, 0),
        (number("b"), 0, 1, 0),
    ]
    assert fields(attached.ring, "prefill", "tokens", "cached_tokens", "context_tokens", "visual_tokens") == [
        (20, 0, 0, 8),
        (14, 6, 6, 4),
    ]


def test_a_hit_is_counted_with_the_first_chunk_that_needs_it(attached: Probe) -> None:
    scheduler = Scheduler(budget=4)
    scheduler.encoder_cache.add("seen")
    scheduler.add_request(Request("a", 12, [Feature(Place(5, 7), identifier="seen")], max_tokens=1))
    run(scheduler)
    assert fields(attached.ring, "encode", "step", "cache_hits") == [(2, 1)]


@pytest.mark.parametrize("old", [False, True])
def test_preempted_and_computed_again(attached: Probe, old: bool) -> None:
    scheduler = Scheduler(budget=64, old=old)
    for key in "ab":
        scheduler.add_request(Request(key, 10, max_tokens=4))
    for victim in ((), (), "b", ()):
        scheduler.preempt = set(victim)
        scheduler.update_from_output(scheduler.schedule())
    run(scheduler)
    ring = attached.ring
    starts = dict(fields(ring, "step", "step", "start_ns"))
    assert fields(ring, "preempted", "request", "step") == [(number("b"), 3)]
    assert [row["preemptions"] for row in ring.of("step")][:4] == [0, 0, 1, 0]
    # Two tokens had been generated: 10 + 2 are prefill again, and no prefix hit is counted a second time.
    again = [row for row in ring.of("prefill") if row["step"] == 4]
    assert [(row["request"], row["tokens"], row["cached_tokens"], row["last"]) for row in again] == [
        (number("b"), 12, 0, 1)
    ]
    assert fields(ring, "queue", "request", "start_ns", "end_ns")[-1] == (number("b"), starts[3], starts[4])
    assert sorted(row["output_tokens"] for row in ring.of("left")) == [4, 4]


def test_a_running_request_that_is_passed_over_waits(attached: Probe) -> None:
    scheduler = Scheduler()
    for key in "ab":
        scheduler.add_request(Request(key, 4, max_tokens=6))
    for stalled in ("", "", "b", "b", "", ""):
        scheduler.stall = set(stalled)
        scheduler.update_from_output(scheduler.schedule())
    starts = dict(fields(attached.ring, "step", "step", "start_ns"))
    waits = fields(attached.ring, "queue", "request", "start_ns", "end_ns")[2:]
    assert waits == [(number("b"), starts[3], starts[5])]
    assert [row["decode_requests"] for row in attached.ring.of("step")] == [0, 2, 1, 1, 2, 2]
    assert [row["kv_used_tokens"] for row in attached.ring.of("step")] == [8, 10, 11, 12, 14, 16]


def test_drafts_that_are_verified_count_as_tokens_of_decode(attached: Probe) -> None:
    scheduler = Scheduler()
    for key in "ab":
        scheduler.add_request(Request(key, 4, max_tokens=12))
    # Drafts of (a, b), of which so many are accepted: what counts is what was computed.
    for drafts, accepted in (((0, 0), 0), ((0, 0), 0), ((3, 1), 1), ((3, 0), 0), ((2, 2), 2)):
        scheduler.drafts, scheduler.accepted = (
            dict(zip("ab", drafts, strict=True)),
            dict.fromkeys("ab", accepted),
        )
        scheduler.update_from_output(scheduler.schedule())
    assert fields(attached.ring, "step", "prefill_tokens", "decode_requests", "decode_tokens") == [
        (8, 0, 0), (0, 2, 2), (0, 2, 2 + 4), (0, 2, 2 + 3), (0, 2, 2 + 4),
    ]  # fmt: skip
    # 5 tokens cached and one generated each; a and b then gain 2 and 2, then 1 and 1.
    assert [row["decode_context_tokens"] for row in attached.ring.of("step")] == [0, 8, 10, 14, 16]


def test_who_is_in_a_step_under_way_does_not_wait(attached: Probe) -> None:
    """Two pipeline stages: the steps of two halves of the batch alternate."""
    scheduler = Scheduler(late=True)
    flying: list[Any] = []
    for key in "ab":
        scheduler.add_request(Request(key, 4, max_tokens=6))
    for step in range(8):
        scheduler.stall = {"ab"[step % 2]}
        flying.append(scheduler.schedule())
        if len(flying) > 1:
            scheduler.update_from_output(flying.pop(0))
    assert len(attached.ring.of("queue")) == 2, "the two arrivals"


def test_aborted_while_its_step_is_under_way_leaves_behind_it(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4))
    scheduler.add_request(Request("b", 4))
    output = scheduler.schedule()
    scheduler.finish_requests("a")
    assert attached.ring.of("left") == []
    scheduler.update_from_output(output)
    kinds = [kind for kind, _ in attached.ring.rows]
    assert kinds[-2:] == ["step", "left"]
    assert fields(attached.ring, "left", "request", "step", "output_tokens") == [(number("a"), 1, 0)]


def test_who_is_in_a_step_composed_ahead_leaves_behind_that_one(attached: Probe) -> None:
    scheduler = Scheduler(late=True)
    scheduler.add_request(Request("a", 4, max_tokens=9))
    first, second = scheduler.schedule(), scheduler.schedule()
    scheduler.finish_requests("a")
    scheduler.update_from_output(first)
    assert attached.ring.of("left") == []
    scheduler.update_from_output(second)
    assert [kind for kind, _ in attached.ring.rows][-2:] == ["step", "left"]
    assert attached.ring.one("left")["step"] == 2


def test_aborted_in_the_queue_leaves_at_once_and_from_no_step(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4))
    scheduler.finish_requests("a")
    assert fields(attached.ring, "left", "request", "step", "output_tokens") == [(number("a"), 0, 0)]
    assert attached.ring.of("queue") == []


def test_without_the_hook_on_leaving_the_next_output_tells(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4, max_tokens=1))
    output = scheduler.schedule()
    original = Scheduler._free_request.__wrapped__  # type: ignore[attr-defined]
    scheduler._free_request = original.__get__(scheduler)  # type: ignore[method-assign]
    scheduler.update_from_output(output)
    scheduler.schedule()
    assert fields(attached.ring, "left", "request", "output_tokens") == [(number("a"), records.UNKNOWN)]


def test_a_schedule_of_nothing_is_no_step(attached: Probe) -> None:
    scheduler = Scheduler()
    output = scheduler.schedule()
    scheduler.update_from_output(output)
    assert not hasattr(output, STEP_ATTRIBUTE)
    scheduler.add_request(Request("a", 4, max_tokens=1))
    assert [getattr(output, STEP_ATTRIBUTE) for output in run(scheduler)] == [1]


def test_attached_to_a_scheduler_at_work(probe: Probe) -> None:
    scheduler = Scheduler(budget=64, seats=2)
    scheduler.add_request(Request("decodes", 10, [Feature(Place(0, 6))], max_tokens=9))
    scheduler.update_from_output(scheduler.schedule())
    scheduler.budget = 21
    scheduler.add_request(Request("half", 30, max_tokens=9))
    scheduler.update_from_output(scheduler.schedule())
    scheduler.add_request(Request("waits", 5, max_tokens=1))
    scheduler.update_from_output(output := scheduler.schedule())
    assert output.before == {"decodes": 11, "half": 20}
    probe.attach()
    scheduler.update_from_output(scheduler.schedule())
    (step,) = probe.ring.of("step")
    # decodes: 10 + 2 tokens cached before the step; half: 30 of its prompt and one decoded in it.
    assert (step["decode_requests"], step["decode_context_tokens"]) == (2, 12 + 30)
    assert (step["kv_used_tokens"], step["kv_visual_tokens"], step["waiting"]) == (13 + 31, 6, 1)
    run(scheduler)
    assert [row["request"] for row in probe.ring.of("queue")] == [number("waits")]
    assert probe.ring.hook_errors == 0


def test_attached_again_numbers_go_on(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4, max_tokens=9))
    scheduler.update_from_output(scheduler.schedule())
    attached.ring.word = (records.DETAIL_DEFAULT, True)
    attached.recorder.control_due = 0
    scheduler.update_from_output(scheduler.schedule())
    assert attached.detached == 1
    assert not hasattr(Scheduler.schedule, "__wrapped__")
    again = Probe()
    again.attach()
    try:
        scheduler.update_from_output(scheduler.schedule())
        assert [row["step"] for row in again.ring.of("step")] == [2]
    finally:
        again.patches.undo()


def test_the_next_engine_of_a_process_numbers_its_steps_on(attached: Probe) -> None:
    """The rings of a process are read as one: a number that came again would be taken for the step of before."""
    numbers = []
    for key in ("a", "b"):
        scheduler = Scheduler()
        scheduler.add_request(Request(key, 4, max_tokens=2))
        numbers += [getattr(output, STEP_ATTRIBUTE) for output in run(scheduler)]
    assert numbers == [1, 2, 3, 4]


def test_engines_of_one_server_number_their_steps_apart(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.vllm_config.parallel_config.data_parallel_index = 3
    scheduler.add_request(Request("a", 4, max_tokens=1))
    (output,) = run(scheduler)
    assert getattr(output, STEP_ATTRIBUTE) == (3 << 48) + 1
    assert (attached.ring.info[names.ROLE], attached.ring.info[names.RANK]) == ("engine", 3)


def test_detail_zero_leaves_out_steps_that_only_decode(attached: Probe) -> None:
    attached.ring.word = (0, False)
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4, max_tokens=5))
    run(scheduler)
    assert [row["step"] for row in attached.ring.of("step")] == [1]


def test_steps_without_output_are_given_up_and_counted(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4, max_tokens=1000))
    scheduler.late = True
    first = scheduler.schedule()
    for _ in range(MAX_IN_FLIGHT):
        scheduler.schedule()
    faults = attached.ring.hook_errors
    scheduler.update_from_output(first)
    assert faults >= 1
    assert attached.ring.of("step") == []


def failing(*_: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize("attribute", ["get_request_counts", "vllm_config", "kv_cache_manager"])
def test_the_scheduler_works_on_where_the_hooks_cannot(attached: Probe, attribute: str) -> None:
    scheduler = Scheduler()
    broken: Callable[..., Any] = failing
    setattr(scheduler, attribute, broken)
    scheduler.add_request(Request("a", 4, max_tokens=3))
    assert len(run(scheduler)) == 3
    assert not scheduler.requests


def test_a_request_that_fails_the_scheduler_is_not_hidden(attached: Probe) -> None:
    scheduler = Scheduler()
    scheduler.add_request(Request("a", 4))
    output = scheduler.schedule()
    output.before.clear()
    with pytest.raises(KeyError):
        scheduler.update_from_output(output)
    assert attached.ring.of("step") == []
