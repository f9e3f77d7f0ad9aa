"""An engine's metrics page becomes points of our vocabulary: by version, by rank, never a wrong sum, never a fault."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.engine_metrics import scraper as scraper_module
from vtprof_agent.engine_metrics.own_start import own_start_ns
from vtprof_agent.engine_metrics.page import engine_of, read_page
from vtprof_agent.engine_metrics.scraper import EngineScraper, page_url
from vtprof_agent.engine_metrics.table import SERIES
from vtprof_agent.metric_points import metrics_data
from vtprof_agent.samplers.dcgm import exporter_url
from vtprof_agent.samplers.sampler import load
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vllm"
PAGE = (FIXTURE / "metrics.txt").read_text(encoding="utf-8")
TRUTH = json.loads((FIXTURE / "ground_truth.json").read_text(encoding="utf-8"))["requests"]
SGLANG_LABELS = 'engine_type="unified",model_name="m",pp_rank="0"'


def test_the_page_of_a_real_vllm_says_what_was_sent() -> None:
    reading = read_page(PAGE, "vllm", "0.32.0")
    assert engine_of(PAGE) == "vllm"
    (rank,) = reading.ranks.values()
    # A request of n choices is n requests to vLLM's counters; the aborted one had its prompt computed too.
    served = [r for r in TRUTH if r["http_status"] == 200]
    assert rank[names.ENGINE_PROMPT_TOKENS] == sum(r["expected_prompt_tokens"] * r["n"] for r in served)
    assert rank[names.ENGINE_PREFIX_QUERIED_TOKENS] == rank[names.ENGINE_PROMPT_TOKENS]
    assert rank[names.ENGINE_CACHED_TOKENS] == rank[names.ENGINE_PREFIX_HIT_TOKENS] > 0
    finished = [r for r in served if not r["aborted"]]
    aborted_tokens = rank[names.ENGINE_OUTPUT_TOKENS] - sum(r["completion_tokens"] for r in finished)
    assert 0 < aborted_tokens < 1024
    assert rank[names.ENGINE_MM_QUERIED_ITEMS] == sum(len(r["images"]) for r in served)
    assert rank[names.ENGINE_MM_HIT_ITEMS] == sum(r["kind"].startswith("image_repeated") for r in served)
    ttft_s, ttft_requests = (rank[key] for key in names.ENGINE_TIMES["ttft"])
    assert ttft_requests == sum(r["n"] for r in served)
    assert ttft_s == pytest.approx(4.398322343826294)  # the line of the page
    assert rank[names.ENGINE_TIMES["queue"][1]] == sum(r["n"] for r in finished)
    assert names.ENGINE_TIMES["prefill_forward"][0] not in rank, "that is SGLang's meaning of prefill"
    assert reading.started_s == pytest.approx(1.79528641012e9)


def test_the_newer_of_two_names_of_one_thing_is_taken_once() -> None:
    page = "vllm:gpu_cache_usage_perc 0.2\nvllm:kv_cache_usage_perc 0.4\n"
    assert read_page(page, "vllm", "0.10.2").ranks == {0: {names.ENGINE_KV_USED_RATIO: 0.4}}
    old = "vllm:gpu_cache_usage_perc 0.2\n"
    assert read_page(old, "vllm", "0.10.0").ranks == {0: {names.ENGINE_KV_USED_RATIO: 0.2}}
    assert read_page(old, "vllm", None).ranks == {0: {names.ENGINE_KV_USED_RATIO: 0.2}}
    assert read_page(old, "vllm", "0.12.0").ranks == {}, (
        "a series of that name would be another thing by then"
    )


def test_data_parallel_ranks_stay_apart_and_other_labels_are_summed() -> None:
    page = "".join(
        f'vllm:prompt_tokens_total{{engine="{rank}",model_name="{model}"}} {tokens}\n'
        for rank, model, tokens in ((0, "a", 10), (0, "b", 5), (1, "a", 7))
    )
    ranks = read_page(page, "vllm", "0.32.0").ranks
    assert ranks == {0: {names.ENGINE_PROMPT_TOKENS: 15}, 1: {names.ENGINE_PROMPT_TOKENS: 7}}


def test_sglang_tensor_ranks_repeat_what_rank_zero_says() -> None:
    page = "".join(
        f'sglang:num_running_reqs{{{SGLANG_LABELS},tp_rank="{rank}"}} {value}\n'
        for rank, value in ((0, 3), (1, 3))
    )
    assert read_page(page, "sglang", None).ranks == {0: {names.ENGINE_RUNNING: 3}}


def test_sglang_cached_tokens_are_summed_over_their_sources() -> None:
    page = "".join(
        f'sglang:cached_tokens_total{{model_name="m",cache_source="{source}"}} {value}\n'
        for source, value in (("device", 100), ("host", 20))
    )
    assert read_page(page, "sglang", None).ranks == {0: {names.ENGINE_CACHED_TOKENS: 120}}


def test_a_stage_whose_meaning_changed_counts_only_where_the_page_is_new_enough() -> None:
    stage = "sglang:per_stage_req_latency_seconds"
    lines = f'{stage}_sum{{stage="prefill_forward"}} 2.5\n{stage}_count{{stage="prefill_forward"}} 4\n'
    lines += f'{stage}_sum{{stage="prefill_waiting"}} 9\n{stage}_count{{stage="prefill_waiting"}} 9\n'
    seconds, requests = names.ENGINE_TIMES["prefill_forward"]
    marker = "sglang:full_token_usage 0.1\n"
    assert read_page("sglang:x 1\n" + marker + lines, "sglang", None).ranks == {
        0: {seconds: 2.5, requests: 4}
    }
    assert read_page("sglang:x 1\n" + lines, "sglang", None).ranks == {}
    assert read_page(lines, "sglang", "0.5.9").ranks == {}
    assert read_page(lines, "sglang", "0.5.12.post1").ranks == {0: {seconds: 2.5, requests: 4}}


def test_what_is_no_number_is_left_out() -> None:
    page = "vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc 0.5\n"
    assert read_page(page, "vllm", None).ranks == {0: {names.ENGINE_KV_USED_RATIO: 0.5}}


@settings(max_examples=200)
@given(st.text() | st.builds(lambda n, rest: n + rest, st.sampled_from([s.name for s in SERIES]), st.text()))
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    for engine in ("vllm", "sglang"):
        try:
            read_page(text, engine, None)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("given_url", "wanted"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/metrics"),
        ("http://h:8000/", "http://h:8000/metrics"),
        ("https://h/engine/metrics?x=1", "https://h/engine/metrics?x=1"),
    ],
)
def test_the_usual_path_is_added(given_url: str, wanted: str) -> None:
    assert page_url(given_url) == wanted


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://h/metrics", "http://[::1", "http://h:99999/", "http://h/a b"]
)
def test_what_is_no_url_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        page_url(url)
    assert "--engine-metrics" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h:8000#x", "http://h:8000/metrics?a=b#/engine"])
def test_a_fragment_is_said_to_be_what_is_wrong(url: str) -> None:
    said = f"{url!r}: a fragment (from # on) is never sent to a server; leave it out"
    for parse, flag in ((page_url, "--engine-metrics"), (exporter_url, "--dcgm-url")):
        with pytest.raises(ConfigError) as caught:
            parse(url)
        assert str(caught.value) == f"{flag} {said}"
    sampler = load("dcgm", url)
    assert sampler.why_not() == f"--dcgm-url {said}"


Answers = dict[str, tuple[int, bytes]]


@contextmanager
def engine(answers: Answers) -> Iterator[str]:
    """Serve paths as an engine would; the dictionary may change meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_points_carry_engine_version_rank_and_the_start_of_the_totals() -> None:
    answers = {"/metrics": (200, PAGE.encode()), "/version": (200, b'{"version": "0.32.0"}')}
    with engine(answers) as url:
        scraper = EngineScraper(url, 5, unix_ns=lambda: 77, start=False)
        scraper.read()
    _, points = scraper.take()
    data = metrics_data(points, start_unix_ns=1)
    assert data is not None
    (resource,) = data.resource_metrics
    assert resource.resource.attributes[names.ENGINE_NAME] == "vllm"
    assert resource.resource.attributes[names.ENGINE_VERSION] == "0.32.0"
    assert resource.resource.attributes[names.RANK] == 0
    by_name = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    prompt = by_name[names.ENGINE_PROMPT_TOKENS]
    assert prompt.unit == "{token}"
    (point,) = prompt.data.data_points
    assert (point.value, point.time_unix_nano) == (12545, 77)
    assert point.start_time_unix_nano == int(1.79528641012e18), "the engine's start, not the agent's"
    assert by_name[names.ENGINE_TIMES["ttft"][0]].unit == "s"
    assert scraper.take() == ([], []), "what was taken is gone"
    assert scraper.counts() == {
        scraper_module.SCRAPES: 1,
        scraper_module.FAILED: 0,
        scraper_module.LEFT_OUT: 0,
    }


