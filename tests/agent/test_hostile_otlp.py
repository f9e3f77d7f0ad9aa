"""Senders that are slow, silent, many or absurd cost the receiver a bounded time and memory, and others nothing for long."""

import http.client
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.config import Config
from vtprof_agent.receiver import http_server, room
from vtprof_agent.receiver.intake import MALFORMED, MAX_REQUEST_BYTES, TURNED_AWAY, Intake, TooLarge, Verdict
from vtprof_agent.receiver.otlp_json import parse_json
from vtprof_agent.receiver.receiver import Receiver
from vtprof_agent.receiver.room import Room

WAIT_S = 20.0
BEGUN = b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(
        ["resourceSpans", "scopeSpans", "spans", "traceId", "kind", "attributes", "key", "value", "stringValue"]), inner),
    max_leaves=20,
)  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver over HTTP."""
    found = Receiver(Config(otlp_receive_http="127.0.0.1:0"))
    yield found
    found.close()


def post(port: int, body: bytes = b"{}") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except ConnectionError:
        return 0
    finally:
        connection.close()


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), WAIT_S)
    connection.sendall(sent)
    return connection


def test_only_a_few_requests_are_parsed_at_a_time_and_the_others_are_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    go, under_way, most = threading.Event(), [0], [0]

    def slow(body: bytes) -> object:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        assert go.wait(WAIT_S)
        under_way[0] -= 1
        return parse_json(body)

    monkeypatch.setattr(http_server, "parse_json", slow)
    monkeypatch.setattr(http_server, "REQUEST_S", 0.5)
    statuses: list[int] = []
    refused = threading.Semaphore(0)

    def send() -> None:
        statuses.append(post(receiver.ports[0]))
        refused.release()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(6 - http_server.MAX_PARSED):
        assert refused.acquire(timeout=WAIT_S)
    assert statuses == [503] * 4
    go.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert statuses[4:] == [200, 200]
    assert most[0] == http_server.MAX_PARSED
    assert receiver.counts()[TURNED_AWAY] == 4


def test_a_small_text_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLarge):
        parse_json(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}")


def test_the_densest_request_of_real_attributes_is_parsed() -> None:
    attribute = '{"key":"k","value":{"intValue":"1"}}'
    frame = '{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[%s]}]}]}]}'
    number = (MAX_REQUEST_BYTES - len(frame)) // (len(attribute) + 1)
    request = parse_json((frame % ",".join([attribute] * number)).encode())
    assert len(request.resource_spans[0].scope_spans[0].spans[0].attributes) == number


@settings(max_examples=150, deadline=None)
@given(document=ANY_JSON)
def test_any_json_is_answered(document: object) -> None:
    body = json.dumps(document).encode()
    try:
        request = parse_json(body)
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert Intake().offer(request, len(body)).verdict in (Verdict.TAKEN, Verdict.MALFORMED)


@pytest.mark.parametrize("begun", [BEGUN, b"POST /v1/traces HTTP/1.1\r\nX-Header: "])
def test_a_request_that_drips_ends_at_its_deadline(
    begun: bytes, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.4)
    with connect(receiver.ports[0], begun) as connection:
        for _ in range(200):
            if select.select([connection], [], [], 0.05)[0]:
                break
            connection.sendall(b"x")
        else:
            pytest.fail("it may drip for ever")
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 408") if begun == BEGUN else answer == b""
    assert (receiver.counts()[TURNED_AWAY], receiver.counts()[MALFORMED]) == (1, 0)


@pytest.mark.parametrize("before", [b"", BEGUN.replace(b"9000", b"2") + b"}"])
def test_an_idle_connection_is_closed(
    before: bytes, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.2)
    with connect(receiver.ports[0], before) as connection:
        answer = b""
        while more := connection.recv(1 << 16):
            answer += more
    assert answer.startswith(b"HTTP/1.1 200") if before else answer == b""
    assert receiver.counts()[TURNED_AWAY] == 0


def test_one_connection_too_many_is_told_so_at_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(room, "LINGER_S", 3600.0)
    receiver = Receiver(Config(otlp_receive_http="127.0.0.1:0"))
    try:
        port = receiver.ports[0]
        with connect(port, BEGUN), connect(port, BEGUN), connect(port) as third:
            assert third.recv(1 << 16).startswith(b"HTTP/1.1 503")
        assert receiver.counts()[TURNED_AWAY] == 1
        assert any(post(port) == 200 for _ in range(1000)), "there is room again"
    finally:
        receiver.close()


@pytest.mark.parametrize("begun", [b"", BEGUN])
def test_senders_that_hold_every_connection_give_way_to_one_that_sends(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(http_server, "IDLE_S", 3600.0)
    monkeypatch.setattr(http_server, "REQUEST_S", 3600.0)
    monkeypatch.setattr(room, "LINGER_S", 0.0)
    receiver = Receiver(Config(otlp_receive_http="127.0.0.1:0"))
    try:
        with connect(receiver.ports[0], begun), connect(receiver.ports[0], begun):
            assert any(post(receiver.ports[0]) == 200 for _ in range(1000))
    finally:
        receiver.close()


def test_the_one_who_lingered_longest_goes_and_nobody_before_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "YIELD_S", WAIT_S)
    now = [0.0]
    places = Room(2, 100, lambda: now[0])
    ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
    begun, go = threading.Semaphore(0), threading.Event()

    def serve(connection: socket.socket) -> None:
        assert places.enter()
        places.await_sender(connection)
        begun.release()
        connection.recv(1)
        places.no_longer()
        places.leave()
        go.wait(WAIT_S)

    threads = []
    for connection in ours:
        threads.append(threading.Thread(target=serve, args=(connection,)))
        threads[-1].start()
        assert begun.acquire(timeout=WAIT_S)
        now[0] += 0.2
    assert not places.enter(), "the first has lingered for 0.5 s only when that has passed"
    now[0] = room.LINGER_S
    assert places.enter()
    theirs[0].settimeout(WAIT_S)
    assert theirs[0].recv(1) == b"", "the first was disconnected"
    theirs[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs[1].recv(1)
    go.set()
    theirs[1].close()
    for thread in threads:
        thread.join(WAIT_S)
    for connection in (*ours, theirs[0]):
        connection.close()


def test_bodies_that_are_not_parsed_yet_have_one_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Room(1, 100)
    assert (places.hold(60), places.hold(41), places.hold(40)) == (True, False, True)
    places.release(100)
    assert places.hold(100)
    monkeypatch.setattr(http_server, "MAX_UNPARSED_BYTES", 1000)
    receiver = Receiver(Config(otlp_receive_http="127.0.0.1:0"))
    try:
        assert post(receiver.ports[0], b" " * 2000 + b"{}") == 503
        assert receiver.counts()[TURNED_AWAY] == 1
        assert any(post(receiver.ports[0], b" " * 998 + b"{}") == 200 for _ in range(1000)), "nothing is held"
    finally:
        receiver.close()


def test_room_is_given_back_whatever_became_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(http_server, "MAX_UNPARSED_BYTES", 100_000)
    monkeypatch.setattr(room, "LINGER_S", 3600.0)
    receiver = Receiver(Config(otlp_receive_http="127.0.0.1:0"))
    refused = (BEGUN + b"x" * 8000, BEGUN.replace(b"9000", b"1"), BEGUN.replace(b"9000", b"x"))
    try:
        for body in (*refused, b"GET / HTTP/1.1\r\n\r\n", b"\0") * 15:
            with suppress(OSError), connect(receiver.ports[0], body) as connection:  # some are turned away
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
        assert any(post(receiver.ports[0], b" " * 65_000 + b"{}") == 200 for _ in range(1000))
    finally:
        receiver.close()
