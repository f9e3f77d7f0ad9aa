"""The real agent, killed and started again while the Collector is away: every request of the engine arrives once known."""

import signal
from pathlib import Path

import pytest
from agent_process import start_agent, start_writer
from collectors import Seen, grpc_collector, http_collector, wait_for

SPANS_PER_REQUEST = 3
"""The request, its prefill, and the step."""


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_requests_during_an_outage_and_a_killed_agent_arrive_later(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTPROF_AGENT_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("VTPROF_AGENT_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("VTPROF_AGENT_FLUSH_S", "0.05")
    monkeypatch.setenv("VTPROF_AGENT_SAMPLE_S", "0")
    seen = Seen()
    seen.away = True
    with (http_collector if protocol != "grpc" else grpc_collector)(seen):
        arguments = ("run", "--ring-dir", str(tmp_path / "rings"), "--otlp-endpoint", seen.url)
        with start_writer(tmp_path / "rings", 50) as first:
            agent = start_agent(*arguments)
            wait_for(lambda: _spooled(tmp_path) > 1000)
            agent.send_signal(signal.SIGKILL)
            agent.communicate()
            first.communicate("\n")
        with start_writer(tmp_path / "rings", 50) as second:
            second.communicate("\n")
        seen.away = False
        agent = start_agent(*arguments)
        wait_for(lambda: len(set(seen.spans)) >= 100 * SPANS_PER_REQUEST)
        agent.terminate()
        _, said = agent.communicate()
        assert agent.returncode == 0
        assert "of an earlier agent are delivered first" in said
    assert len(set(seen.spans)) == 100 * SPANS_PER_REQUEST
    assert _spooled(tmp_path) == 0


def _spooled(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("spool/*/*.spool"))
