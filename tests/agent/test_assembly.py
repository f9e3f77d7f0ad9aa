"""Records to requests: every expected number can be checked by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st
from ring_records import (
    SINGLE,
    arrived,
    assemble,
    encode,
    finished,
    first_token,
    gpu_time,
    make,
    needed,
    only,
    preempted,
    prefill,
    preprocess,
    prompt,
    queue,
    shape,
    step,
    step_facts,
)

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.decoding import Decoding
from vtprof_agent.request_state import KvCosts, RequestState
from vtprof_schemas import names, records


def test_a_single_request_has_its_phases_where_the_records_say() -> None:
    requests, _, _ = assemble(SINGLE)
    request = requests["1"]
    assert (request.start_ns, request.end_ns) == (100, 225)
    # The encoder began at 165 in a step that began at 160: these 5 ns belong to no phase. Decode runs from the end
    # of the prefill step, through both decode steps.
    assert shape(request) == [
        ("preprocess", 100, 150), ("queue", 150, 160), ("encode", 165, 180), ("prefill", 180, 200), ("decode", 200, 220),
    ]  # fmt: skip
    assert request.attributes[names.TTFT_NS] == 101
    assert request.attributes[names.INPUT_TOKENS] == 30
    assert request.attributes[names.OUTPUT_TOKENS] == 3
    assert only(request, names.DECODE).attributes[names.DECODE_STEPS] == 2
    assert only(request, names.PREFILL).attributes[names.PREFILL_TOKENS] == 30
    assert only(request, names.ENCODE).attributes[names.ENCODE_PATCHES] == 80


def test_kv_bytes_count_every_token_but_the_last_generated_one() -> None:
    machine = Assembly(AssemblySettings(), expects_gpu_time=False)
    machine.requests.kv[0] = KvCosts(bytes_per_token=100, fixed_bytes=7)
    requests, _, _ = assemble(SINGLE, assembly=machine)
    # (30 + 3 - 1) x 100 + 7, and 20 visual tokens x 100
    assert requests["1"].attributes[names.KV_BYTES] == 3207
    assert requests["1"].attributes[names.KV_VISUAL_BYTES] == 2000


def test_kv_bytes_are_left_out_when_the_engine_does_not_tell() -> None:
    requests, _, _ = assemble(SINGLE)
    assert names.KV_BYTES not in requests["1"].attributes
    assert names.KV_VISUAL_BYTES not in requests["1"].attributes


def test_unknown_fields_become_no_attribute() -> None:
    requests, _, _ = assemble(SINGLE)
    # The probe did not tell fetch and decode times: both were -1.
    assert names.PREPROCESS_FETCH_NS not in only(requests["1"], names.PREPROCESS).attributes
    assert all(not isinstance(v, int) or v >= 0 for p in requests["1"].phases for v in p.attributes.values())


def test_a_batch_of_two_shares_a_step_by_tokens_with_largest_remainder() -> None:
    rows = [
        arrived(1, 0), arrived(2, 0),
        prefill(1, 1, tokens=1), prefill(1, 2, tokens=2), step(1, 10, 20, prefill_tokens=3),
        step(2, 20, 30, decoders=2),
        gpu_time(1, 10), gpu_time(2, 5),
        finished(1, 31, 2), finished(2, 31, 2),
    ]  # fmt: skip
    requests, _, _ = assemble(rows, expects_gpu_time=True)
    shares = {
        (rid, p.phase): (p.attributes[names.GPU_TIME_NS], p.attributes[names.GPU_TIME_QUALITY])
        for rid, request in requests.items()
        for p in request.phases
    }
    # 10 by 1:2 is 3.33 and 6.67: the larger remainder gets the odd one. 5 by 1:1: the earlier one gets it.
    assert shares == {
        ("1", "prefill"): (3, "attributed"), ("2", "prefill"): (7, "attributed"),
        ("1", "decode"): (3, "attributed"), ("2", "decode"): (2, "attributed"),
    }  # fmt: skip


def test_the_encoder_part_of_gpu_time_goes_by_patches() -> None:
    rows = [
        arrived(1, 0), arrived(2, 0),
        encode(1, 1, 0, 5, patches=30), encode(1, 2, 0, 5, patches=10),
        prefill(1, 1, tokens=5), prefill(1, 2, tokens=5),
        step(1, 0, 20, prefill_tokens=10, encode_ns=5), gpu_time(1, 18, 8), finished(1, 20, 1), finished(2, 20, 1),
    ]  # fmt: skip
    requests, _, _ = assemble(rows, expects_gpu_time=True)
    assert only(requests["1"], names.ENCODE).attributes[names.GPU_TIME_NS] == 6
    assert only(requests["2"], names.ENCODE).attributes[names.GPU_TIME_NS] == 2
    assert only(requests["1"], names.PREFILL).attributes[names.GPU_TIME_NS] == 5


def test_gpu_time_of_a_lone_request_is_measured() -> None:
    rows = [*SINGLE[:-1], gpu_time(1, 30, 12), gpu_time(2, 4), gpu_time(3, 4), SINGLE[-1]]
    requests, _, _ = assemble(rows, expects_gpu_time=True)
    found = {
        p.phase: (p.attributes.get(names.GPU_TIME_NS), p.attributes.get(names.GPU_TIME_QUALITY))
        for p in requests["1"].phases
    }
    assert found["encode"] == (12, "measured")
    assert found["prefill"] == (18, "measured")
    assert found["decode"] == (8, "measured")


def test_gpu_time_may_come_late_and_then_the_request_goes_without() -> None:
    machine = Assembly(AssemblySettings(gpu_time_hold_ns=2_000), expects_gpu_time=True)
    for sequence, (code, values) in enumerate(SINGLE, start=1):
        machine.feed(code, sequence, values, 1_000)
    machine.advance(2_999)
    assert machine.take_requests() == []
    assert step_facts(machine) == []
    machine.feed(*gpu_time(1, 30)[:1], 12, gpu_time(1, 30)[1], 2_999)
    machine.advance(3_000 + 200_000_000)
    (request,) = machine.take_requests()
    # The image step has its 30 (15 of 40 ns of its wall time were the encoder's: 11), the decode steps have none.
    assert only(request, names.PREFILL).attributes[names.GPU_TIME_NS] == 19
    assert only(request, names.PREFILL).attributes[names.GPU_TIME_QUALITY] == "estimated"
    assert names.GPU_TIME_NS not in only(request, names.DECODE).attributes
    machine.feed(*gpu_time(2, 4)[:1], 13, gpu_time(2, 4)[1], 4_000)
    assert machine.counts.late_gpu_times == 1


def test_chunks_that_touch_are_one_prefill_span_and_a_gap_is_left_open() -> None:
    rows = [
        arrived(1, 0),
        prefill(1, 1, tokens=8, last=0), step(1, 10, 20, prefill_tokens=8),
        prefill(2, 1, tokens=8, last=0), step(2, 20, 30, prefill_tokens=8),
        prefill(3, 1, tokens=4, last=1), step(3, 33, 40, prefill_tokens=4),
        first_token(1, 40), finished(1, 40, 1),
    ]  # fmt: skip
    requests, _, _ = assemble(rows)
    assert shape(requests["1"]) == [("prefill", 10, 30), ("prefill", 33, 40)]
    first, second = requests["1"].phases
    assert (first.attributes[names.PREFILL_CHUNKS], first.attributes[names.PREFILL_TOKENS]) == (2, 16)
    assert (second.attributes[names.PREFILL_CHUNKS], second.attributes[names.PREFILL_TOKENS]) == (1, 4)


def test_an_encode_between_two_chunks_parts_the_prefill() -> None:
    rows = [
        arrived(1, 0),
        prefill(1, 1, tokens=8, last=0), step(1, 10, 20, prefill_tokens=8),
        encode(2, 1, 20, 26), prefill(2, 1, tokens=8, last=1), step(2, 20, 30, prefill_tokens=8, encode_ns=6),
        finished(1, 30, 1),
    ]  # fmt: skip
    requests, _, _ = assemble(rows)
    assert shape(requests["1"]) == [("prefill", 10, 20), ("encode", 20, 26), ("prefill", 26, 30)]


def test_after_a_preemption_the_phases_appear_again() -> None:
    rows = [
        arrived(1, 0),
        prefill(1, 1, tokens=8), step(1, 0, 10, prefill_tokens=8), first_token(1, 10),
        step(2, 10, 14, decoders=1), preempted(1, 3, 14), queue(1, 14, 30),
        prefill(4, 1, tokens=9), step(4, 30, 40, prefill_tokens=9), step(5, 40, 44, decoders=1), finished(1, 44, 3),
    ]  # fmt: skip
    requests, _, _ = assemble(rows)
    assert shape(requests["1"]) == [
        ("prefill", 0, 10), ("decode", 10, 14), ("queue", 14, 30), ("prefill", 30, 40), ("decode", 40, 44),
    ]  # fmt: skip
    decodes = [p.attributes for p in requests["1"].phases if p.phase == names.DECODE]
    assert [d[names.DECODE_PREEMPTIONS] for d in decodes] == [1, 0]
    assert requests["1"].attributes[names.TTFT_NS] == 10


def test_a_finish_that_is_recorded_before_its_last_step_still_counts_that_step() -> None:
    rows = [
        arrived(1, 0), prefill(1, 1, tokens=4), step(1, 0, 10, prefill_tokens=4), first_token(1, 10),
        finished(1, 19, 2), step(2, 10, 20, decoders=1), step(3, 20, 30, decoders=0),
    ]  # fmt: skip
    requests, _, _ = assemble(rows)
    decode = only(requests["1"], names.DECODE)
    assert (decode.start_ns, decode.end_ns, decode.attributes[names.DECODE_STEPS]) == (10, 19, 1)


def test_a_request_without_arrival_is_dropped_and_counted_but_keeps_its_share() -> None:
    rows = [
        arrived(2, 0), prefill(1, 1, tokens=3), prefill(1, 2, tokens=1), step(1, 0, 10, prefill_tokens=4), gpu_time(1, 8),
        finished(1, 10, 1), finished(2, 10, 1),
    ]  # fmt: skip
    requests, _, machine = assemble(rows, expects_gpu_time=True)
    assert list(requests) == ["2"]
    assert only(requests["2"], names.PREFILL).attributes[names.GPU_TIME_NS] == 2
    assert machine.counts.requests_without_arrival == 1


def test_a_lost_step_record_costs_the_span_and_not_the_request() -> None:
    rows = [row for row in SINGLE if row[0] != records.STEP.code or row[1][0] != 1]
    requests, _, _ = assemble(rows)
    assert [phase for phase, _, _ in shape(requests["1"])] == ["preprocess", "queue", "encode", "decode"]


def test_open_requests_are_aborted_at_the_last_record_when_the_process_is_gone() -> None:
    machine = Assembly(AssemblySettings())
    for sequence, (code, values) in enumerate(SINGLE[:-1], start=1):
        machine.feed(code, sequence, values, 0)
    machine.close()
    (request,) = machine.take_requests()
    assert request.attributes[names.REQUEST_STATUS] == names.STATUS_ABORTED
    assert request.end_ns == 220
    assert names.OUTPUT_TOKENS not in request.attributes
    assert machine.counts.requests_aborted == 1


def test_the_callers_trace_context_is_kept() -> None:
    parent = make(
        records.REQUEST_PARENT,
        request=1,
        trace_id=bytes(15) + b"\x07",
        span_id=bytes(7) + b"\x09",
        trace_flags=1,
    )
    requests, _, _ = assemble([SINGLE[0], parent, *SINGLE[1:]])
    caller = requests["1"].ref.caller
    assert caller is not None
    assert (caller.trace_id, caller.span_id) == (7, 9)


def test_the_oldest_open_request_is_closed_when_there_are_too_many() -> None:
    machine = Assembly(AssemblySettings(max_open_requests=2))
    for number in (1, 2, 3):
        machine.feed(*arrived(number, number * 10)[:1], number, arrived(number, number * 10)[1], 0)
    (request,) = machine.take_requests()
    assert request.attributes[names.REQUEST_ID] == "1"
    assert machine.counts.requests_evicted == 1


def test_the_cursor_waits_for_the_first_record_of_an_open_request() -> None:
    machine = Assembly(AssemblySettings(), expects_gpu_time=False)
    rows = [arrived(1, 0), arrived(2, 1), finished(1, 2, 0), prompt(2, 4)]
    for sequence, (code, values) in enumerate(rows, start=1):
        machine.feed(code, sequence, values, 0)
    assert needed(machine, 5) == 1
    machine.advance(1_000_000_000)
    assert needed(machine, 5) == 2


_SMALL = st.integers(-2, 60)
_WILD = st.one_of(_SMALL, st.integers(-(2**63), 2**63 - 1))


def _row(kind: records.RecordKind) -> st.SearchStrategy[tuple[int, tuple[object, ...]]]:
    fields: list[st.SearchStrategy[object]] = []
    for name, fmt, _ in kind.fields:
        if name in ("request", "step"):
            fields.append(st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)))
        elif fmt.endswith("s"):
            size = int(fmt[:-1])
            fields.append(st.binary(min_size=size, max_size=size))
        elif fmt == "H" or fmt == "B":
            fields.append(st.integers(0, 255))
        elif fmt == "i":
            fields.append(_SMALL)
        else:
            fields.append(_WILD)
    return st.tuples(st.just(kind.code), st.tuples(*fields))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of([_row(kind) for kind in records.KINDS.values()]), max_size=60), st.booleans())
def test_any_order_of_records_gives_disjoint_phases_within_their_request(
    rows: list[tuple[int, tuple[object, ...]]], expects_gpu_time: bool
) -> None:
    machine = Assembly(AssemblySettings(max_open_requests=4), expects_gpu_time=expects_gpu_time)
    requests = []
    for sequence, (code, values) in enumerate(rows, start=1):
        machine.feed(code, sequence, values, sequence * 1_000_000_000)
        machine.advance(sequence * 1_000_000_000)
        requests += machine.take_requests()
        assert 0 < needed(machine, sequence + 1) <= sequence + 1
        assert machine.requests.open_requests() <= 4
    machine.close()
    for request in [*requests, *machine.take_requests()]:
        position = request.start_ns
        assert request.end_ns >= request.start_ns
        for phase in request.phases:
            assert position <= phase.start_ns <= phase.end_ns <= request.end_ns
            position = phase.end_ns
            assert all(not isinstance(v, int) or 0 <= v < 2**63 for v in phase.attributes.values())


def test_a_phase_without_length_comes_before_the_one_that_covers_it() -> None:
    rows = [arrived(1, 100), preprocess(1, 100, 150), queue(1, 100, 100), finished(1, 200, 0)]
    requests, _, _ = assemble(rows)
    assert shape(requests["1"]) == [(names.QUEUE, 100, 100), (names.PREPROCESS, 100, 150)]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, len(SINGLE) - 1)), st.randoms(use_true_random=False))
def test_dropped_and_doubled_records_never_stretch_a_request(dropped: set[int], random: object) -> None:
    rows = [row for index, row in enumerate(SINGLE) for _ in range(0 if index in dropped else 1 + index % 2)]
    requests, _, _ = assemble(rows)
    if 0 in dropped:
        assert requests == {}
    for request in requests.values():
        assert request.end_ns <= 225
        assert sum(p.end_ns - p.start_ns for p in request.phases) <= request.end_ns - request.start_ns


def test_gpu_shares_add_up_to_the_steps() -> None:
    rows = [*SINGLE[:-1], gpu_time(1, 31, 7), gpu_time(2, 5), gpu_time(3, 11), SINGLE[-1]]
    requests, steps, _ = assemble(rows, expects_gpu_time=True)
    whole = sum(fact.sums[names.GPU_TIME_NS] for fact in steps)
    assert whole == sum(int(p.attributes.get(names.GPU_TIME_NS, 0)) for p in requests["1"].phases) == 47


def test_whoever_finished_before_a_step_is_out_of_it_whenever_that_was_told() -> None:
    early, late, third = (RequestState(number, number, 0) for number in (1, 2, 3))
    early.finished_ns, late.finished_ns, third.finished_ns = 20, 35, 15
    decoding = Decoding()
    decoding.join(1, early, 0)
    decoding.join(2, late, 0)
    assert decoding.of_step(records.UNKNOWN, 25) == (late,)
    assert decoding.of_step(records.UNKNOWN, 40) == ()
    decoding.join(3, third, 0)
    assert decoding.of_step(records.UNKNOWN, 50) == ()
    running = RequestState(4, 4, 0)
    decoding.join(4, running, 0)
    assert decoding.of_step(records.UNKNOWN, 50) == (running,)
    running.finished_ns = 55
    decoding.one_finished()
    assert decoding.of_step(records.UNKNOWN, 60) == ()
