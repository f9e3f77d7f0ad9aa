"""Where alerts go: lines at once, posts with retries, bounded in number and time, tokens to nobody else."""

import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vtprof_analyzer.watch import webhook
from vtprof_analyzer.watch.sinks import LONGEST_WAIT_S, Delivery, JsonLines
from vtprof_analyzer.watch.webhook import Endpoint, Refused, Token, Unreachable
from vtprof_schemas.errors import ConfigError


@dataclass
class Received:
    """What a server got."""

    path: str
    headers: dict[str, str]
    document: Any


@dataclass
class Server:
    """Answers posts with what it is told, 200 at the end."""

    url: str
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append(Received(self.path, dict(self.headers), json.loads(body)))
            status, headers, text = server.answers.pop(0) if server.answers else (200, {}, b"")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def delivery(post: Any, clock: Time | None = None, **options: Any) -> tuple[Delivery, list[str]]:
    said: list[str] = []
    made = Delivery(
        "webhook", "http://host", post, clock=clock or Time(), jitter=lambda: 1.0, say=said.append, **options
    )
    return made, said


def test_a_post_arrives_as_json_with_the_token_that_a_file_holds_now(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("first\n")
    with serving() as server:
        endpoint = Endpoint("--webhook", f"{server.url}/hook?a=1", Token(secret))
        endpoint.post(b'{"a": 1}')
        secret.write_text("second")
        endpoint.post(b'{"a": 2}')
    assert [one.path for one in server.received] == ["/hook?a=1"] * 2
    assert [one.document for one in server.received] == [{"a": 1}, {"a": 2}]
    assert [one.headers["Authorization"] for one in server.received] == ["Bearer first", "Bearer second"]
    assert server.received[0].headers["Content-Type"] == "application/json"


def test_a_token_from_the_environment_is_used_and_a_bad_one_is_refused_without_being_told() -> None:
    assert Token(variable="T").read({"T": "abc"}) == "abc"
    assert Token(variable="T").read({}) is None
    with pytest.raises(ConfigError, match="T: holds no token") as error:
        Token(variable="T").read({"T": "secret\nX: y"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with serving() as server:
        server.answers = [(status, {}, b"later\x1b[2J")]
        with pytest.raises(Unreachable, match=rf"answered {status}: later\\x1b\[2J"):
            Endpoint("--webhook", server.url).post(b"{}")


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_what_will_not_pass_is_refused(status: int) -> None:
    with serving() as server:
        server.answers = [(status, {}, b"no")]
        with pytest.raises(Refused, match=f"answered {status}: no"):
            Endpoint("--webhook", server.url).post(b"{}")


def test_a_redirect_is_not_followed_so_that_the_token_goes_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    with serving() as server, serving() as other:
        server.answers = [(307, {"Location": other.url}, b"")]
        with pytest.raises(Refused, match="redirect"):
            Endpoint("--webhook", server.url, Token(tmp_path / "token")).post(b"{}")
    assert other.received == []


def test_nobody_there_is_unreachable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(Unreachable, match="refused"):
            Endpoint("--webhook", f"http://127.0.0.1:{port}").post(b"{}")


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WHOLE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                try:
                    while True:
                        connection.sendall(b"X: y\r\n")
                        time.sleep(0.1)
                except OSError:
                    pass

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        # Headers that come without an end are refused by number, or by time, whichever is first.
        with pytest.raises(Unreachable, match=r"no answer within 0\.5 s|headers"):
            Endpoint("--webhook", f"http://127.0.0.1:{listener.getsockname()[1]}").post(b"{}")
        thread.join(5)
        assert not thread.is_alive()


def test_no_answer_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unreachable, match="timed out"):
        Endpoint("--webhook", f"http://127.0.0.1:{listener.getsockname()[1]}").post(b"{}")


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    openssl = pytest.importorskip("subprocess")
    made = openssl.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "c.pem", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl made no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def greet() -> None:
            connection, _ = plain.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            Endpoint("--webhook", f"https://127.0.0.1:{plain.getsockname()[1]}").post(b"{}")


@pytest.mark.parametrize(
    "url",
    ["", "host:9093", "ftp://host", "http://", "http://host:0", "http://host:99999", "http://a b/", "http://h/\r\nX: y",
     "http://user:secret@host/", "http://host/#x", "http://[::1", "http://hö.example/"],
)  # fmt: skip
def test_an_address_that_cannot_be_meant_is_one_line_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match="--webhook") as error:
        Endpoint("--webhook", url)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_the_path_of_an_address_which_may_be_a_secret_is_not_shown() -> None:
    assert Endpoint("--webhook", "https://hooks.example:444/T/SECRET").shown == "https://hooks.example:444"


def test_a_failed_post_is_tried_again_later_and_later_and_told_of_once() -> None:
    clock = Time()
    tries: list[float] = []

    def post(_: bytes) -> None:
        tries.append(clock.now)
        if len(tries) < 9:
            raise Unreachable("away")

    made, said = delivery(post, clock)
    made.offer({"a": 1})
    while (wait := made.step()) is not None:
        clock.now += wait
    waits = [after - before for before, after in pairwise(tries)]
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert (made.sent, made.failed, made.dropped) == (1, 8, 0)
    assert said == [
        "webhook http://host: does not take alerts (away); trying again",
        "webhook http://host: takes alerts again",
    ]


def test_half_of_a_wait_is_drawn() -> None:
    for drawn, wait in ((0.0, 0.5), (1.0, 1.0)):
        made = Delivery("webhook", "h", _away, clock=Time(), jitter=lambda drawn=drawn: drawn)
        made.offer(1)
        assert made.step() == wait


def test_what_is_refused_is_dropped_and_the_next_goes_out() -> None:
    got: list[bytes] = []

    def post(body: bytes) -> None:
        if body == b"1":
            raise Refused("answered 400")
        got.append(body)

    made, said = delivery(post)
    made.offer(1)
    made.offer(2)
    assert made.step() is None
    assert got == [b"2"] and (made.sent, made.failed, made.dropped) == (1, 1, 1)
    assert said[0] == "webhook http://host: refused an alert: answered 400"


def test_the_queue_is_bounded_and_the_oldest_gives_way() -> None:
    made, _ = delivery(_away, capacity=3)
    for number in range(10):
        made.offer(number)
    assert made.pending() == ["7", "8", "9"]
    assert made.dropped == 7


def test_where_only_the_newest_counts_the_others_are_no_loss() -> None:
    got: list[bytes] = []
    made, _ = delivery(got.append, newest_only=True)
    made.offer(1)
    made.offer(2)
    made.step()
    assert got == [b"2"] and made.dropped == 0 and made.pending() == []


def test_what_waits_is_sent_after_a_restart_in_order() -> None:
    before, _ = delivery(_away)
    before.offer({"n": 1})
    before.offer({"n": 2})
    before.step()
    got: list[bytes] = []
    after, _ = delivery(got.append)
    after.restore(json.loads(json.dumps(before.pending())))
    after.step()
    assert [json.loads(body) for body in got] == [{"n": 1}, {"n": 2}]
    with pytest.raises((ValueError, TypeError)):
        after.restore(["{"])


def test_a_thread_sends_without_holding_up_who_offers_and_flushes_at_the_end() -> None:
    with serving() as server:
        server.answers = [(503, {}, b"")]
        made = Delivery("webhook", server.url, Endpoint("--webhook", server.url).post, jitter=lambda: 1.0)
        made.start()
        made.offer({"n": 1})
        made.offer({"n": 2})
        made.end()
        made.join(10)
        deadline = time.monotonic() + 10
        while len(server.received) < 2 and time.monotonic() < deadline:
            made.step()
    numbers = [one.document["n"] for one in server.received]
    assert numbers[0] == 1 and set(numbers) == {1, 2}


def test_lines_are_flushed_one_by_one_and_hold_no_terminal_commands() -> None:
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    lines = JsonLines(stream)
    lines.tell({"model": "\x1b[31m\nü"})
    lines.tell({"n": 2})
    assert stream.flushed == 2
    assert stream.getvalue() == '{"model": "\\u001b[31m\\n\\u00fc"}\n{"n": 2}\n'


def _away(_: bytes) -> None:
    raise Unreachable("away")
