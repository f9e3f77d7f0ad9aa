"""`doctor` names what is missing on a node, what each costs and what to do, and never a secret."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_listening import make_pair, token_file

from vtprof_agent import node_report
from vtprof_agent.config import Config, merge
from vtprof_agent.endpoint_checks import checks, connects, readable, room, taken
from vtprof_agent.progress_store import claim
from vtprof_agent.samplers.sampler import SAMPLERS, Device, Sample, Sampler
from vtprof_schemas.errors import BackendError

ENTRIES = {
    "gpus",
    "driver",
    "engines",
    "rings",
    "problems",
    "samplers",
    "endpoints",
    "permissions",
    "settings",
    "agent",
}


@pytest.fixture
def listening() -> Iterator[int]:
    """The port of somebody who answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def silent() -> int:
    """A port at which nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def problems(config: Config, agent_runs: bool = False) -> dict[str, str | None]:
    return {check.what: check.problem for check in checks(config, agent_runs)}


def test_endpoints_are_tried_with_and_without_scheme(listening: int, silent: int) -> None:
    for url in (
        f"http://127.0.0.1:{listening}/x",
        f"127.0.0.1:{listening}",
        f"https://localhost:{listening}",
    ):
        assert connects(url, 4318) is None
    assert connects(f"http://127.0.0.1:{silent}", None) == "nobody answers (Connection refused)"
    assert connects("http://[::1", None) is not None
    assert connects("", None) == "no host and port"


def test_what_the_settings_name_and_nobody_answers_at_is_said_with_its_cost(
    listening: int, silent: int, tmp_path: Path
) -> None:
    here, nobody = f"http://127.0.0.1:{listening}", f"http://127.0.0.1:{silent}"
    fine = Config(
        otlp_endpoint=here, dcgm_url=here, engine_metrics=(here,), spool_dir=tmp_path, spool_bytes=1
    )
    assert problems(fine) == {"endpoint": None, "spool": None, "dcgm-exporter": None, "engine metrics": None}
    away = Config(otlp_endpoint=nobody, dcgm_url=nobody, engine_metrics=(nobody,), spool_bytes=0)
    lines = [check.line() for check in checks(away, agent_runs=False)]
    assert [line.split(":")[0] for line in lines] == [
        "endpoint http",
        "dcgm-exporter http",
        "engine metrics http",
    ]
    assert all("nobody answers (Connection refused); " in line for line in lines)
    assert "batches wait in memory, then the oldest are dropped: start the Collector" in lines[0]
    assert problems(Config()) == {}, "what is not asked for is not missed"


def test_a_spool_without_room_or_right_is_said(tmp_path: Path) -> None:
    assert room(tmp_path / "yet" / "to be made", 1) is None
    assert str(room(tmp_path, 1 << 49)).endswith(f"bytes free, {1 << 49} may be wanted (spool_bytes)")
    (tmp_path / "file").touch()
    assert str(room(tmp_path / "file" / "spool", 1)).startswith("cannot be written to")
    assert str(room(Path("/proc/spool"), 1)).startswith(("cannot be written to", "0 bytes free"))


def test_a_file_that_is_named_must_be_readable(tmp_path: Path) -> None:
    assert readable(token_file(tmp_path)) is None
    assert readable(tmp_path / "missing") == "cannot be read (No such file or directory)"


def test_a_port_that_another_program_holds_is_said_unless_it_is_our_agent(
    listening: int, silent: int
) -> None:
    assert taken("127.0.0.1", silent) is None
    assert (
        taken("127.0.0.1", listening)
        == f"127.0.0.1:{listening} cannot be listened at (Address already in use)"
    )
    config = Config(metrics=str(listening), otlp_receive_http=f"127.0.0.1:{silent}")
    found = {check.target: check.problem for check in checks(config, agent_runs=False)}
    assert found[f"127.0.0.1:{silent}"] is None
    assert "already in use" in str(found[str(listening)])
    assert problems(config, agent_runs=True) == {"port": None}


def test_listeners_beyond_this_machine_and_their_files_are_judged(tmp_path: Path) -> None:
    open_page = Config(metrics="0.0.0.0:0")
    assert "would be open to the network" in str(problems(open_page)["port"])
    cert, key = make_pair(tmp_path, "doctor")
    token = token_file(tmp_path)
    closed = Config(metrics="0.0.0.0:0", tls_cert_file=cert, tls_key_file=key, token_file=token)
    assert problems(closed) == {"port": None}
    assert "without tls_key_file" in str(problems(Config(tls_cert_file=cert))["guard"])


class FakeSampler:
    """A source of counters with given devices."""

    period_s = quiet_s = 1.0

    def __init__(self, devices: list[Device], reason: str | None = None, failure: str | None = None) -> None:
        self._devices, self._reason, self._failure = devices, reason, failure
        self.closed = False

    def why_not(self) -> str | None:
        return self._reason

    def open(self) -> None:
        if self._failure:
            raise BackendError(self._failure)

    def devices(self) -> list[Device]:
        return self._devices

    def sample(self, pids: frozenset[int]) -> list[Sample]:
        raise AssertionError(pids)

    def lost(self) -> dict[str, str]:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def reported(monkeypatch: pytest.MonkeyPatch, there: dict[str, Sampler], **settings: Any) -> dict[str, Any]:
    monkeypatch.setattr(node_report, "SAMPLERS", dict.fromkeys(there, ""))
    monkeypatch.setattr(node_report, "load", lambda name, _url: there[name])
    monkeypatch.setattr(node_report, "candidates", list)
    return node_report.report(merge({}, {}, settings, "f"))


def test_a_gpu_that_two_samplers_know_is_one_and_what_it_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samplers: dict[str, Sampler] = {
        "nvml": FakeSampler(
            [Device("GPU-1", "H200", {"gpm": True}), Device("GPU-2", "L40S", {"gpm": False}),
             Device("MIG-3", "H200 MIG", {"gpm": True, "mig_of": "GPU-1"})]
        ),
        "pcie": FakeSampler([Device("GPU-1", "H200", {})]),
        "gpm": FakeSampler([], failure="NVML: no permission"),
        "dcgm": FakeSampler([], reason="no dcgm_url is set"),
    }  # fmt: skip
    document = reported(monkeypatch, samplers, ring_dir=str(tmp_path))
    assert [(gpu["uuid"], gpu["gpm"], gpu["mig"]) for gpu in document["gpus"]] == [
        ("GPU-1", True, True),
        ("GPU-2", False, False),
        ("MIG-3", True, False),
    ]
    states = {one["name"]: (one["available"], one["reason"]) for one in document["samplers"]}
    assert states == {
        "nvml": (True, None),
        "pcie": (True, None),
        "gpm": (False, "NVML: no permission"),
        "dcgm": (False, "no dcgm_url is set"),
    }
    assert all(one["costs"] for one in document["samplers"])
    (missing,) = [line for line in document["problems"] if line.startswith("GPU ")]
    assert missing.startswith("GPU GPU-2: no performance metrics")
    assert "--dcgm-url" in missing
    assert all(sampler.closed for name, sampler in samplers.items() if name != "dcgm")  # type: ignore[attr-defined]


def test_samplers_that_were_not_chosen_are_told_as_such(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samplers: dict[str, Sampler] = {
        "host": FakeSampler([]),
        "nvml": FakeSampler([Device("GPU-1", "H200", {})]),
    }
    document = reported(monkeypatch, samplers, ring_dir=str(tmp_path), samplers=["host"])
    assert document["gpus"] == []
    assert [one["reason"] for one in document["samplers"]] == [None, "not among the samplers chosen"]


def test_every_sampler_there_is_has_its_cost() -> None:
    assert node_report.COSTS.keys() == SAMPLERS.keys()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use any folder")
def test_a_folder_without_permission_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    document = reported(monkeypatch, {}, ring_dir=str(tmp_path), out_dir=str(closed))
    assert any(line.startswith(f"files in {closed}: no permission to write") for line in document["problems"])


def test_the_command_ends_well_on_a_node_where_everything_is_missing_and_shows_no_secret(
    tmp_path: Path, silent: int
) -> None:
    url = f"http://me:hunter2@127.0.0.1:{silent}/metrics?key=hunter2"
    (tmp_path / "token").write_text("hunter2")
    arguments = [
        "--ring-dir", str(tmp_path / "missing"), "--otlp-endpoint", url, "--dcgm-url", url, "--engine-metrics", url,
        "--metrics", "0.0.0.0:9", "--token-file", str(tmp_path / "token"), "--tls-cert-file", "/nowhere.crt",
        "--spool-dir", "/dev/null/spool",
    ]  # fmt: skip

    def doctor(*more: str) -> str:
        command = [sys.executable, "-m", "vtprof_agent", "doctor", *arguments, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "hunter2" not in done.stdout + done.stderr
        return done.stdout

    document = json.loads(doctor("--format", "json"))
    assert document.keys() >= ENTRIES
    told = [line.removeprefix("problem: ") for line in doctor().splitlines() if line.startswith("problem: ")]
    assert sorted(told) == sorted(document["problems"])
    for what in ("rings in", "endpoint ", "spool ", "dcgm-exporter ", "engine metrics ", "guard "):
        (line,) = [problem for problem in document["problems"] if problem.startswith(what)]
        assert ";" in line, "what it costs"


def test_it_tells_of_the_agent_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listening: int
) -> None:
    lock = claim(tmp_path)
    document = reported(monkeypatch, {}, ring_dir=str(tmp_path), metrics=f"127.0.0.1:{listening}")
    assert document["agent"]["alive"] is True
    assert not [line for line in document["problems"] if line.startswith("port ")]
    os.close(lock)
