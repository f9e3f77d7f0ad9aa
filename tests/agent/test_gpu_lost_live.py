"""The real agent beside a GPU that is lost and comes back: `status`, the metrics page and the log say so, and when."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from agent_process import stderr_until, wait_for
from nvml_standin.standin import Control, build, environment, uuid

LOST, SOUND = uuid(1), uuid(0)
PATIENCE_S = 90.0


def _status(rings: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "vtprof_agent", "status", "--ring-dir", str(rings), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (agent,) = json.loads(done.stdout)["agents"]
    return dict(agent)


def _page(url: str) -> list[str]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return list(answer.read().decode().splitlines())


def _gauges(url: str, gpu: str) -> set[str]:
    """Return the names of the gauges that a GPU has on the page."""
    lines = _page(url)
    return {line.partition("{")[0] for line in lines if f'gpu="{gpu}"' in line and "_total{" not in line}


def test_a_gpu_that_is_lost_is_told_and_its_gauges_go_until_it_is_back(tmp_path: Path) -> None:
    control = Control(tmp_path / "control", gpus=2)
    rings = tmp_path / "rings"
    command = [
        sys.executable, "-m", "vtprof_agent", "run", "--ring-dir", str(rings), "--metrics", "127.0.0.1:0",
        "--samplers", "nvml", "--samplers", "gpm", "--samplers", "host",
    ]  # fmt: skip
    agent = subprocess.Popen(
        command, env=environment(build(tmp_path / "lib"), control), stderr=subprocess.PIPE, text=True
    )
    try:
        url = stderr_until(agent, "INFO vtprof-agent: metrics at ").split()[-1]
        expected = {"vtprof_gpu_power_watts", "vtprof_gpu_dram_bandwidth_ratio"}
        wait_for(lambda: expected <= _gauges(url, LOST), PATIENCE_S)
        wait_for(lambda: _status(rings)["problems"] == [], PATIENCE_S)
        told = {one["name"]: one["reason"] for one in _status(rings)["agent"]["samplers"]}
        assert told == {"host": None, "gpm": None, "nvml": None}

        control.lose(1)
        stderr_until(agent, f"WARNING vtprof-agent: {LOST}: not read: the GPU fell off the bus")
        wait_for(lambda: _status(rings)["problems"] != [], PATIENCE_S)
        (problem,) = _status(rings)["problems"]
        pattern = rf"{LOST} \(NVIDIA Stand-in\) is not read since \S+Z \(\d+ s\): the GPU fell off the bus"
        assert re.fullmatch(pattern, problem)
        wait_for(lambda: not _gauges(url, LOST), PATIENCE_S)
        assert expected <= _gauges(url, SOUND)
        assert {"vtprof_agent_gpus_lost 1.0", "vtprof_agent_samplers_lost 0.0"} <= set(_page(url))

        control.find(1)
        stderr_until(agent, f"INFO vtprof-agent: {LOST}: read again")
        wait_for(lambda: expected <= _gauges(url, LOST), PATIENCE_S)
        wait_for(lambda: _status(rings)["problems"] == [], PATIENCE_S)
    finally:
        agent.kill()
        agent.communicate(timeout=30)
