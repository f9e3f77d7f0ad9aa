"""SGLang's scheduler hooks against its event loops: every record of a known mix, by hand."""

import functools
import sys
import types
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from sglang_doubles import POOL, Mode, Req, ScheduleBatch, Scheduler, item
from sglang_doubles import engine as engine  # a fixture

from vtprof_schemas import names
from vtprof_schemas.names import request_number


def only(rows: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in keys) for row in rows]


def run(scheduler: Scheduler, turns: int, overlapped: bool = False) -> None:
    for _ in range(turns):
        scheduler.step_overlapped() if overlapped else scheduler.step()


def test_a_prompt_with_images_in_two_chunks(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    # 150 tokens: an image at 10..49 (40 tokens, 4 x 16 = 160 patches) and one at 90..119 that the chunks of 100 cut.
    req = Req("a", 150, output=3, items=[item(10, 49, (1, 16, 10)), item(90, 119, (1, 8, 15))])
    scheduler._add_request_to_queue(req)
    run(scheduler, 4)
    first, last = engine.ring.of("prefill")
    assert only(
        [first, last], "step", "tokens", "visual_tokens", "context_tokens", "cached_tokens", "last"
    ) == [
        (1, 100, 50, 0, 0, 0),
        (2, 50, 20, 100, 0, 1),
    ]
    assert first["attention_pairs"] == sum(range(1, 101))
    assert last["attention_pairs"] == sum(range(101, 151))
    # A query at position p sees p + 1 keys.
    assert first["visual_attention_pairs"] == sum(p + 1 for p in [*range(10, 50), *range(90, 100)])
    assert last["visual_attention_pairs"] == sum(p + 1 for p in range(100, 120))
    # Both are encoded with the first chunk, which touches both; the second finds the one it goes on with: no hit.
    encode = engine.ring.one("encode")
    assert (encode["step"], encode["request"], encode["items"], encode["cache_hits"]) == (
        1,
        request_number("a"),
        2,
        0,
    )
    assert (encode["patches"], encode["attention_pairs"]) == (160 + 120, 160**2 + 120**2)
    steps = engine.ring.of("step")
    assert only(
        steps, "step", "prefill_tokens", "decode_requests", "decode_context_tokens", "decode_visual_tokens"
    ) == [
        (1, 100, 0, 0, 0),
        (2, 50, 0, 0, 0),
        (3, 0, 1, 150, 70),
        (4, 0, 1, 151, 70),
    ]
    assert steps[0]["encode_ns"] == encode["end_ns"] - encode["start_ns"] > 0 and steps[1]["encode_ns"] == 0
    # Computed tokens are in use; the 64 that the prefix cache could give up are not. The last step ends with none.
    assert only(steps, "kv_used_tokens", "kv_used_blocks", "kv_visual_tokens", "running", "waiting") == [
        (100, 7, 50, 1, 0),
        (150, 10, 70, 1, 0),
        (151, 10, 70, 1, 0),
        (0, 0, 0, 1, 0),
    ]
    left = engine.ring.one("left")
    assert (left["request"], left["step"], left["output_tokens"]) == (request_number("a"), 4, 3)
    kinds = [kind for kind, _ in engine.ring.rows]
    assert kinds == ["encode", "queue", "prefill", "step", "prefill", "step", "step", "step", "left"]


def test_a_waiting_request_queues_until_its_step_begins(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    scheduler._add_request_to_queue(Req("a", 10))
    asked = engine.clock.now
    run(scheduler, 1)
    queue, step = engine.ring.one("queue"), engine.ring.one("step")
    assert queue["start_ns"] == asked and queue["end_ns"] == step["start_ns"] > asked


def test_prefix_hits_are_cached_tokens_and_known_images_are_encoder_hits(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    images = [item(10, 29, (1, 4, 20)), item(40, 59, (1, 8, 10))]
    scheduler._add_request_to_queue(Req("a", 80, output=1, items=images[:1]))
    run(scheduler, 1)
    # The second asks with the first image again, and 8 of its tokens in the prefix cache.
    again = Req("b", 80, output=1, items=[item(10, 29, (1, 4, 20)), images[1]])
    again.cached = 8
    scheduler._add_request_to_queue(again)
    run(scheduler, 1)
    _, second = engine.ring.of("prefill")
    assert (second["tokens"], second["context_tokens"], second["cached_tokens"], second["last"]) == (
        72,
        8,
        8,
        1,
    )
    assert second["attention_pairs"] == sum(range(9, 81))
    assert only(engine.ring.of("encode"), "step", "items", "patches", "cache_hits") == [
        (1, 1, 80, 0),
        (2, 1, 80, 0),
        (2, 0, 0, 1),
    ]


def test_a_whole_image_in_the_prefix_cache_is_neither_encoded_nor_a_hit(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    req = Req("a", 80, output=2, items=[item(10, 29, (1, 4, 20))])
    req.cached = 30
    scheduler._add_request_to_queue(req)
    run(scheduler, 1)
    assert engine.ring.of("encode") == []
    # Its keys and values are in the cache all the same.
    assert (
        engine.ring.one("prefill")["visual_tokens"] == 0 and engine.ring.one("step")["kv_visual_tokens"] == 20
    )


def test_items_of_several_requests_in_one_encoder_call_go_to_their_own(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    scheduler._add_request_to_queue(Req("a", 40, items=[item(0, 9, (1, 4, 10))]))
    scheduler._add_request_to_queue(Req("b", 40, items=[item(0, 9, (1, 8, 10)), item(20, 29, (1, 2, 10))]))
    run(scheduler, 1)
    assert only(engine.ring.of("encode"), "request", "items", "patches") == [
        (request_number("a"), 1, 40),
        (request_number("b"), 2, 100),
    ]
    # One run of the encoder: its wall time counts once in the step.
    encode = engine.ring.of("encode")[0]
    assert engine.ring.one("step")["encode_ns"] == encode["end_ns"] - encode["start_ns"]


def test_overlapped_steps_do_not_overlap_in_the_records(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    scheduler._add_request_to_queue(Req("a", 50, output=3))
    run(scheduler, 6, overlapped=True)
    steps = engine.ring.of("step")
    # The fourth step was launched before the third one's result told that the request is finished: it ran for nothing.
    assert only(steps, "step", "prefill_tokens", "decode_requests", "decode_context_tokens") == [
        (1, 50, 0, 0),
        (2, 0, 1, 50),
        (3, 0, 1, 51),
        (4, 0, 1, 52),
    ]
    for before, after in pairwise(steps):
        assert before["start_ns"] < before["end_ns"] == after["start_ns"]
    left = engine.ring.one("left")
    # It left behind the step that ran for nothing, at the time when it was known to be finished.
    assert left["step"] == 4 and left["output_tokens"] == 3
    assert left["time_ns"] == steps[2]["end_ns"]
    assert [kind for kind, _ in engine.ring.rows][-2:] == ["step", "left"]


def test_a_retracted_request_is_preempted_queues_and_is_computed_again(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    keeps, loses = Req("a", 30, output=9), Req("b", 20, output=9, items=[item(0, 9, (1, 4, 10))])
    for req in (keeps, loses):
        scheduler._add_request_to_queue(req)
    run(scheduler, 2)
    assert engine.ring.of("step")[-1]["decode_visual_tokens"] == 10
    scheduler.retract()
    run(scheduler, 2)
    preempted = engine.ring.one("preempted")
    assert (preempted["request"], preempted["step"]) == (request_number("b"), 3)
    # Its prompt of 20 and 2 tokens of output; the encoder's output is in the cache, and it is no new item.
    again = engine.ring.of("prefill")[-1]
    assert (again["step"], again["request"], again["tokens"], again["last"]) == (
        3,
        request_number("b"),
        22,
        1,
    )
    queue = engine.ring.of("queue")[-1]
    assert queue["request"] == request_number("b") and queue["start_ns"] == preempted["time_ns"]
    steps = engine.ring.of("step")
    assert only(steps, "preemptions", "decode_requests", "decode_visual_tokens", "kv_visual_tokens") == [
        (0, 0, 0, 10),
        (0, 2, 10, 10),
        (1, 0, 0, 10),
        (0, 2, 10, 10),
    ]


def test_a_request_whose_place_is_taken_by_one_of_higher_priority_is_preempted(engine: Any) -> None:
    """Then SGLang puts it back into the queue without retract_decode."""
    engine.attach()
    scheduler = Scheduler()
    req = Req("a", 30, output=9)
    scheduler._add_request_to_queue(req)
    run(scheduler, 2)
    scheduler.running.remove(req)
    req.computed = 0
    scheduler._add_request_to_queue(req)
    run(scheduler, 1)
    preempted = engine.ring.one("preempted")
    assert (preempted["request"], preempted["step"]) == (request_number("a"), 3)
    assert engine.ring.of("queue")[-1]["start_ns"] == preempted["time_ns"]
    assert engine.ring.of("step")[-1]["preemptions"] == 1


def test_a_mixed_batch_counts_its_decoding_rows_as_such(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    scheduler._add_request_to_queue(Req("a", 30, output=9))
    run(scheduler, 2)
    scheduler._add_request_to_queue(Req("b", 40, output=9))
    scheduler.step(mixed=True)
    prefill, step = engine.ring.of("prefill")[-1], engine.ring.of("step")[-1]
    assert (prefill["request"], prefill["tokens"]) == (request_number("b"), 40)
    assert (step["prefill_tokens"], step["decode_requests"], step["decode_context_tokens"]) == (40, 1, 31)


def test_only_who_does_not_stream_gets_its_first_token_here(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler()
    for rid, stream, output in (("streams", True, 2), ("waits", False, 2), ("prefix", False, 0)):
        scheduler._add_request_to_queue(Req(rid, 10, output=output, stream=stream))
    run(scheduler, 2)
    first = engine.ring.one("first_token")
    assert (
        first["request"] == request_number("waits")
        and first["time_ns"] == engine.ring.of("step")[0]["end_ns"]
    )


def test_idle_batches_are_no_steps_and_keep_the_count(engine: Any) -> None:
    """With data-parallel attention a scheduler without work runs along with the others."""
    engine.attach()
    scheduler = Scheduler(attn_dp_rank=2)
    idle = ScheduleBatch([], Mode.IDLE)
    scheduler.process_batch_result(idle, scheduler.run_batch(idle))
    scheduler._add_request_to_queue(Req("a", 10))
    run(scheduler, 1)
    assert engine.ring.one("step")["step"] == 2 << 48 | 2


def test_a_rank_that_does_not_report_writes_its_encodes_only(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler(tp_rank=1, attn_tp_rank=1)
    scheduler._add_request_to_queue(Req("a", 40, output=2, items=[item(0, 9, (1, 4, 10))]))
    run(scheduler, 3)
    assert [kind for kind, _ in engine.ring.rows] == ["encode"]
    assert engine.ring.one("encode")["step"] == 1
    assert (engine.ring.info[names.ROLE], engine.ring.info[names.RANK]) == ("worker", 1)


class Context:
    """As SGLang's: what is not set raises an error of its own."""

    tp_rank, attn_tp_rank, attn_dp_rank, pp_rank = 5, 0, 1, 0

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"parallel name {name!r} has not been written in this process")


@pytest.mark.parametrize("place", ["ps", "context"])
def test_ranks_are_found_where_the_version_keeps_them(
    engine: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = types.ModuleType("sglang.srt.runtime_context")
    vars(context)["get_parallel"] = Context
    monkeypatch.setitem(sys.modules, context.__name__, context)
    engine.attach()
    scheduler = Scheduler(**({"ps": Context()} if place == "ps" else {}))
    for name in ("tp_rank", "pp_rank", "dp_rank", "attn_tp_rank", "attn_dp_rank"):
        delattr(scheduler, name)
    scheduler._add_request_to_queue(Req("a", 10))
    run(scheduler, 1)
    assert engine.ring.one("step")["step"] == 1 << 48 | 1
    assert (engine.ring.info[names.ROLE], engine.ring.info[names.RANK]) == ("engine", 5)


def test_a_pooling_model_has_steps_and_no_tokens(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler(is_generation=False)
    scheduler._add_request_to_queue(Req("a", 10, output=1, stream=False))
    run(scheduler, 1)
    assert engine.ring.of("first_token") == [] and engine.ring.one("step")["prefill_tokens"] == 10
    assert engine.ring.one("left")["request"] == request_number("a")


class Speculating(Scheduler):
    """One with an algorithm that drafts; that requests gain a token a step all the same makes no difference here."""

    def __init__(self, algorithm: SimpleNamespace, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.algorithm = algorithm

    def next_batch(self, mixed: bool = False) -> ScheduleBatch | None:
        batch = super().next_batch(mixed)
        if batch is not None:
            batch.spec_algorithm = self.algorithm
        return batch


def speculation(**answers: bool) -> SimpleNamespace:
    told = {"is_none": False, **answers}
    return SimpleNamespace(**{name: functools.partial(bool, answer) for name, answer in told.items()})


def decode_tokens(engine: Any, scheduler: Scheduler) -> list[int]:
    engine.attach()
    for rid in "ab":
        scheduler._add_request_to_queue(Req(rid, 20, output=4))
    run(scheduler, 3)
    assert [row["decode_requests"] for row in engine.ring.of("step")] == [0, 2, 2]
    return [row["decode_tokens"] for row in engine.ring.of("step")]


def test_tokens_of_decode_are_one_each_without_speculation(engine: Any) -> None:
    assert decode_tokens(engine, Scheduler()) == [0, 2, 2]


@pytest.mark.parametrize("holder", ["draft_worker", "server_args"])
def test_tokens_of_decode_are_those_that_the_worker_verifies(engine: Any, holder: str) -> None:
    scheduler = Speculating(speculation(supports_ragged_verify=False), draft_worker=SimpleNamespace())
    getattr(scheduler, holder).speculative_num_draft_tokens = 4
    assert decode_tokens(engine, scheduler) == [0, 8, 8]


def test_a_result_knows_better_how_many_tokens_were_verified(engine: Any) -> None:
    scheduler = Speculating(speculation(), draft_worker=SimpleNamespace(speculative_num_draft_tokens=4))
    widths = iter((4, 2, 7))
    scheduler.result = lambda: SimpleNamespace(speculative_num_draft_tokens=next(widths))
    assert decode_tokens(engine, scheduler) == [0, 4, 14]


@pytest.mark.parametrize("question", ["supports_ragged_verify", "is_uno"])
def test_tokens_of_decode_are_unknown_where_requests_differ(engine: Any, question: str) -> None:
    worker = SimpleNamespace(speculative_num_draft_tokens=4)
    scheduler = Speculating(speculation(**{question: True}), draft_worker=worker)
    scheduler.result = lambda: SimpleNamespace(speculative_num_draft_tokens=4)
    assert decode_tokens(engine, scheduler) == [0, -1, -1]


def test_tokens_of_decode_are_unknown_where_no_width_is_told(engine: Any) -> None:
    assert decode_tokens(engine, Speculating(speculation())) == [0, -1, -1]


def test_who_decodes_beside_a_prompt_computes_one_token(engine: Any) -> None:
    engine.attach()
    scheduler = Speculating(speculation(), draft_worker=SimpleNamespace(speculative_num_draft_tokens=4))
    scheduler._add_request_to_queue(Req("a", 20, output=4))
    run(scheduler, 1)
    scheduler._add_request_to_queue(Req("b", 30, output=4))
    scheduler.step(mixed=True)
    last = engine.ring.of("step")[-1]
    assert (last["prefill_tokens"], last["decode_requests"], last["decode_tokens"]) == (30, 1, 1)


@pytest.mark.parametrize("overlapped", [False, True])
def test_hooks_set_under_way_take_up_who_decodes_and_leave_the_rest_alone(
    engine: Any, overlapped: bool
) -> None:
    scheduler = Scheduler()
    scheduler._add_request_to_queue(Req("a", 50, output=9, items=[item(0, 19, (1, 4, 20))]))
    run(scheduler, 3, overlapped)
    engine.attach()
    run(scheduler, 2, overlapped)
    steps = engine.ring.of("step")
    # Steps 1 to 3 ran unseen: the next ones carry the scheduler's own count and lengths.
    assert only(steps, "step", "decode_requests", "decode_context_tokens", "decode_visual_tokens", "running")[0] == (
        4, 1, 52, 20, 1,
    )  # fmt: skip
    # Under the overlap schedule the result of step 3 comes first and belongs to none that was seen.
    assert len(steps) == (1 if overlapped else 2)
    engine.detach()
    run(scheduler, 3, overlapped)
    assert len(engine.ring.of("step")) == len(steps)


def test_the_attributes_name_model_ranks_and_cache(engine: Any) -> None:
    engine.attach()
    scheduler = Scheduler(max_running_requests=48)
    scheduler._add_request_to_queue(Req("a", 10))
    run(scheduler, 1)
    info = engine.ring.info
    expected = {
        names.ENGINE_NAME: "sglang", names.ENGINE_VERSION: "0.5.23", names.ROLE: "engine", names.RANK: 0,
        names.REQUEST_MODEL: "tiny", names.WEIGHTS_DTYPE: "bfloat16", names.KV_DTYPE: "bfloat16",
        names.KV_BLOCK_TOKENS: 16, names.KV_CAPACITY_TOKENS: POOL, names.PARALLEL_TP: 1,
        names.ENGINE_CONFIG: '{"max_running_requests": 48, "schedule_policy": "lpm"}',
    }  # fmt: skip
    assert {key: info.get(key) for key in expected} == expected
    assert '"model_type": "qwen2_5_vl"' in info[names.MODEL_CONFIG]
