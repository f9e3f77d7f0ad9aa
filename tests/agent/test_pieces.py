"""A message that is too large is halved until its parts are taken, in order, once, and with a bounded number of calls."""

from collections.abc import Iterable

from collectors import NODE, batch, http_collector, span
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.parcel import Parcel, Signal, encode
from vtprof_agent.export.pieces import Pieces, halves
from vtprof_agent.export.transport import Answer
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

TOO_LARGE = Answer(Outcome.REFUSED, "HTTP status 413", too_large=True)


def found(parcel: Parcel) -> list[tuple[bytes, bytes, int]]:
    """Return the spans of a message, each with what is around it."""
    return [
        (
            whole.resource.SerializeToString(deterministic=True) + whole.schema_url.encode(),
            inner.scope.SerializeToString(deterministic=True) + inner.schema_url.encode(),
            int.from_bytes(one.span_id, "big"),
        )
        for whole in ExportTraceServiceRequest.FromString(parcel.message()).resource_spans
        for inner in whole.scope_spans
        for one in inner.spans
    ]


class Endpoint:
    """Takes messages of so many spans at most; gives other answers first."""

    def __init__(self, most: int, answers: Iterable[Answer | None] = ()) -> None:
        self.most = most
        self.answers = list(answers)
        self.taken: list[int] = []
        self.calls = 0

    def send(self, parcel: Parcel) -> Answer:
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            return answer
        if parcel.spans > self.most:
            return TOO_LARGE
        self.taken += [number for _, _, number in found(parcel)]
        return Answer(Outcome.DELIVERED)


def traces(count: int) -> Parcel:
    (parcel,) = encode(Batch(1, [span(number) for number in range(1, count + 1)])).parcels
    return parcel


def goes_on() -> bool:
    return False


PLACES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40)


@settings(max_examples=100, deadline=None)
@given(PLACES)
def test_two_halves_are_the_whole_with_what_is_around_each_span(places: list[tuple[int, int]]) -> None:
    resources = [Resource({"n": n}, f"https://{n}") for n in range(3)]
    scopes = [InstrumentationScope(f"{n}", "1", f"https://{n}") for n in range(3)]
    spans = [
        ReadableSpan(
            "a", SpanContext(1, number, False), resource=resources[r], instrumentation_scope=scopes[s]
        )
        for number, (r, s) in enumerate(places, 1)
    ]
    (whole,) = encode(Batch(7, spans)).parcels
    both = halves(whole)
    assert both is not None
    assert [part.spans for part in both] == [len(spans) // 2, len(spans) - len(spans) // 2]
    assert [len(found(part)) for part in both] == [part.spans for part in both]
    assert found(both[0]) + found(both[1]) == found(whole)
    assert {(part.signal, part.number) for part in both} == {(Signal.TRACES, 7)}


def test_one_span_and_what_is_no_message_have_no_halves() -> None:
    assert halves(traces(1)) is None
    assert halves(Parcel(Signal.TRACES, 1, 2, b"no gzip")) is None


def test_after_a_failure_in_the_middle_only_the_rest_is_sent_again() -> None:
    away = Answer(Outcome.RETRY, "away")
    # 8 and its first 4 are too large; 2 are taken, then it is away.
    endpoint = Endpoint(2, [None, None, None, away])
    pieces, parcel = Pieces("it", endpoint.send), traces(8)
    assert pieces.send(parcel, goes_on) == away
    assert endpoint.taken == [1, 2]
    answer = pieces.send(parcel, goes_on)
    assert (answer.outcome, answer.rejected) == (Outcome.DELIVERED, 0)
    assert endpoint.taken == [*range(1, 9)]


def test_another_message_begins_anew() -> None:
    endpoint = Endpoint(2, [None, None, Answer(Outcome.RETRY)])
    pieces = Pieces("it", endpoint.send)
    pieces.send(traces(4), goes_on)
    endpoint.taken.clear()
    assert pieces.send(traces(3), goes_on).outcome is Outcome.DELIVERED
    assert endpoint.taken == [1, 2, 3]


def test_what_is_rejected_of_the_parts_adds_up() -> None:
    endpoint = Endpoint(4, [None, Answer(Outcome.DELIVERED, "too old", 1), Answer(Outcome.REFUSED, "bad")])
    answer = Pieces("it", endpoint.send).send(traces(8), goes_on)
    assert (answer.outcome, answer.rejected, answer.reason) == (Outcome.DELIVERED, 1 + 4, "bad")


def test_a_stop_ends_the_sending_of_parts() -> None:
    endpoint = Endpoint(1)
    assert Pieces("it", endpoint.send).send(traces(8), lambda: True).outcome is Outcome.RETRY
    assert endpoint.calls == 1


def test_an_endpoint_that_takes_nothing_costs_a_bounded_number_of_calls() -> None:
    endpoint = Endpoint(0)
    answer = Pieces("it", endpoint.send).send(traces(512), goes_on)
    assert (answer.outcome, answer.reason) == (Outcome.REFUSED, "HTTP status 413")
    # Down to eight single spans: 512, 256, …, 16, then a tree of 8 with 8 + 4 + 2 + 1 messages.
    assert endpoint.calls == 6 + 15


def test_spans_that_are_too_large_among_others_that_are_not_end_nothing() -> None:
    endpoint = Endpoint(1)

    def send(parcel: Parcel) -> Answer:
        even = parcel.spans == 1 and found(parcel)[0][2] % 2 == 0
        return TOO_LARGE if even else endpoint.send(parcel)

    answer = Pieces("it", send).send(traces(64), goes_on)
    assert endpoint.taken == [*range(1, 64, 2)]
    assert (answer.outcome, answer.rejected) == (Outcome.DELIVERED, 32)


def test_a_span_that_is_too_large_alone_costs_no_other() -> None:
    large = ReadableSpan("x" * 5000, SpanContext(1, 99, False), resource=NODE, start_time=1, end_time=1)
    with http_collector() as seen:
        seen.most_bytes = 2000
        destination = OtlpDestination(seen.url, backoff=Backoff(0.01, 0.01))
        destination.submit(Batch(1, [*batch(1, 7).spans, large, *batch(2, 7).spans]))
        destination.close(20.0)
        assert seen.spans == [*range(101, 108), *range(201, 208)]
        assert (destination.outbox.spans_delivered, destination.outbox.spans_dropped) == (14, 1)


def test_metrics_are_halved_too_and_a_batch_of_which_a_part_is_refused_did_not_arrive() -> None:
    names_of = [names.ENGINE_RUNNING, names.GPU_POWER_MW, names.ENGINE_WAITING]
    data = metrics_data([Point(NODE, Sample(name, 1), 1) for name in names_of], 0)
    (parcel,) = encode(Batch(1, [], data)).parcels
    taken: list[str] = []

    def send(part: Parcel) -> Answer:
        metrics = [
            one.name
            for whole in ExportMetricsServiceRequest.FromString(part.message()).resource_metrics
            for inner in whole.scope_metrics
            for one in inner.metrics
        ]
        if len(metrics) > 1 or metrics == refused:
            return TOO_LARGE
        taken.extend(metrics)
        return Answer(Outcome.DELIVERED)

    refused: list[str] = []
    assert Pieces("it", send).send(parcel, goes_on).outcome is Outcome.DELIVERED
    assert sorted(taken) == sorted(names_of)
    refused = [taken[1]]
    assert Pieces("it", send).send(parcel, goes_on).outcome is Outcome.REFUSED
