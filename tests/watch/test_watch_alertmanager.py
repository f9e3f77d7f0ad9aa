"""Against a real Alertmanager: what fires is active there, repeats are one alert, what is over is resolved."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from watch_fakes import DAY0_NS, Clock, alarm

from vtprof_analyzer.watch import alertmanager, wording
from vtprof_analyzer.watch.alerts import AlertBook
from vtprof_analyzer.watch.sinks import Delivery
from vtprof_analyzer.watch.webhook import Endpoint
from vtprof_analyzer.watch.wording import Labels

LABELS = Labels("chat", {"cluster": "a"})
BINARY = next(filter(None, map(shutil.which, ("prometheus-alertmanager", "alertmanager"))), None)
DEADLINE_S = 60.0
_CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"
needs_alertmanager = pytest.mark.skipif(
    BINARY is None, reason="Alertmanager is not installed (Debian package prometheus-alertmanager)"
)


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            if value := found():
                return value
        time.sleep(0.05)
    raise AssertionError("not in time")


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("alertmanager")
    (folder / "config.yml").write_text(_CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(BINARY), f"--config.file={folder / 'config.yml'}", f"--storage.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until(lambda: urllib.request.urlopen(f"{url}/-/ready", timeout=5).status == 200)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def active(url: str, model: str) -> list[dict[str, Any]]:
    query = "active=true&silenced=false&inhibited=false&unprocessed=true"
    with urllib.request.urlopen(f"{url}/api/v2/alerts?{query}", timeout=10) as answer:
        alerts = json.load(answer)
    return [one for one in alerts if one["labels"].get("model") == model]


def post(url: str, book: AlertBook, now_s: float, link: str | None = None) -> None:
    """Send as the loop does."""
    said: list[str] = []
    delivery = Delivery(
        "alertmanager", url, Endpoint("--alertmanager", alertmanager.url_of(url)).post, say=said.append
    )
    delivery.offer(alertmanager.alerts_json(book.entries(now_s), now_s, link))
    assert delivery.step() is None
    assert said == []


@needs_alertmanager
def test_what_fires_is_active_with_labels_annotations_and_link_and_a_repeat_is_the_same(
    base_url: str,
) -> None:
    now_s = time.time()
    book = AlertBook()
    book.fire(wording.regression(LABELS, alarm(model="qwen", at_ns=int(now_s * 1e9))), now_s)
    post(base_url, book, now_s, "https://grafana.example/d/vtprof?x=1")
    (told,) = active(base_url, "qwen")
    assert told["labels"] == {
        "alertname": "VtprofRegression", "severity": "warning", "service": "chat", "cluster": "a",
        "phase": "encode", "kind": "shift", "model": "qwen",
    }  # fmt: skip
    assert "8.0 % slower" in told["annotations"]["summary"]
    assert told["generatorURL"] == "https://grafana.example/d/vtprof?x=1"
    ends = datetime.fromisoformat(told["endsAt"]).timestamp()
    assert ends == pytest.approx(now_s + 240, abs=1)
    post(base_url, book, now_s + 60)
    (again,) = active(base_url, "qwen")
    assert again["fingerprint"] == told["fingerprint"] and again["startsAt"] == told["startsAt"]
    assert datetime.fromisoformat(again["endsAt"]).timestamp() == pytest.approx(now_s + 300, abs=1)


@needs_alertmanager
def test_what_is_over_is_no_longer_active(base_url: str) -> None:
    now_s = time.time()
    book = AlertBook()
    alert = wording.regression(LABELS, alarm(model="llava", at_ns=int(now_s * 1e9)))
    book.fire(alert, now_s - 1)
    post(base_url, book, now_s)
    assert active(base_url, "llava")
    book.end(alert.fingerprint, int(now_s * 1e9), now_s)
    post(base_url, book, now_s)
    assert until(lambda: not active(base_url, "llava"))


@needs_alertmanager
@pytest.mark.parametrize("model", ["a\x00b\nc", "\ud800", 'quo"te\\', "ü" * 4000, "{}=,", "\u202eevil"])
def test_names_of_others_are_taken_whatever_they_hold(base_url: str, model: str) -> None:
    now_s = time.time()
    book = AlertBook()
    alert = wording.regression(LABELS, alarm(model=model, at_ns=int(now_s * 1e9)))
    book.fire(alert, now_s)
    post(base_url, book, now_s)
    assert active(base_url, dict(alert.labels)["model"])


@needs_alertmanager
def test_clocks_that_differ_are_no_reason_to_refuse(base_url: str) -> None:
    now_s = time.time()
    book = AlertBook()
    ahead = wording.regression(LABELS, alarm(model="ahead", at_ns=int((now_s + 5000) * 1e9)))
    book.fire(ahead, now_s)
    book.fire(wording.regression(LABELS, alarm(model="long ago")), now_s)
    book.end(ahead.fingerprint, 0, now_s - 10_000)
    post(base_url, book, now_s - 10_000)
    assert active(base_url, "ahead") == []
    post(base_url, book, now_s)
    assert active(base_url, "long ago")


def test_alerts_hold_for_four_times_the_time_until_they_are_sent_again() -> None:
    clock = Clock()
    book = AlertBook()
    book.fire(wording.regression(LABELS, alarm(at_ns=DAY0_NS)), clock())
    (told,) = alertmanager.alerts_json(book.entries(clock()), clock())
    # The alarm began 10 minutes before.
    assert (told["startsAt"], told["endsAt"]) == ("2027-01-15T07:50:00.000Z", "2027-01-15T08:04:00.000Z")
    assert "generatorURL" not in told


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://a:9093", "http://a:9093/api/v2/alerts"),
        ("http://a:9093/", "http://a:9093/api/v2/alerts"),
        ("https://a/prefix/", "https://a/prefix/api/v2/alerts"),
        ("https://a/api/v2/alerts", "https://a/api/v2/alerts"),
    ],
)
def test_the_api_is_found_below_the_given_address(given: str, url: str) -> None:
    assert alertmanager.url_of(given) == url


@needs_alertmanager
def test_amtool_lists_what_was_sent(base_url: str, tmp_path: Path) -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        pytest.skip("amtool is not installed")
    now_s = time.time()
    book = AlertBook()
    book.fire(wording.regression(LABELS, alarm(model="listed", at_ns=int(now_s * 1e9))), now_s)
    post(base_url, book, now_s)
    command = [amtool, "--alertmanager.url", base_url, "alert", "query", "-o", "extended", "model=listed"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert 'alertname="VtprofRegression"' in listed and "slower at like work and load" in listed
