"""What the watcher tells Prometheus: valid by promtool, bounded, on this machine only unless meant otherwise."""

import http.client
import math
import shutil
import socket
import subprocess
import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from watch_fakes import alarm, batch, judge

from vtprof_analyzer.watch import metrics as module
from vtprof_analyzer.watch.events import KvSample, Level
from vtprof_analyzer.watch.figures import Figures
from vtprof_analyzer.watch.judging import Limits
from vtprof_analyzer.watch.metrics import MOST_SERIES, WatchMetrics, listen_address, serve
from vtprof_schemas.errors import ConfigError

NOW_S = 1_800_000_000.0


def filled() -> Figures:
    watched = judge([[alarm()]], Limits(slo_ttft_ms=50.0))
    start = int(NOW_S * 1e9)
    watched.take(
        batch(
            start, start + 1, kv=[KvSample(start, 'in"st\nance', 5.0, 10.0)], settled_ns=start + 120 * 10**9
        ),
        NOW_S,
        follows=True,
    )
    sent = {"webhook": (3, 2, 1), "alertmanager": (4, 0, 0)}
    return replace(watched.figures(), last_poll_s=NOW_S + 7, poll_errors=1, notifications=sent)


def page(figures: Figures, path: str = "/metrics") -> str:
    metrics = WatchMetrics()
    metrics.publish(figures)
    url, stop = serve(metrics, "127.0.0.1:0")
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(url.rpartition(":")[2].split("/")[0]), timeout=10
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()
        stop()


def values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_has_what_was_seen_judged_told_and_forecast() -> None:
    found = values(page(filled()))
    prefix = "vtprof_watch_"
    expected = {
        (f"{prefix}requests_seen_total",): 2,
        (f"{prefix}requests_judged_total",): 7,
        (f"{prefix}requests_late_total",): 1,
        (f"{prefix}requests_not_comparable_total",): 2,
        (f"{prefix}blocks_total",): 3,
        (f"{prefix}poll_errors_total",): 1,
        (f"{prefix}alerts_firing", "regression", "encode"): 1,
        (f"{prefix}alerts_fired_total", "regression"): 1,
        (f"{prefix}alerts_fired_total", "slo_burn"): 0,
        (f"{prefix}effect_ratio", "shift", "m", "encode"): 0.01,
        (f"{prefix}detector_log_statistic", "shift", "m", "encode"): 3.5,
        (f"{prefix}detector_log_threshold", "shift", "m", "encode"): 12.2,
        (f"{prefix}notifications_sent_total", "webhook"): 3,
        (f"{prefix}notifications_failed_total", "webhook"): 2,
        (f"{prefix}notifications_dropped_total", "webhook"): 1,
        (f"{prefix}slo_burn_rate", "ttft", "1h"): 100,  # all of them slow, 1 % allowed
        (f"{prefix}slo_error_budget_left_ratio", "ttft"): 1 - 100 * 2 / 43_200,  # two minutes seen
        (f"{prefix}kv_used_ratio", r"in\"st\nance"): 0.5,
        (f"{prefix}last_poll_timestamp_seconds",): NOW_S + 7,
        (f"{prefix}lag_seconds",): 7,
    }
    spelled = {
        (key[0], *(part.replace('"', r"\"") for part in key[1:])): value for key, value in found.items()
    }
    assert {key: spelled.get(key) for key in expected} == pytest.approx(expected)


@pytest.mark.promtool
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_has_nothing_to_say_of_names_and_helps() -> None:
    for figures in (filled(), Figures()):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=page(figures), capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_many_models_do_not_make_many_series() -> None:
    levels = tuple(
        Level("encode", "shift", f"m{number}", 1.0, 2.0, 0.0) for number in range(MOST_SERIES + 50)
    )
    found = values(page(replace(Figures(), levels=levels)))
    assert sum(key[0] == "vtprof_watch_effect_ratio" for key in found) == MOST_SERIES
    assert found["vtprof_watch_series_hidden",] == 3 * 50


def test_what_is_not_known_is_absent_and_not_0() -> None:
    found = values(page(replace(Figures(), levels=(Level("encode", "shift", "m", 1.0, 2.0, None),))))
    names = {key[0] for key in found}
    assert "vtprof_watch_effect_ratio" not in names
    assert "vtprof_watch_lag_seconds" not in names and "vtprof_watch_detector_log_statistic" in names


@pytest.mark.parametrize(
    ("text", "place"),
    [("9465", ("127.0.0.1", 9465)), (":9465", ("127.0.0.1", 9465)), ("localhost:1", ("localhost", 1)),
     ("127.0.0.5:1", ("127.0.0.5", 1)), ("[::1]:9465", ("::1", 9465))],
)  # fmt: skip
def test_the_host_is_this_machine_by_default(text: str, place: tuple[str, int]) -> None:
    assert listen_address(text, insecure=False) == place


@pytest.mark.parametrize("text", ["0.0.0.0:9465", "10.0.0.1:1", "host:1", "[::]:1", "127.evil.example:1"])
def test_beyond_this_machine_it_has_to_be_meant(text: str) -> None:
    with pytest.raises(ConfigError, match="open to the network"):
        listen_address(text, insecure=False)
    listen_address(text, insecure=True)


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="not HOST:PORT"):
        listen_address(text, insecure=True)


def test_a_port_that_is_taken_is_one_line() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="cannot listen there"),
    ):
        serve(WatchMetrics(), f"127.0.0.1:{taken.getsockname()[1]}")


def test_silent_connections_are_closed_and_keep_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    metrics = WatchMetrics()
    url, stop = serve(metrics, "127.0.0.1:0")
    port = int(url.rpartition(":")[2].split("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(module.MOST_CONNECTIONS + 5)]
    try:
        deadline = time.monotonic() + 20
        status = 0
        while status != 200 and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/metrics")
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        assert status == 200
    finally:
        for one in silent:
            one.close()
        stop()


def test_a_test_without_a_block_has_no_statistic_yet() -> None:
    level = Level("kv", "shift", "m", -math.inf, 12.2, None)
    shown = page(replace(filled(), levels=(level,)))
    assert "Inf" not in shown and "detector_log_threshold" in shown