def _prompt_tokens(started: list[float | None], clock: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Return (time, value) of the prompt tokens, told by one reading each; the first of ``clock`` is the agent's start."""
    times = iter(clock[1:])
    answers: Answers = {"/metrics": (503, b"")}
    with engine(answers) as url:
        scraper = EngineScraper(url, 5, unix_ns=lambda: next(times), start=False, began_ns=clock[0])
        for number, since in enumerate(started, start=1):
            start = "" if since is None else f"process_start_time_seconds {since}\n"
            answers["/metrics"] = (200, f"{start}vllm:prompt_tokens_total {number}00\n".encode())
            scraper.read()
            yield [
                (point.time_unix_ns, int(point.sample.value))
                for point in scraper.take()[1]
                if point.sample.key == names.ENGINE_PROMPT_TOKENS
            ]


S = 1_000_000_000


def test_a_child_of_this_process_began_after_it_by_the_clock_that_an_engine_tells() -> None:
    """Both in whole seconds of the boot: by the wall clock a child might seem to be older than its parent."""
    child = (
        "from prometheus_client import REGISTRY as r; print(r.get_sample_value('process_start_time_seconds'))"
    )
    told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout
    assert 0 < own_start_ns() <= float(told) * S


def test_an_engine_that_began_after_the_agent_began_at_zero() -> None:
    """The second process counts again from zero, later than the last that its predecessor said."""
    told = list(_prompt_tokens([5.0, 5.0, 11.5], clock=[2 * S, 8 * S, 12 * S, 20 * S]))
    assert told == [[(5 * S, 0), (8 * S, 100)], [(12 * S, 200)], [(12 * S + 1, 0), (20 * S, 300)]]


@pytest.mark.parametrize("since", [1.0, None, 9.0])
def test_without_a_start_within_the_recording_there_is_no_zero(since: float | None) -> None:
    """It began before the agent, does not say when, or says a time to come."""
    assert list(_prompt_tokens([since], clock=[2 * S, 8 * S])) == [[(8 * S, 100)]]


def _failures(answers: Answers, change: Callable[[], None] = lambda: None) -> tuple[int, int]:
    with engine(answers) as url:
        scraper = EngineScraper(url, 5, start=False)
        scraper.read()
        change()
        scraper.read()
    return scraper.counts()[scraper_module.FAILED], len(scraper.take()[1])


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b"", "answered 503"),
        (302, b"", "answered 302"),
        (200, b"up 1\n", "no vLLM or SGLang metrics there"),
        (200, b'vllm:prompt_tokens_total{a="b 1\n', ""),
    ],
)
def test_a_page_that_cannot_be_read_is_said_once_and_counted(
    status: int, body: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        assert _failures({"/metrics": (status, body)}) == (2, 0)
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_an_engine_that_comes_back_is_read_again() -> None:
    answers: Answers = {"/metrics": (503, b"")}

    def come_back() -> None:
        answers["/metrics"] = (200, PAGE.encode())

    failed, points = _failures(answers, come_back)
    assert failed == 1
    assert points > 15


def test_an_address_where_nobody_listens_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with engine({}) as url:
        pass
    scraper = EngineScraper(url, 5, start=False)
    with caplog.at_level("WARNING"):
        scraper.read()
    assert [message.split(": ")[-1] for message in caplog.messages] == [
        "cannot connect; trying again every 5 s"
    ]


def test_a_page_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "MAX_BYTES", 1000)
    assert _failures({"/metrics": (200, PAGE.encode())}) == (2, 0)


def test_closing_reads_a_last_time() -> None:
    answers = {"/metrics": (200, PAGE.encode())}
    with engine(answers) as url:
        scraper = EngineScraper(url, 3600)
        while not scraper.counts()[scraper_module.SCRAPES]:  # the test's time limit is that of the file
            threading.Event().wait(0.01)
        answers["/metrics"] = (200, b"vllm:num_preemptions_total 5\n")
        scraper.close()
    assert scraper.take()[1][-1].sample.value == 5


def test_an_engine_that_ended_before_the_agent_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with engine({"/metrics": (200, PAGE.encode())}) as url:
        scraper = EngineScraper(url, 3600)
        while not scraper.counts()[scraper_module.SCRAPES]:
            threading.Event().wait(0.01)
    with caplog.at_level("WARNING"):
        scraper.close()
    assert caplog.messages == []
