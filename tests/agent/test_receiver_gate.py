"""Spans of others are refused before the agent sheds detail for them, and again taken once it can afford them."""

import http.client
import json
import socket
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vtprof_agent.config import Config
from vtprof_agent.receiver import grpc_server, http_server
from vtprof_agent.receiver.gate import AS_OBJECTS, RELEASE_S, SHARE, Gate
from vtprof_agent.receiver.intake import BUSY_S, RECEIVED, REFUSED, TURNED_AWAY, Intake, Verdict
from vtprof_agent.receiver.receiver import Receiver

MB = 1_000_000
BUDGET = 100 * MB
ROOM = SHARE * BUDGET
ANY_PORT = "127.0.0.1:0"


class _Node:
    """An agent whose memory, CPU time and clock the test sets."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.used, self.at_s, self.releases = 0, 0.0, 0
        self.strained = False
        self.gate = Gate(
            budget, lambda: self.strained, lambda: self.used, self._release, clock=lambda: self.at_s
        )

    def _release(self) -> None:
        self.releases += 1

    def lets_in(self, size: int) -> bool:
        with self.gate.open_for(size) as is_open:
            return is_open


def _body() -> bytes:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"t" * 16, b"s" * 8, "one"
    return request.SerializeToString()


def test_a_request_is_let_in_while_what_it_takes_leaves_memory_below_the_share() -> None:
    node = _Node()
    node.used = int(ROOM) - 10 * AS_OBJECTS
    assert (node.lets_in(10), node.lets_in(11)) == (True, False)
    node.used = int(ROOM) + 1
    assert not node.lets_in(0)


def test_requests_under_way_count_until_they_are_through() -> None:
    node = _Node()
    node.used = int(ROOM) - 10 * AS_OBJECTS
    with node.gate.open_for(6) as first:
        assert first and node.lets_in(4) and not node.lets_in(5)
        with node.gate.open_for(5) as second:
            assert not second
        assert node.lets_in(4), "who is refused takes nothing"
    assert node.lets_in(10)


def test_a_request_that_fails_gives_its_room_back() -> None:
    node = _Node()
    node.used = int(ROOM) - 10 * AS_OBJECTS
    with pytest.raises(ValueError, match="bad"), node.gate.open_for(10):
        raise ValueError("bad")
    assert node.lets_in(10)


def test_none_is_let_in_while_cpu_time_is_short() -> None:
    node = _Node(budget=0)
    node.strained = True
    assert not node.lets_in(1)
    node.strained = False
    assert node.lets_in(1)


def test_without_a_budget_of_memory_any_request_is_let_in() -> None:
    node = _Node(budget=0)
    node.used = 1 << 50
    assert node.lets_in(1 << 40)


def test_refusals_are_said_once_and_free_memory_is_given_back_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = _Node()
    node.gate.tell()
    assert (node.releases, caplog.messages) == (0, [])
    node.used = BUDGET
    for at_s, releases in ((0.0, 1), (RELEASE_S - 1, 1), (RELEASE_S, 2), (RELEASE_S + 1, 2)):
        node.at_s = at_s
        node.lets_in(1)
        node.gate.tell()
        assert node.releases == releases
    assert len(caplog.messages) == 1
    node.at_s = 10 * RELEASE_S
    node.gate.tell()
    assert node.releases == 2, "nobody was refused since"


def test_what_is_refused_is_not_parsed_and_counted_as_turned_away() -> None:
    node = _Node()
    queue = Intake(gate=node.gate)
    node.used = BUDGET
    answer = queue.offer_bytes(b"no protobuf at all")
    assert (answer.verdict, "budget" in answer.message) == (Verdict.BUSY, True)
    node.used = 0
    assert queue.offer_bytes(_body()).verdict is Verdict.TAKEN
    counts = queue.counts()
    assert (counts[TURNED_AWAY], counts[RECEIVED], counts[REFUSED]) == (1, 1, 0)
    node.used = BUDGET
    assert len(queue.take()) == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the receivers let senders wait, none of it in earnest."""
    found: list[float] = []
    for server in (http_server, grpc_server):
        monkeypatch.setattr(server, "sleep", found.append)
    return found


@pytest.fixture
def node() -> _Node:
    return _Node()


@pytest.fixture
def receiver(node: _Node) -> Iterator[Receiver]:
    config = Config(otlp_receive_grpc=ANY_PORT, otlp_receive_http=ANY_PORT)
    found = Receiver(config, gate=node.gate)
    yield found
    found.close()


@pytest.mark.parametrize("kind", ["application/x-protobuf", "application/json"])
def test_over_http_a_sender_hears_503_and_when_to_try_again_and_not_at_once(
    node: _Node, receiver: Receiver, waits: list[float], kind: str
) -> None:
    body = _body() if kind.endswith("protobuf") else json.dumps({"resourceSpans": []}).encode()
    statuses = []
    for used in (BUDGET, 0):
        node.used = used
        connection = http.client.HTTPConnection("127.0.0.1", receiver.ports[1], timeout=30)
        connection.request("POST", "/v1/traces", body, {"Content-Type": kind})
        response = connection.getresponse()
        response.read()
        statuses.append((response.status, response.getheader("Retry-After")))
        connection.close()
    assert statuses == [(503, "1"), (200, None)]
    assert waits == [BUSY_S]


def test_over_grpc_a_sender_hears_unavailable_and_not_at_once(
    node: _Node, receiver: Receiver, waits: list[float]
) -> None:
    node.used = BUDGET
    with grpc.insecure_channel(f"127.0.0.1:{receiver.ports[0]}") as channel:
        export = channel.unary_unary(f"/{grpc_server.SERVICE}/Export")
        with pytest.raises(grpc.RpcError) as refused:
            export(_body(), timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # which OTLP has exporters try again
        assert waits == [BUSY_S]
        node.used = 0
        assert export(_body(), timeout=30) == b""


def test_a_connection_to_the_grpc_port_that_does_not_begin_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_server, "HANDSHAKE_S", 0.2)
    receiver = Receiver(Config(otlp_receive_grpc=ANY_PORT))
    try:
        with socket.create_connection(("127.0.0.1", receiver.ports[0]), timeout=30) as connection:
            connection.sendall(b"PRI * HTT")
            while connection.recv(4096):  # the server's settings, then the end; gRPC's own limit is 120 s
                pass
    finally:
        receiver.close()
