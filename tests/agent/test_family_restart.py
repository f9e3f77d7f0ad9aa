"""However a server's rings are read, and wherever an agent gives way to the next, the traces are the same."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from family_rings import Following, Kept, Line, Server, requests, step_spans
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from ring_records import (
    arrived,
    encode,
    finished,
    first_token,
    left,
    prefill,
    preprocess,
    prompt,
    queue,
    sequence,
    step,
)

from vtprof_agent.align import Alignment

UNTOLD = {"encode_ns": -1}
SCRIPT: tuple[Line, ...] = (
    ("api", arrived(1, 0)),
    ("api", arrived(2, 1)),
    ("api", prompt(2, 8)),
    ("api", preprocess(2, 1, 5)),
    # The second is scheduled first: the first is still being preprocessed.
    ("engine", queue(2, 6, 10)),
    ("worker", encode(1, 2, 12, 15)),
    ("engine", prefill(1, 2, tokens=8)),
    ("engine", step(1, 10, 20, prefill_tokens=8, **UNTOLD)),
    ("api", first_token(2, 21)),
    ("api", preprocess(1, 0, 22)),
    ("engine", step(2, 20, 30, decoders=1, **UNTOLD)),
    ("api", sequence(11, 1)),
    ("api", sequence(12, 1)),
    ("engine", queue(11, 23, 30)),
    ("engine", queue(12, 23, 30)),
    ("worker", encode(3, 11, 31, 36)),
    ("engine", prefill(3, 11, tokens=9)),
    ("engine", prefill(3, 12, tokens=1)),
    ("engine", step(3, 30, 40, decoders=1, prefill_tokens=10, **UNTOLD)),
    ("engine", left(2, 3, 40, 3)),
    ("api", finished(2, 41, 3)),
    ("api", first_token(1, 41)),
    ("engine", step(4, 40, 50, decoders=2, **UNTOLD)),
    ("engine", left(11, 4, 50, 2)),
    ("api", arrived(3, 45)),
    ("engine", step(5, 50, 60, decoders=1, **UNTOLD)),
    ("engine", left(12, 5, 60, 3)),
    ("api", finished(1, 61, 5)),
    ("engine", queue(3, 46, 60)),
    ("engine", prefill(6, 3, tokens=4)),
    ("engine", step(6, 60, 70, prefill_tokens=4, **UNTOLD)),
    ("engine", left(3, 6, 70, 1)),
    ("api", first_token(3, 71)),
    ("api", finished(3, 71, 1)),
)
"""Two that overlap, the first of two sequences, and a third; written in an order that could have been."""
PHASES = {
    "1": [
        ("preprocess", 0, 22),
        ("queue", 22, 30),
        ("encode", 30, 36),
        ("prefill", 36, 40),
        ("decode", 40, 60),
    ],
    "2": [
        ("preprocess", 1, 5),
        ("queue", 5, 10),
        ("encode", 10, 15),
        ("prefill", 15, 20),
        ("decode", 20, 40),
    ],
    "3": [("queue", 45, 60), ("prefill", 60, 70)],
}


@pytest.fixture(autouse=True)
def _monotonic_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Alignment, "from_anchor", classmethod(lambda cls, *_: cls(0)))


def _identity(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def _content(span: ReadableSpan) -> tuple[Any, ...]:
    assert span.attributes is not None
    links = tuple(link.context.span_id for link in span.links)
    return span.name, span.start_time, span.end_time, tuple(sorted(span.attributes.items())), links


def _distinct(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Return each span once; one that was exported again must be the same."""
    found: dict[tuple[int, int], ReadableSpan] = {}
    for span in spans:
        known = found.setdefault(_identity(span), span)
        assert _content(known) == _content(span)
    return list(found.values())


def _check(spans: Sequence[ReadableSpan]) -> None:
    whole = _distinct(spans)
    assert {number: entry["phases"] for number, entry in requests(whole).items()} == PHASES
    iterations = [
        (first, count) for _, first, count, _, _ in sorted(step_spans(whole), key=lambda found: found[1])
    ]
    assert [n for first, count in iterations for n in range(first, first + count)] == [1, 2, 3, 4, 5, 6]
    linked = {link for *_, links in step_spans(whole) for link in links}
    assert linked == {entry["span"].context.span_id for entry in requests(whole).values()}


PACES = (1_000_000, 150_000_000, 1_100_000_000)
"""Time from one record to the next for the agent, ns: all comes at once, as it goes, and with everything due between."""


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.parametrize("at", range(len(SCRIPT) + 1))
def test_an_agent_that_gives_way_anywhere_loses_nothing_and_repeats_the_same(
    tmp_path: Path, at: int, graceful: bool, pace: int
) -> None:
    server, kept = Server(tmp_path, ("api", "engine", "worker")), Kept()
    first = Following(tmp_path, kept=kept)
    first.turn()
    for who, row in SCRIPT[:at]:
        server.write(who, row)
        first.turn(1, pace)
    if graceful:
        first.stop()
    second = Following(tmp_path, kept=Kept())
    second.now_ns = first.now_ns
    second.turn()
    for who, row in SCRIPT[at:]:
        server.write(who, row)
        second.turn(1, pace)
    second.settle()
    assert first.agent._faults.count == second.agent._faults.count == 0
    _check([*first.spans, *second.spans])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=len(SCRIPT), max_size=len(SCRIPT)),
    st.sampled_from(PACES),
    st.sampled_from((1, 2, 4096)),
    st.randoms(use_true_random=False),
)
def test_the_result_does_not_depend_on_when_the_rings_are_read(
    turns: list[int], pace: int, most: int, random: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch("vtprof_agent.loop.READ_RECORDS", most):
        server, agent = Server(Path(folder), ("api", "engine", "worker")), Following(Path(folder))
        agent.turn()
        for (who, row), times in zip(_reordered(random), turns, strict=True):
            server.write(who, row)
            agent.turn(times, pace)
        agent.turn(60, pace)
        agent.settle()
        assert agent.agent._faults.count == 0
        _check(agent.spans)


def _reordered(random: Any) -> Iterator[Line]:
    """Give the script in another order that keeps each process's own and every cause before its effect."""
    waiting = list(SCRIPT)
    while waiting:
        free = [
            place
            for place, (who, _) in enumerate(waiting)
            if all(other != who and not _causes(other, who) for other, _ in waiting[:place])
        ]
        yield waiting.pop(random.choice(free))


def _causes(earlier: str, later: str) -> bool:
    """Tell whether a record of one process may have to come before the other's."""
    return (earlier, later) != ("engine", "worker") and not (earlier == "api" and later == "worker")
