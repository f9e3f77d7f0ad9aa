"""A real Prometheus scrapes the page: quantiles, energy per token and exemplars are what was observed."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metrics_filled import served
from ring_records import SINGLE, assemble

from vtprof_agent.metrics.metrics import Metrics
from vtprof_schemas import names

pytestmark = [
    pytest.mark.promtool,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)"
    ),
]
DEADLINE_S = 90.0
TRACE, SPAN = 0xFEED, 0xBEEF
_CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: agent
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """A server of its own, asked over its HTTP API."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = _free_port()
        (folder / "prometheus.yml").write_text(_CONFIG.format(port=target))
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}", "--enable-feature=exemplar-storage"],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            return json.load(response)["data"]

    def number(self, query: str) -> float | None:
        """Return the value of a query that has one."""
        result = self.ask("query", query=query)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def until(self, found: Callable[[], Any]) -> Any:
        """Ask until there is an answer."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                answer = found()
                if answer:
                    return answer
            assert self._process.poll() is None, "prometheus ended"
            time.sleep(0.1)
        raise AssertionError(f"no answer within {DEADLINE_S:g} s")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scraped an agent after ten requests."""
    metrics = Metrics("1")
    base = assemble(SINGLE)[0]["1"]
    for tenths in range(1, 11):  # TTFT 0.1 s, 0.2 s ... 1.0 s
        first_ns = base.start_ns + tenths * 100_000_000
        done = replace(base, first_token_ns=first_ns, end_ns=first_ns + 1_000_000)
        metrics.observe(done, (TRACE, SPAN) if tenths == 10 else None)
    metrics.attributed({("GPU-1", names.GPU_ENERGY_MJ, names.DECODE): 60_000.0}, ())
    with served(metrics) as (_, port):
        server = Prometheus(tmp_path_factory.mktemp("prometheus"), port)
        try:
            server.until(lambda: server.number("sum(vtprof_ttft_seconds_count)") == 10)
            yield server
        finally:
            server.close()


def test_a_quantile_is_that_of_the_requests(prometheus: Prometheus) -> None:
    query = f"histogram_quantile(0.5, sum by (le) ({names.PROM_TTFT}_bucket))"
    # The fifth of ten is 0.5 s; buckets end at 0.35 s (3 requests) and 0.5 s (5): the median ends the latter.
    assert prometheus.number(query) == pytest.approx(0.5)
    assert prometheus.number(f"sum({names.PROM_TTFT}_sum)") == pytest.approx(5.5)


def test_an_exemplar_leads_to_the_trace_of_its_request(prometheus: Prometheus) -> None:
    now = time.time()
    found = prometheus.until(
        lambda: prometheus.ask(
            "query_exemplars", query=names.PROM_TTFT + "_bucket", start=str(now - 600), end=str(now + 600)
        )
    )
    [exemplar] = [one for series in found for one in series["exemplars"]]
    assert exemplar["labels"] == {"trace_id": f"{TRACE:032x}", "span_id": f"{SPAN:016x}"}
    assert float(exemplar["value"]) == pytest.approx(1.0)
    assert found[0]["seriesLabels"]["visual_stratum"] == "256"


def test_energy_divides_by_tokens_and_by_requests(prometheus: Prometheus) -> None:
    joules = 'sum(vtprof_gpu_phase_energy_joules_total{phase="decode"})'
    # 60 J over ten requests of 3 output tokens each.
    assert prometheus.number(f'{joules} / sum(vtprof_tokens_total{{modality="output"}})') == pytest.approx(2)
    assert prometheus.number(f"{joules} / sum(vtprof_requests_total)") == pytest.approx(6)


def test_prometheus_knows_the_types_and_took_every_line(prometheus: Prometheus) -> None:
    metadata = prometheus.until(lambda: prometheus.ask("metadata"))
    assert metadata[names.PROM_TTFT][0]["type"] == "histogram"
    assert prometheus.number('up{job="agent"}') == 1
    scraped = prometheus.number('scrape_samples_scraped{job="agent"}')
    assert scraped == prometheus.number('scrape_samples_post_metric_relabeling{job="agent"}')
    assert prometheus.ask("targets")["activeTargets"][0]["lastError"] == ""
