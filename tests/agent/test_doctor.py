"""`doctor` names what is missing on a node, what each costs and what to do, and never a secret."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collectors import dripping, http_collector
from nvml_standin.fixtures import MIG, A, built_library  # noqa: F401  # a fixture
from nvml_standin.standin import NO_PERMISSION, Control, environment
from test_doctor_tls import answering
from test_engine_metrics import engine
from test_listening import make_pair, token_file

from vtprof_agent import endpoint_checks, gpu_checks, node_report
from vtprof_agent.attach.candidates import Candidate
from vtprof_agent.cli.app import run
from vtprof_agent.config import Config, merge
from vtprof_agent.endpoint_checks import checks, connects, room, taken
from vtprof_agent.progress_store import claim
from vtprof_agent.runner import agent
from vtprof_agent.samplers.sampler import SAMPLERS, Device, Sample, Sampler, load
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError

ENTRIES = {
    "gpus",
    "driver",
    "engines",
    "rings",
    "problems",
    "warnings",
    "samplers",
    "endpoints",
    "permissions",
    "settings",
    "agent",
}
EMPTY: dict[str, Any] = {
    **dict.fromkeys(ENTRIES | {"processes"}, ()), "attach": "yes", "driver": None, "other_python_processes": 0,
    "agent": {"alive": False},
}  # fmt: skip


VLLM_PAGE = Path(__file__).parents[1] / "fixtures" / "vllm" / "metrics.txt"
DCGM_PAGE = b'# TYPE DCGM_FI_DEV_SM_CLOCK gauge\nDCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a"} 1755\n'
NO_ENGINE = "no vLLM or SGLang metrics there; is it the engine's page?"
NO_EXPORTER = "no DCGM fields with a UUID there; is it a dcgm-exporter's page?"


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
    silent: int, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{silent}"
    pages = {"/metrics": (200, VLLM_PAGE.read_bytes()), "/dcgm": (200, DCGM_PAGE)}
    with http_collector() as seen, engine(pages) as here:
        fine = Config(
            otlp_endpoint=seen.url,
            dcgm_url=f"{here}/dcgm",
            engine_metrics=(here,),
            spool_dir=tmp_path,
            spool_bytes=1 << 20,
        )
        assert problems(fine) == dict.fromkeys(("endpoint", "spool", "dcgm-exporter", "engine metrics"))
        assert (seen.calls, seen.spans) == (["traces"], []), "a message without spans"
    away = Config(otlp_endpoint=nobody, dcgm_url=nobody, engine_metrics=(nobody,), spool_bytes=0)
    lines = [check.line() for check in checks(away, agent_runs=False)]
    assert [line.split(":")[0] for line in lines] == [
        "endpoint http",
        "dcgm-exporter http",
        "engine metrics http",
    ]
    assert all("nobody answers (Connection refused); " in line for line in lines)
    assert "batches wait in memory, then the oldest are dropped: start the Collector" in lines[0]
    assert problems(Config(out_dir=tmp_path)) == {"files": None}, "what is not asked for is not missed"


@pytest.mark.parametrize(
    ("status", "page", "said"),
    [
        (200, b"<html>hi</html>", (NO_EXPORTER, NO_ENGINE)),
        (200, b"", (NO_EXPORTER, NO_ENGINE)),
        (200, b"node_load1 0.5\n", (NO_EXPORTER, NO_ENGINE)),
        (200, DCGM_PAGE, (None, NO_ENGINE)),
        (200, VLLM_PAGE.read_bytes(), (NO_EXPORTER, None)),
        (404, DCGM_PAGE, ("answered 404", "answered 404")),
        (302, b"", ("answered 302", "answered 302")),
        (200, DCGM_PAGE * (5 << 14), ("more than 4194304 bytes", NO_ENGINE)),
        (200, b"vllm:x 1\n" * (2 << 20), ("more than 4194304 bytes", "more than 16777216 bytes")),
    ],
    ids=["html", "empty", "another's", "dcgm", "vllm", "404", "302", "5 MiB", "18 MiB"],
)  # fmt: skip
def test_a_page_that_is_no_page_of_metrics_is_said(
    status: int, page: bytes, said: tuple[str | None, str | None], tmp_path: Path
) -> None:
    with engine({"/metrics": (status, page)}) as here:
        found = problems(Config(out_dir=tmp_path, dcgm_url=here, engine_metrics=(here,)))
    assert (found["dcgm-exporter"], found["engine metrics"]) == said


def test_a_page_that_never_comes_or_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, listening: int, tmp_path: Path
) -> None:
    monkeypatch.setattr(endpoint_checks, "ANSWER_S", 0.3)
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n") as drips:
        config = Config(out_dir=tmp_path, dcgm_url=drips, engine_metrics=(f"http://127.0.0.1:{listening}",))
        found = problems(config)
    assert found["dcgm-exporter"] == "not read within 0.3 s"
    assert found["engine metrics"] == "no answer within 0.3 s"


def test_what_cannot_be_parsed_or_speaks_no_http_is_one_line(tmp_path: Path) -> None:
    broken = b'DCGM_FI_DEV_SM_CLOCK{UUID="GPU-a' + b"\x1b[31m" * 100 + b"\n"
    with engine({"/metrics": (200, broken)}) as here:
        found = problems(Config(out_dir=tmp_path, dcgm_url=here))["dcgm-exporter"]
    assert found is not None and found.startswith("not in Prometheus' text form (")
    assert found.isprintable() and len(found) <= 201  # an ellipsis
    with answering(b"220 mail ESMTP\r\n", 2) as (port, _):
        config = Config(out_dir=tmp_path, engine_metrics=(f"http://127.0.0.1:{port}",))
        assert problems(config)["engine metrics"] == "does not speak HTTP"


def test_a_spool_without_room_or_right_is_said(tmp_path: Path) -> None:
    assert room(tmp_path / "yet" / "to be made", 1) is None
    assert str(room(tmp_path, 1 << 49)).endswith(f"bytes free, {1 << 49} may be wanted (spool_bytes)")
    (tmp_path / "file").touch()
    assert str(room(tmp_path / "file" / "spool", 1)).startswith("cannot be written to")
    assert str(room(Path("/proc/spool"), 1)).startswith(("cannot be written to", "0 bytes free"))


HERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "settings",
    [
        {"otlp_endpoint": HERE, "spool_dir": "{}/file/spool"},
        {"otlp_endpoint": HERE, "spool_dir": "/proc/spool"},
        {"otlp_endpoint": "collector:4318"},
        {"otlp_endpoint": f"{HERE}/v1?key=secret"},
        {"otlp_endpoint": f"{HERE}/path", "otlp_protocol": "grpc"},
        {"otlp_endpoint": HERE, "otlp_token_file": "{}/missing"},
        {"otlp_endpoint": "http://collector:4318", "otlp_token_file": "{}/file"},
        {"otlp_endpoint": "https://127.0.0.1:9", "otlp_ca_file": "{}/file"},
        {"out_dir": "{}/file"},
        {"out_dir": "{}/file/traces"},
        {"out_dir": "/proc/traces"},
        {"ring_dir": "{}/file/rings"},
        {"ring_dir": "/proc/rings"},
        {"dcgm_url": "127.0.0.1:9400"},
        {"dcgm_url": "http://127.0.0.1:9400/metrics#secret"},
        {"engine_metrics": ["127.0.0.1:8000"]},
        {"engine_metrics": ["http://127.0.0.1:8000#secret"]},
        {"tls_cert_file": "{}/file"},
        {"tls_cert_file": "{}/file", "tls_key_file": "{}/file"},
        {"metrics": "0.0.0.0:0"},
    ],
    ids=str,
)
def test_doctor_finds_what_run_refuses_in_its_words_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "file").write_text("token")

    def filled(value: Any) -> Any:
        return value.format(tmp_path) if isinstance(value, str) else value

    settings = {"out_dir": "{}/out", "ring_dir": "{}/rings", "samplers": ["host"], **settings}
    settings = {key: filled(value) for key, value in settings.items()}
    merged = merge({}, {}, settings, "f")
    document = reported(monkeypatch, {}, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises((ConfigError, BackendError)) as refused, agent(merged.config, {}):
        pass
    words = merged.named(str(refused.value)).replace("?key=secret", "").replace("#secret", "")
    assert [line for line in document["problems"] if words in line]
    assert "secret" not in json.dumps(document)


def test_a_sampler_that_refuses_its_page_shows_no_secret_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "http://me:hidden@127.0.0.1:9400/metrics#x"
    document = reported(monkeypatch, {"dcgm": load("dcgm", url)}, ring_dir=str(tmp_path), dcgm_url=url)
    (sampler,) = document["samplers"]
    assert sampler["reason"].startswith("--dcgm-url 'http://127.0.0.1:9400/metrics': a fragment")
    assert "hidden" not in json.dumps(document)


def test_what_run_would_make_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {
        "ring_dir": str(tmp_path / "a" / "rings"), "out_dir": str(tmp_path / "b" / "out"), "samplers": ["host"],
        "spool_dir": str(tmp_path / "c" / "spool"), "spool_bytes": 1 << 20,
    }  # fmt: skip
    with http_collector() as seen:
        document = reported(monkeypatch, {}, otlp_endpoint=seen.url, **settings)
    ours = ("rings", "files", "spool", "endpoint")
    assert [line for line in document["problems"] if line.startswith(ours)] == []
    assert {one["what"] for one in document["endpoints"]} == {"files", "spool", "endpoint"}
    assert list(tmp_path.iterdir()) == []


def test_doctor_ends_with_1_only_when_it_is_asked_to_check_and_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["doctor", "--ring-dir", str(tmp_path / "rings"), "--out", str(tmp_path / "out")]
    for found, expected in (([], 0), (["x: y; z"], 1)):
        monkeypatch.setattr(
            node_report, "report", lambda _settings, found=found: {**EMPTY, "problems": found}
        )
        for format_ in ("text", "json"):
            assert run([*words, "--format", format_]) == 0
            assert run([*words, "--format", format_, "--check"]) == expected


def test_people_are_told_when_nothing_is_wrong_and_how_to_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = "`vtprof-agent exec` starts one that does"
    for found, rings in (([], ()), (["x: y; z"], ({"file": "f", "pid": 1, "process": "alive"},))):
        document = {**EMPTY, "problems": found, "rings": rings}
        monkeypatch.setattr(node_report, "report", lambda _settings, document=document: document)
        assert run(["doctor", "--ring-dir", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert ("no problem found" in shown, begin in shown) == (not found, not rings)


def test_doctor_says_that_an_agent_follows_the_rings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "an agent follows these rings: `vtprof-agent status` shows it\n"
    words = ["doctor", "--ring-dir", str(tmp_path), "--samplers", "host"]
    assert run(words) == 0 and line not in capsys.readouterr().out
    lock = claim(tmp_path)
    assert run(words) == 0 and line in capsys.readouterr().out
    os.close(lock)


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
    """A source of counters with given devices, which tells given quantities of some."""

    quiet_s = 1.0
    period_s = 0.0

    def __init__(
        self,
        devices: list[Device] | None = None,
        reason: str | None = None,
        failure: str | None = None,
        *,
        told: Mapping[str, Sequence[str]] | None = None,
        missing: dict[str, dict[str, str]] | None = None,
        refused: dict[str, str] | None = None,
        lost: dict[str, str] | None = None,
        silent_readings: int = 0,
    ) -> None:
        self._devices, self._reason, self._failure = devices or [], reason, failure
        self._told, self._missing = told or {}, missing or {}
        self._refused, self._lost = refused or {}, lost or {}
        self._silent_readings = silent_readings
        self.closed = False

    def why_not(self) -> str | None:
        return self._reason

    def open(self) -> None:
        if self._failure:
            raise BackendError(self._failure)

    def devices(self) -> list[Device]:
        return self._devices

    def sample(self, pids: frozenset[int]) -> list[Sample]:
        assert not pids and not self.closed
        self._silent_readings -= 1
        if self._silent_readings >= 0:
            return []
        return [Sample(key, 1, hw_id=uuid) for uuid, keys in self._told.items() for key in keys]

    def lost(self) -> dict[str, str]:
        return self._lost

    def refused(self) -> dict[str, str]:
        return self._refused

    def missing(self) -> dict[str, dict[str, str]]:
        return {} if self._silent_readings >= 0 else self._missing

    def close(self) -> None:
        self.closed = True


def reported(monkeypatch: pytest.MonkeyPatch, there: dict[str, Sampler], **settings: Any) -> dict[str, Any]:
    monkeypatch.setattr(gpu_checks, "SAMPLERS", dict.fromkeys(there, ""))
    monkeypatch.setattr(gpu_checks, "load", lambda name, _url: there[name])
    monkeypatch.setattr(node_report, "candidates", list)
    return node_report.report(merge({}, {}, settings, "f"))


DRAM, ENERGY = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ
DENIED = "GPM: Insufficient Permissions"


def of_gpus(document: dict[str, Any]) -> list[str]:
    return [line for line in document["problems"] if line.startswith("GPU ")]


def test_a_gpu_that_two_samplers_know_is_one_and_what_it_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samplers: dict[str, Sampler] = {
        "gpm": FakeSampler(told={"GPU-1": [DRAM], "MIG-3": [DRAM]}),
        "nvml": FakeSampler(
            [Device("GPU-1", "H200", {"gpm": True}), Device("GPU-2", "L40S", {"gpm": False})],
            told={"GPU-1": [ENERGY], "GPU-2": [ENERGY]},
        ),
        "pcie": FakeSampler([Device("GPU-1", "H200", {})], failure="NVML: no permission"),
        "dcgm": FakeSampler(reason="no dcgm_url is set"),
    }  # fmt: skip
    document = reported(monkeypatch, samplers, ring_dir=str(tmp_path))
    assert [(gpu["uuid"], gpu["gpm"], gpu["mig"], gpu["missing"]) for gpu in document["gpus"]] == [
        ("GPU-1", True, False, {}),
        ("GPU-2", False, False, {}),
    ]
    states = {one["name"]: (one["available"], one["reason"]) for one in document["samplers"]}
    assert states == {
        "gpm": (True, None),
        "nvml": (True, None),
        "pcie": (False, "NVML: no permission"),
        "dcgm": (False, "no dcgm_url is set"),
    }
    assert all(one["costs"] for one in document["samplers"])
    (missing,) = of_gpus(document)
    assert missing.startswith("GPU GPU-2: no GPM (from Hopper on); no DRAM bandwidth")
    assert "--dcgm-url" in missing
    assert all(sampler.closed for name, sampler in samplers.items() if name != "dcgm")  # type: ignore[attr-defined]


def test_what_a_reading_is_refused_is_a_problem_of_that_gpu_with_its_reason_and_cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denied = (
        "GPU GPU-1: GPM: Insufficient Permissions; no DRAM bandwidth nor tensor activity of it, and their attribution:"
        " run as root (CAP_SYS_ADMIN), or load the driver with NVreg_RestrictProfilingToAdminUsers=0, or give the page of a"
        " dcgm-exporter with --dcgm-url"
    )
    gpus = [Device(uuid, "H200", {"gpm": True}) for uuid in ("GPU-1", "GPU-2")]
    samplers: dict[str, Sampler] = {
        # GPM tells nothing before its second reading.
        "gpm": FakeSampler(
            told={"GPU-2": [DRAM]}, missing={"GPU-1": {DRAM: DENIED}}, refused={"GPU-1": DENIED}, silent_readings=1
        ),
        "nvml": FakeSampler(gpus, told={"GPU-2": [ENERGY]}, missing={"GPU-1": {ENERGY: "NVML: Not Supported"}}),
    }  # fmt: skip
    document = reported(monkeypatch, samplers, ring_dir=str(tmp_path))
    assert of_gpus(document) == [
        denied,
        "GPU GPU-1: no energy counter (NVML: Not Supported); no energy of requests and steps on it",
    ]
    assert [gpu["missing"] for gpu in document["gpus"]] == [
        {DRAM: DENIED, ENERGY: "NVML: Not Supported"}, {},
    ]  # fmt: skip
    assert [one["reason"] for one in document["samplers"]] == [None, None], "the other GPU tells them"
    monkeypatch.setattr(node_report, "report", lambda _settings: document)
    assert run(["doctor", "--ring-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert (
        f"GPU GPU-1: H200, GPM yes, MIG no; not told: dram_bandwidth ({DENIED}), energy (NVML: Not Supported)\n"
        in shown
    )
    assert "GPU GPU-2: H200, GPM yes, MIG no\n" in shown


def test_a_sampler_that_every_gpu_refuses_or_that_tells_nothing_or_fails_is_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Broken(FakeSampler):
        def sample(self, pids: frozenset[int]) -> list[Sample]:
            raise OSError(f"{len(pids)} processes")

    samplers: dict[str, Sampler] = {
        "gpm": FakeSampler(missing={"GPU-1": {DRAM: DENIED}}, refused={"GPU-1": DENIED}),
        "nvml": FakeSampler([Device("GPU-1", "H200", {"gpm": True})], told={"GPU-1": [ENERGY]}),
        "pcie": FakeSampler(),
        "amd": Broken(),
    }
    document = reported(monkeypatch, samplers, ring_dir=str(tmp_path))
    assert [one["reason"] for one in document["samplers"]] == [
        DENIED, None, "no device here tells it anything", "a reading of it failed: OSError('0 processes')",
    ]  # fmt: skip


def test_a_gpu_in_mig_mode_is_judged_by_its_instances_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = [
        Device("GPU-1", "H200", {"gpm": False}),
        Device("MIG-a", "H200 MIG", {"gpm": True, "mig_of": "GPU-1"}),
        Device("MIG-b", "H200 MIG", {"gpm": True, "mig_of": "GPU-1"}),
    ]
    no_energy = {"MIG-a": {ENERGY: "NVML: Not Supported"}}
    samplers: dict[str, Sampler] = {
        "gpm": FakeSampler(
            told={"MIG-a": [DRAM]}, missing={"GPU-1": {DRAM: "whole"}, "MIG-b": {DRAM: DENIED}}
        ),
        "nvml": FakeSampler(gpus, told={"GPU-1": [ENERGY]}, missing=no_energy),
    }
    document = reported(monkeypatch, samplers, ring_dir=str(tmp_path))
    (said,) = of_gpus(document)
    assert said.startswith(f"GPU MIG-b: {DENIED}; no DRAM bandwidth")
    monkeypatch.setattr(node_report, "report", lambda _settings: document)
    assert run(["doctor", "--ring-dir", str(tmp_path)]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("GPU ")]
    assert shown == [
        "GPU GPU-1: H200, cut into MIG instances",
        "GPU MIG-a: H200 MIG, GPM yes, a MIG instance of GPU-1; not told: energy (NVML: Not Supported)",
        f"GPU MIG-b: H200 MIG, GPM yes, a MIG instance of GPU-1; not told: dram_bandwidth ({DENIED})",
    ]


def test_a_gpu_that_fell_off_the_bus_and_a_driver_that_went_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = {"index 1": "the GPU fell off the bus"}
    nvml = FakeSampler([Device("GPU-1", "L40S", {})], told={"GPU-1": [ENERGY, DRAM]}, lost=lost)
    document = reported(monkeypatch, {"nvml": nvml}, ring_dir=str(tmp_path))
    assert of_gpus(document) == ["GPU index 1: not read: the GPU fell off the bus; no counters of it"]
    gone = FakeSampler([Device("GPU-1", "L40S", {})], lost={"": "the NVIDIA driver was reloaded"})
    document = reported(monkeypatch, {"nvml": gone}, ring_dir=str(tmp_path))
    assert [one["reason"] for one in document["samplers"]] == ["the NVIDIA driver was reloaded"]
    assert of_gpus(document) == []


def test_dram_bandwidth_of_an_exporter_s_page_is_no_lack_and_of_amd_none_is_expected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listening: int
) -> None:
    there: dict[str, Sampler] = {
        "gpm": FakeSampler(reason="no GPU here offers GPM"),
        "nvml": FakeSampler([Device("GPU-1", "A100", {"gpm": False})], told={"GPU-1": [ENERGY]}),
        "amd": FakeSampler([Device("amd-1", "MI300X", {"gpm": False})], told={"amd-1": [ENERGY]}),
        "dcgm": FakeSampler(told={"GPU-1": [DRAM]}),
    }
    settings = {"ring_dir": str(tmp_path), "dcgm_url": f"http://127.0.0.1:{listening}/metrics"}
    monkeypatch.setattr(node_report, "checks", lambda *_: [])
    assert of_gpus(reported(monkeypatch, there, **settings)) == []
    there["dcgm"] = FakeSampler(told={"GPU-1": [ENERGY]})
    (said,) = of_gpus(reported(monkeypatch, there, **settings))
    assert said.startswith("GPU GPU-1: no GPM") and said.endswith(
        "have its dcgm-exporter tell DCGM_FI_PROF_DRAM_ACTIVE and DCGM_FI_PROF_PIPE_TENSOR_ACTIVE of it"
    )
    there["dcgm"] = FakeSampler(lost={"": "nobody answers"})
    assert of_gpus(reported(monkeypatch, there, **settings)) == [], "said of the page"


def test_an_exporter_s_page_that_is_down_is_a_problem_and_its_sampler_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent: int
) -> None:
    url = f"http://127.0.0.1:{silent}/metrics"
    document = reported(monkeypatch, {"dcgm": load("dcgm", url)}, ring_dir=str(tmp_path), dcgm_url=url)
    (sampler,) = document["samplers"]
    assert (sampler["available"], sampler["reason"]) == (False, "cannot connect")
    assert any(line.startswith("dcgm-exporter ") for line in document["problems"])


def test_doctor_takes_a_reading_of_the_driver(library: Path, tmp_path: Path) -> None:
    control = Control(tmp_path / "control", 2)
    control.fail(0, "gpm_sample", NO_PERMISSION)
    control.instances(1, MIG)

    def doctor() -> dict[str, Any]:
        arguments = ["--ring-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "json"]
        command = [sys.executable, "-m", "vtprof_agent", "doctor", *arguments]
        ran = subprocess.run(
            command, env=environment(library, control), capture_output=True, text=True, timeout=60, check=True
        )
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    document = doctor()
    (said,) = of_gpus(document)
    assert said.startswith(f"GPU {A}: {DENIED}; ")
    assert {gpu["uuid"] for gpu in document["gpus"] if DRAM not in gpu["missing"]} == {"MIG-x", "MIG-y"}
    control.fail(0, "gpm_sample", 0)
    assert of_gpus(doctor()) == []


RECORDS = """
import sys
from vtprof_probe.ring_writer import RingWriter
ring = RingWriter.create(sys.argv[1], 64, "all", 0, {})
print(ring.path, flush=True)
sys.stdin.readline()
ring.close()
print("closed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("of_session", [False, True], ids=["ring folder", "session"])
def test_a_server_that_is_recorded_is_not_offered_to_attach_and_its_ring_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], of_session: bool
) -> None:
    rings, session = tmp_path / "rings", tmp_path / "session"
    monkeypatch.setattr(gpu_checks, "SAMPLERS", {})
    monkeypatch.setattr(node_report, "sessions", lambda: [session])
    settings = merge({}, {}, {} if of_session else {"ring_dir": str(rings)}, "f")
    settings = replace(settings, config=replace(settings.config, ring_dir=rings))
    report = node_report.report

    def told() -> list[str]:
        monkeypatch.setattr(node_report, "report", lambda _settings: report(settings))
        assert run(["doctor"]) == 0
        return capsys.readouterr().out.splitlines()

    command = [sys.executable, "-c", RECORDS, str(session if of_session else rings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        candidate = Candidate(server.pid, "serve", "transformers", None)
        other = replace(candidate, pid=os.getppid())
        monkeypatch.setattr(node_report, "candidates", lambda: [candidate, other])
        ring = server.stdout.readline().strip()
        who = f"PID {server.pid} (serve): transformers"
        free = "can be attached to"
        lines = told()
        assert f"{who}, is recorded, to {ring}; `vtprof-agent detach {server.pid}` ends that" in lines
        assert f"PID {os.getppid()} (serve): transformers, {free}" in lines
        assert f"ring {ring}: PID {server.pid} (alive)" in lines
        assert not [line for line in lines if line.startswith("no ring")]
        print(file=server.stdin, flush=True)
        assert server.stdout.readline() == "closed\n"
        assert f"{who}, {free}" in told(), "it was detached from"


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
    assert gpu_checks.COSTS.keys() == SAMPLERS.keys()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use any folder")
def test_a_folder_without_permission_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    document = reported(monkeypatch, {}, ring_dir=str(tmp_path), out_dir=str(closed))
    said = f"files {closed}: --out {closed}: no permission to write to {closed}; choose another folder;"
    assert any(line.startswith(said) for line in document["problems"])


def test_the_command_ends_well_on_a_node_where_everything_is_missing_and_shows_no_secret(
    tmp_path: Path, silent: int
) -> None:
    url = f"http://me:hunter2@127.0.0.1:{silent}/metrics"
    page = f"{url}?key=hunter2"
    (tmp_path / "token").write_text("hunter2")
    arguments = [
        "--ring-dir", "/proc/missing", "--otlp-endpoint", url, "--dcgm-url", page, "--engine-metrics", page,
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
