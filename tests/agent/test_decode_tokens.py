"""Tokens that decode computes, drafts included: from the ring, also of older probes, to spans, work and GPU time."""

import struct
import zlib
from math import exp
from typing import Any

import pytest
from ring_records import Row, arrived, finished, gpu_time, make, only, prefill, step, step_facts

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.counters.meter import COUNTERS, StepCounters, Work
from vtprof_agent.counters.unit_costs import OFF, Trust, UnitCosts
from vtprof_agent.counters.work_curve import CLASS_COLUMNS, COLUMNS, row_of
from vtprof_agent.facts import FinishedRequest, StepFact
from vtprof_agent.inbox import decoder
from vtprof_agent.step_work import Measures
from vtprof_agent.windows import Folding
from vtprof_schemas import names, records

OLD_STEP = struct.Struct("<HHQQqqqqqqqqqiiii16x")
"""A STEP record as it was before it told tokens: kind, flags, sequence; step, two times, seven counts; four small ones."""
OLD_VALUES = (7, 100, 200, 30, 2, 50, 20, 5, 82, 40, 6, 3, 1, 0)
TOLD = names.STEP_DECODE_TOKENS


class Listener:
    """A meter that knows no counter, and keeps what it is told."""

    def __init__(self) -> None:
        self.works: list[Work] = []

    def add(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> None:
        self.works.append(work)

    def await_step(self, gpus: tuple[str, ...], line: int, awaited: bool) -> None:
        pass

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        return True

    def of(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> StepCounters | None:
        return None

    def of_run(self, gpus: tuple[str, ...], works: Any, line: int = 0) -> StepCounters | None:
        return None


def told(rows: list[Row]) -> tuple[list[StepFact], list[Work], list[FinishedRequest]]:
    meter = Listener()
    machine = Assembly(AssemblySettings(), expects_gpu_time=True, measures=Measures(meter))
    machine.steps.gpus[0] = ("GPU-a",)
    for sequence, (code, values) in enumerate(rows, start=1):
        machine.feed(code, sequence, values, 0)
    machine.advance(10_000_000_000)
    return step_facts(machine), meter.works, machine.take_requests()


def attributes(facts: list[StepFact], detail: int = 3) -> list[dict[str, Any]]:
    folding = Folding(detail=detail)
    for fact in facts:
        folding.add(fact)
    folding.close()
    return [span.attributes for span in folding.take()]


def sealed(body: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(body)) + body


def test_a_record_of_an_older_probe_tells_all_but_the_tokens() -> None:
    record = sealed(OLD_STEP.pack(records.STEP.code, 0, 5, *OLD_VALUES))
    assert len(record) == records.RECORD_BYTES
    read = decoder.decode(record)
    assert read is not None
    assert (read.sequence, read.values[: len(OLD_VALUES)]) == (5, OLD_VALUES)
    (fact,), (work,), _ = told([(records.STEP.code, read.values)])
    assert TOLD not in fact.sums, "nothing is known of drafts"
    assert fact.sums[names.STEP_DECODE_REQUESTS] == 2
    assert (work.decode_requests, work.decode_tokens) == (2, 0)


def test_an_older_agent_reads_a_record_of_this_probe() -> None:
    body = records.STEP.packer.pack(records.STEP.code, 0, 5, *OLD_VALUES, 8)
    assert OLD_STEP.unpack(body) == (records.STEP.code, 0, 5, *OLD_VALUES)


@pytest.mark.parametrize(
    ("requests", "tokens", "known"),
    [
        (3, 12, 12),
        (3, 3, 3),
        (3, -1, None),
        (3, 0, None),  # an older probe, or what cannot be
        (3, 2, None),  # each computes one at least
        (0, 0, 0),
        (-1, -1, None),
    ],
)
def test_what_a_step_says_of_its_tokens(requests: int, tokens: int, known: int | None) -> None:
    (fact,), (work,), _ = told([step(1, 0, 10, decoders=requests, decode_tokens=tokens)])
    assert fact.sums.get(TOLD) == known
    assert work.decode_tokens == (known or 0)


def window(*tokens: int) -> list[dict[str, Any]]:
    steps = [
        step(i, 10 * i, 10 * i + 9, decoders=2, decode_tokens=count)
        for i, count in enumerate(tokens, start=1)
    ]
    return attributes(told(steps)[0])


def test_a_window_adds_up_the_tokens_of_its_iterations() -> None:
    (found,) = window(2, 8, 5)
    assert (found[names.STEP_DECODE_REQUESTS], found[TOLD]) == (6, 15)


def test_a_window_with_an_iteration_that_does_not_tell_says_nothing() -> None:
    (found,) = window(2, -1, 5)
    assert found[names.STEP_DECODE_REQUESTS] == 6
    assert TOLD not in found


def test_iterations_without_decode_take_nothing_from_a_folded_window() -> None:
    rows = [
        prefill(1, 1, tokens=30),
        step(1, 0, 10, decoders=0, prefill_tokens=30),  # tells nothing, and none decoded
        step(2, 10, 20, decoders=2, decode_tokens=8),
    ]
    (found,) = attributes(told(rows)[0], detail=2)
    assert (found[names.STEP_COUNT], found[TOLD]) == (2, 8)


def mixed(tokens: int) -> list[Row]:
    """A prompt of 9 tokens beside a request that decodes, 100 ns on a GPU."""
    return [
        arrived(1, 0), prefill(1, 1, tokens=1), step(1, 0, 10, prefill_tokens=1), gpu_time(1, 9),
        arrived(2, 0), prefill(2, 2, tokens=9),
        step(2, 10, 110, decoders=1, prefill_tokens=9, decode_context_tokens=1, decode_tokens=tokens), gpu_time(2, 100),
        finished(1, 120, 2), finished(2, 120, 1),
    ]  # fmt: skip


def gpu_times(rows: list[Row]) -> tuple[Any, Any]:
    one, two = sorted(told(rows)[2], key=lambda request: request.ref)
    found = only(two, names.PREFILL), only(one, names.DECODE)
    return found[0].attributes[names.GPU_TIME_NS], found[1].attributes[names.GPU_TIME_NS]


def test_gpu_time_is_split_by_the_tokens_that_each_class_computed() -> None:
    # 100 by 9 tokens and 1; with two drafts verified by 9 and 3.
    assert gpu_times(mixed(1)) == gpu_times(mixed(-1)) == (90, 10)
    assert gpu_times(mixed(3)) == (75, 25)


def test_what_one_request_s_tokens_are_is_not_rounded() -> None:
    """Three tokens of two requests, one and a half each, beside a prompt of 9: of 120 ns 90, 15 and 15."""
    rows = [
        arrived(1, 0), arrived(2, 0), prefill(1, 1, tokens=1), prefill(1, 2, tokens=1), step(1, 0, 10, prefill_tokens=2),
        gpu_time(1, 9), arrived(3, 0), prefill(2, 3, tokens=9),
        step(2, 10, 110, decoders=2, prefill_tokens=9, decode_context_tokens=2, decode_tokens=3), gpu_time(2, 120),
        finished(1, 120, 2), finished(2, 120, 2), finished(3, 120, 1),
    ]  # fmt: skip
    found = sorted(told(rows)[2], key=lambda request: request.ref)
    times = [only(request, names.DECODE).attributes[names.GPU_TIME_NS] for request in found[:2]]
    assert times == [15, 15]
    assert only(found[2], names.PREFILL).attributes[names.GPU_TIME_NS] == 90


def test_columns_of_work_count_tokens_and_split_a_weight_read_by_them() -> None:
    row = row_of(Work(0, 10, prefill_tokens=24, prefill_pairs=300, decode_requests=2, decode_tokens=8))
    # Behind three of the encoder: tokens, pairs, weights, experts of prefill; context, tokens, weights of decode.
    assert row[3:6] == (24.0, 300.0, 0.75)
    assert row[12:15] == (0.0, 8.0, 0.25)
    assert row[6] == pytest.approx(0.75 * (1 - exp(-32 / 4)))
    assert row_of(Work(0, 10, decode_requests=2))[13] == 2.0, "one each where nothing is told"


def test_drafting_is_work_of_decode_alone() -> None:
    """A step that verifies drafts holds one run of what drafts them, beside a prompt as well; others hold none."""
    beside = {"prefill_tokens": 24, "decode_requests": 2, "decode_context_tokens": 9}
    rows = [row_of(Work(0, 10, decode_tokens=tokens, **beside)) for tokens in (8, 2, 0)]
    alone = [row_of(Work(0, 10, decode_requests=2, decode_tokens=tokens)) for tokens in (3, 2, 0)]
    assert [row[21] for row in rows] == [row[21] for row in alone] == [1.0, 0.0, 0.0]
    assert CLASS_COLUMNS[2].stop == 22


def test_a_step_s_shares_go_by_tokens_like_its_columns() -> None:
    """A unit of a decode token was given 2 over 100 ns of one GPU: eight tokens 16 / 100, two requests 4 / 100."""
    row = [0.0] * COLUMNS + [0.0, 0.0, 100.0, 0.0, 100.0, 0.0]
    row[13] = 200.0
    assert len(row) == OFF + 1
    sure = Trust.of((0.0,) * 3, (0.01,) * 3, (True,) * 3, (0.0,) * COLUMNS, (0.0,) * 3)
    costs = UnitCosts.of_stretch([row] * len(COUNTERS), 100.0, [sure] * len(COUNTERS))
    assert costs is not None
    for requests, tokens, amount in ((2, 8, 16.0), (2, 2, 4.0), (2, 0, 4.0)):
        work = Work(0, 100, decode_requests=requests, decode_tokens=tokens)
        shares = costs.shares(work).shares
        assert {key: share[2].amount for key, share in shares.items()} == pytest.approx(
            dict.fromkeys(COUNTERS, amount)
        )


def test_a_record_stays_within_its_128_bytes() -> None:
    assert make(records.STEP)[1][-1] == records.UNKNOWN
    assert records.STEP.packer.size + records.CRC.size == records.RECORD_BYTES == 128
    assert records.STEP.field_names[-1] == "decode_tokens"
