"""A vLLM without the probe: its own OTLP spans, over gRPC and HTTP, and its /metrics page, through agent and analyzer.

Tokens, requests and cache hits are exact against what was sent; times are vLLM's own and only put into order.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from capture import free_port, get
from engine_mix import OPTIONS, Known, Sent, send_group
from engine_server import agent_command, serving
from server_log import metrics
from workload import Case, Image

WAIT_S = 40
SCRAPES = "vtprof_agent_engine_scrapes_total"
RECEIVED = "vtprof_agent_otlp_spans_received_total"
MAIN = "from vtprof_analyzer.cli import main; main()"
IMAGE = Image(112, 168, tint=10)
MIX = (
    Known(Case("text", "00064 tell me what happens here.", stream=True)),
    Known(Case("image", "00050 tell me what is there.", (IMAGE,), max_tokens=12)),
    Known(Case("same_image", "another text before one image.", (IMAGE,), stream=True), processor_hits=1),
    Known(
        Case("two_images", "two of them.", (Image(224, 224, tint=20), Image(320, 480, tint=30)), max_tokens=5)
    ),
    Known(Case("one_token", "only one.", max_tokens=1)),
    # Long enough for some readings of the page to fall into it: while it streams on a busy machine one takes a second.
    Known(Case("long", "00033 tell me all that happens.", max_tokens=3500)),
)


@dataclass(frozen=True)
class RunningAgent:
    """An agent that receives, and the port of its own metrics page."""

    page_port: int

    def count(self, name: str) -> float:
        """Return a counter of the agent's page."""
        text = get(self.page_port, "/metrics")[1].decode()
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))


@contextmanager
def receiving(folder: Path, engine_port: int, *receivers: str) -> Iterator[RunningAgent]:
    """Run the agent as a receiver; at the end it is stopped and its files are whole."""
    page_port = free_port()
    command = agent_command(
        "run", "--ring-dir", str(folder / "rings"), "--out", str(folder / "out"), "--metrics", str(page_port),
        "--engine-metrics", f"http://127.0.0.1:{engine_port}", *receivers,
    )  # fmt: skip
    (folder / "rings").mkdir(parents=True)
    log = folder / "agent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stderr=output, env=os.environ | {"VTPROF_AGENT_ENGINE_METRICS_S": "0.05"}
        )
    try:
        wait(lambda: "receiving OTLP traces" in log.read_text(), "the agent does not listen")
        yield RunningAgent(page_port)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(WAIT_S)
        print(log.read_text())
    assert code == 0


def wait(done: Callable[[], bool], otherwise: str) -> None:
    """Poll until something is so."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_vllm_says_of_itself_is_what_was_sent(
    protocol: str, engine_venv: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    if protocol == "grpc" and find_spec("grpc") is None:
        pytest.skip("grpcio is not installed")
    receiver_port = free_port()
    name = protocol.partition("/")[0]
    endpoint = f"http://127.0.0.1:{receiver_port}" + ("/v1/traces" if name == "http" else "")
    environment = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": protocol}
    options = [*OPTIONS, "--otlp-traces-endpoint", endpoint]
    receiver = (f"--otlp-receive-{name}", f"127.0.0.1:{receiver_port}")
    with (
        serving(
            engine_venv, tiny_model_folder, tmp_path / "server", options, environment=environment
        ) as server,
        receiving(tmp_path, server.port, *receiver) as agent,
    ):
        wait(lambda: agent.count(SCRAPES) > 0, "the page is not read")
        before = agent.count(RECEIVED)  # of the start of the server
        sent = send_group(server.port, MIX, "n", threads=1)
        wait(
            lambda: metrics(server.port).get("vllm:e2e_request_latency_seconds_count") == len(MIX),
            "vLLM's page does not count the requests",
        )
        # What the agent counts is brought up to date each two seconds: of a later count two more readings began by then.
        read = agent.count(SCRAPES)
        wait(lambda: agent.count(SCRAPES) > read, "the page is not read")
        seen = agent.count(SCRAPES)
        wait(lambda: agent.count(SCRAPES) > seen + 1, "the page is not read")
        # An export that is under way as the server stops is given up.
        wait(lambda: agent.count(RECEIVED) >= before + len(MIX), "the spans do not come")
        server.stop()
        assert agent.count("vtprof_agent_otlp_spans_refused_total") == 0
        assert agent.count("vtprof_agent_otlp_requests_malformed_total") == 0
    check(sent, analyze(tmp_path / "out"))


def analyze(out: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", MAIN, "analyze", str(out), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(sent: list[Sent], report: dict[str, Any]) -> None:
    answers = [one.answer for one in sent]
    prompt = sum(answer["prompt_tokens"] for answer in answers)
    output = sum(answer["completion_tokens"] for answer in answers)
    assert prompt == sum(answer["expected_prompt_tokens"] for answer in answers)
    summary, engine = report["summary"], report["engine"]
    assert (summary["requests"], summary["input_tokens"], summary["output_tokens"]) == (
        len(MIX),
        prompt,
        output,
    )
    assert report["deployment"]["engine"] == "vllm"
    assert report["integrity"]["duplicates"] == 0
    # TTFT is the server's own: no longer than the client's time for its slowest answer.
    longest_ms = max(answer["received_unix_ns"] - answer["sent_unix_ns"] for answer in answers) / 1e6
    assert 0 < summary["ttft_ms"]["p50"] <= summary["ttft_ms"]["p99"] <= longest_ms
    assert (engine["name"], engine["prompt_tokens"], engine["output_tokens"]) == ("vllm", prompt, output)
    assert engine["version"].startswith("0.")
    assert engine["preemptions"] == 0
    images = sum(len(answer["images"]) for answer in answers)
    hits = sum(known.processor_hits for known in MIX)
    assert engine["mm_cache_hit_rate"] == pytest.approx(hits / images)
    assert 0 < engine["kv_used_ratio_max"] < 1
