"""One run of the known mix on a real server under `vtprof-agent exec`: what was sent, recorded, and said by vLLM."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_mix
import server_log
import trace_files
from capture import Receiver
from engine_server import agent_command, serving


@dataclass(frozen=True, repr=False)
class MixRun:
    """What a run left."""

    sent: list[engine_mix.Sent]
    folder: Path
    """Of the agent's files."""
    spans: list[trace_files.Span]
    iterations: list[server_log.Iteration]
    metrics: dict[str, float]
    """vLLM's own, before it ended."""
    engine_ttft_ns: dict[str, int]
    exit_code: int
    log: str

    def pairs(self) -> list[tuple[engine_mix.Sent, trace_files.Request]]:
        """Return each request that was sent with what was recorded of it."""
        recorded = trace_files.requests(self.spans)
        missing = [sent.id for sent in self.sent if sent.id not in recorded]
        assert not missing, f"not recorded: {missing}; recorded: {sorted(recorded)}"
        return [(sent, recorded[sent.id]) for sent in self.sent]

    def answered(self) -> list[tuple[dict[str, Any], trace_files.Request]]:
        """Return the API's answer and the record of each request that the API counted tokens for."""
        return [
            (sent.answer, request)
            for sent, request in self.pairs()
            if sent.answer["prompt_tokens"] is not None
        ]


def analyzed(folder: Path) -> dict[str, Any]:
    """Return the report that `vtprof analyze` makes of a folder."""
    command = [str(Path(sys.executable).with_name("vtprof")), "analyze", str(folder), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def run_mix(venv: Path, model: Path, folder: Path) -> MixRun:
    """Serve, send the mix, stop, and read what there is; raises ServerFailed."""
    own_spans, out = Receiver(), folder / "out"
    options = [*engine_mix.OPTIONS, "--otlp-traces-endpoint", own_spans.endpoint]
    agent = agent_command("exec", "--out", str(out), "--")
    with serving(venv, model, folder, options, agent) as server:
        sent = engine_mix.send_all(server.port)
        metrics = server_log.metrics(server.port)
        exit_code = server.stop()
    log = server.log.read_text(errors="replace")
    return MixRun(
        sent,
        out,
        trace_files.read(out),
        server_log.iterations(log),
        metrics,
        server_log.engine_ttft_ns(own_spans.exports),
        exit_code,
        log,
    )
