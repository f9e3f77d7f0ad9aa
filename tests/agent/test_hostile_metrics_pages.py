"""A metrics page may hold any number and any text: it costs a counted failure or a value left out, never the reading."""

import logging
import threading

import pytest
from collectors import dripping
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

from vtprof_agent.engine_metrics import page as page_module
from vtprof_agent.engine_metrics.fetching import Unreadable, fetch, near_session
from vtprof_agent.engine_metrics.page import read_page
from vtprof_agent.engine_metrics.scraper import FAILED, LEFT_OUT, SCRAPES, EngineScraper
from vtprof_agent.metric_points import metrics_data
from vtprof_schemas import names

URL = "http://127.0.0.1:9/metrics"
GOOD = "vllm:num_requests_running 1\n"


def scraper(monkeypatch: pytest.MonkeyPatch, *pages: str, start: bool = False) -> EngineScraper:
    """Return a scraper that finds these pages in turn, the last one for ever."""
    left = list(pages)

    def fetch(self: EngineScraper, url: str) -> str:
        if url.endswith("/version"):
            return '{"version": "0.32.0"}'
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(EngineScraper, "_fetch", fetch)
    return EngineScraper(URL, 0.01, start=start)


@pytest.mark.parametrize("number", ["+Inf", "-Inf", "NaN", "1e300", "-1e300", "1e11", "-1", "1e19"])
@pytest.mark.parametrize("name", ["process_start_time_seconds", "vllm:prompt_tokens_total"])
def test_a_number_that_cannot_be_is_left_out_and_the_rest_can_be_sent(
    name: str, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scraper(monkeypatch, f"{GOOD}{name} {number}\n")
    found.read()
    points = found.take()[1]
    data = metrics_data(points, 0)
    assert data is not None
    encode_metrics(data).SerializeToString()
    possible = (name, number) == ("vllm:prompt_tokens_total", "1e11")
    keys = {names.ENGINE_RUNNING} | ({names.ENGINE_PROMPT_TOKENS} if possible else set())
    assert {point.sample.key for point in points} == keys
    assert found.counts() == {SCRAPES: 1, FAILED: 0, LEFT_OUT: 0 if possible else 1}


def test_sums_of_possible_numbers_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f'vllm:prompt_tokens_total{{model_name="{m}"}} 9e18\n' for m in "ab")
    found = scraper(monkeypatch, lines)
    found.read()
    (point,) = found.take()[1]
    assert point.sample.value == 2**63 - 1


def test_whatever_goes_wrong_with_a_page_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()

    def fail(*_: object) -> None:
        broken.set()
        monkeypatch.undo()
        scraper(monkeypatch, GOOD)
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(EngineScraper, "_as_points", fail)
    found = scraper(monkeypatch, GOOD, start=True)
    assert broken.wait(20)
    for _ in range(2000):
        if found.counts()[SCRAPES]:
            break
        threading.Event().wait(0.01)
    found.close()
    assert found.counts()[FAILED] == 1
    assert found.counts()[SCRAPES] > 0


def test_what_a_page_says_is_cut_and_made_printable_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = scraper(
        monkeypatch, 'vllm:num_requests_running{engine="0"} \x1b[2J\x1b]0;x\x07' + "z" * 10_000 + "\n"
    )
    with caplog.at_level(logging.WARNING):
        found.read()
    (message,) = caplog.messages
    assert message.isprintable()
    assert len(message) < 300
    assert found.counts()[FAILED] == 1


def test_a_line_that_no_engine_writes_is_left_out_before_it_is_parsed() -> None:
    labels = ",".join(f'a{n}="b"' for n in range(300_000))
    reading = read_page(f"{GOOD}vllm:num_requests_running{{{labels}}} 1\n", "vllm", None)
    assert reading.ranks == {0: {names.ENGINE_RUNNING: 1}}
    assert reading.left_out == 1


def test_a_page_of_very_many_lines_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than \d+ characters"):
        read_page(GOOD * (page_module.MAX_WANTED // len(GOOD) + 2), "vllm", None)


def test_the_stop_does_not_wait_for_a_reading_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    never, reading = threading.Event(), threading.Event()

    def hang(self: EngineScraper, url: str) -> str:
        reading.set()
        never.wait(60)
        return GOOD

    monkeypatch.setattr("vtprof_agent.engine_metrics.scraper.LAST_READ_S", 0.05)
    monkeypatch.setattr(EngineScraper, "_fetch", hang)
    found = EngineScraper(URL, 5)
    assert reading.wait(20)
    found.close()
    assert found.counts()[SCRAPES] == 0, "it was still under way"
    never.set()


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15f90\r\n",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
    ],
)
def test_a_page_that_drips_is_given_up_at_its_deadline(begun: bytes) -> None:
    refused = pytest.raises(Unreadable, match=r"within 0\.3 s")
    with dripping(begun) as url, near_session() as session, refused:
        fetch(session, url, read_s=0.3)
