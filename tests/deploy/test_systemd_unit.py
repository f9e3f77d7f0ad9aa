"""The service file is sound, fits the agent's own limits and folders, and its command does what systemd will expect."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
from systemd_unit import Section, environment, one, read_unit, seconds, size_bytes

from vtprof_agent import runner
from vtprof_agent.config import Config
from vtprof_agent.loop import DRAIN_S
from vtprof_agent.sampling import JOIN_S
from vtprof_schemas import names
from vtprof_schemas.errors import VtprofError

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
UNIT = SYSTEMD / "vtprof-agent.service"
SETTINGS = tomllib.loads((DEPLOY / "agent.toml").read_text("utf-8"))
analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)


@pytest.fixture(scope="module")
def service() -> Section:
    return read_unit(UNIT)["Service"]


def command(service: Section) -> list[str]:
    """Return the words of ExecStart, with this environment's agent in place of the installed one."""
    program, *rest = shlex.split(one(service, "ExecStart"))
    assert Path(program).name == "vtprof-agent"
    return [sys.executable, "-m", "vtprof_agent", *rest]


# --- What systemd says -------------------------------------------------------------------------------------


@analyze
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    # It looks whether the programs are there; ours is not, on the machine of a test.
    here.write_text(UNIT.read_text("utf-8").replace("/opt/vtprof/bin/vtprof-agent", sys.executable), "utf-8")
    result = subprocess.run(
        ["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False
    )
    told = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert (result.returncode, told) == (0, [])


@analyze
def test_systemd_would_find_a_misspelt_key(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text("utf-8").replace("MemoryMax=", "MemoryMaximum="), "utf-8")
    result = subprocess.run(
        ["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False
    )
    assert "MemoryMaximum" in result.stderr


@analyze
def test_its_exposure_is_low() -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-600:]


# --- Against the agent's own limits -------------------------------------------------------------------------


def test_a_fault_to_be_repaired_by_hand_is_not_tried_again(service: Section) -> None:
    assert one(service, "Restart") == "on-failure"
    assert one(service, "RestartPreventExitStatus").split() == [str(VtprofError.exit_code)]


def test_a_stop_has_the_time_that_the_agent_takes_at_most(service: Section) -> None:
    stop_s = SETTINGS.get("stop_s", Config.stop_s)
    assert seconds(one(service, "TimeoutStopSec")) >= DRAIN_S + stop_s + JOIN_S + 10


def test_limits_stand_above_the_budget_that_sheds_detail(service: Section) -> None:
    budget_bytes = SETTINGS.get("budget_rss_bytes", Config.budget_rss_bytes)
    assert size_bytes(one(service, "MemoryMax")) >= 1.5 * budget_bytes
    cores = float(one(service, "CPUQuota").removesuffix("%")) / 100
    assert cores >= 3 * SETTINGS.get("budget_cpu_ratio", Config.budget_cpu_ratio)


def test_as_many_files_may_be_open_as_rings_are_followed(service: Section) -> None:
    assert int(one(service, "LimitNOFILE")) - runner.SPARE_FILES >= runner.MOST_RINGS


def test_folders_and_group_are_those_of_the_settings(service: Section) -> None:
    state = Path("/var/lib") / one(service, "StateDirectory")
    for setting in ("out_dir", "spool_dir"):
        assert Path(SETTINGS[setting]).is_relative_to(state), (
            "ProtectSystem=strict: nothing else can be written"
        )
    assert one(service, "WorkingDirectory") == str(state)
    assert environment(service)[names.ENV_RING_GROUP] == one(service, "SupplementaryGroups")
    shlex_config = shlex.split(one(service, "ExecStart"))
    assert shlex_config[shlex_config.index("--config") + 1] == "/etc/vtprof/agent.toml"


def test_nothing_hides_the_servers_or_takes_their_rings(service: Section) -> None:
    # A hidden process looks like a dead one, whose ring is removed; RemoveIPC= empties /dev/shm of what is the user's.
    assert one(service, "ProtectProc") == "default"
    assert one(service, "ProcSubset") == "all"
    assert not {"DynamicUser", "RemoveIPC", "PrivateDevices", "PrivateUsers", "RuntimeDirectory"} & set(
        service
    )


def test_the_ring_folder_is_made_before_the_agent_and_is_the_default_of_both_sides(service: Section) -> None:
    (line,) = [text for text in _lines("vtprof.tmpfiles.conf") if text]
    kind, path, mode, user, group, age = line.split()
    assert (kind, path, age) == ("d", str(names.DEFAULT_RING_DIR), "-")
    assert (user, group) == (one(service, "User"), one(service, "SupplementaryGroups"))
    assert mode == "3770"
    assert one(service, "ExecStartPre").split()[-1] == "vtprof.conf"
    made = {tuple(words.split()[:2]) for words in _lines("vtprof.sysusers.conf")}
    assert {("u", user), ("g", group), ("m", user)} <= made


def _lines(name: str) -> list[str]:
    return [text for text in (SYSTEMD / name).read_text("utf-8").splitlines() if not text.startswith("#")]


# --- What the command does ----------------------------------------------------------------------------------


def surroundings(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the installed settings write below a test's folder alone."""
    moved = {
        "OUT_DIR": tmp_path / "traces", "SPOOL_DIR": tmp_path / "spool", "RING_DIR": tmp_path / "rings",
        "METRICS": "127.0.0.1:0", "OTLP_ENDPOINT": "http://127.0.0.1:9", "STOP_S": 0.5,
    }  # fmt: skip
    return {**os.environ, **{f"VTPROF_AGENT_{key}": str(value) for key, value in moved.items()}}


def test_it_starts_answers_and_ends_well_at_systemds_signal(service: Section, tmp_path: Path) -> None:
    words = command(service)
    words[words.index("--config") + 1] = str(DEPLOY / "agent.toml")
    more = {key: value for key, value in environment(service).items() if key != names.ENV_RING_GROUP}
    agent = subprocess.Popen(words, env=surroundings(tmp_path) | more, stderr=subprocess.PIPE, text=True)
    assert agent.stderr is not None
    try:
        told = ""
        while "metrics at" not in told:
            told = agent.stderr.readline()
            assert told, f"ended with {agent.wait(10)}"
        page = told.split("metrics at ")[1].strip()
        with urllib.request.urlopen(page.replace("/metrics", "/healthz"), timeout=30) as answer:
            assert answer.read().strip() == b"ok"
        agent.send_signal(signal.SIGTERM)
        agent.stderr.read()
        assert agent.wait(seconds(one(service, "TimeoutStopSec")) + 60) == 0
    finally:
        agent.kill()
        agent.stderr.close()


def test_a_wrong_setting_ends_it_with_the_status_that_is_not_tried_again(
    service: Section, tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('ring_dirr = "/x"\n')
    words = command(service)
    words[words.index("--config") + 1] = str(config)
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=surroundings(tmp_path))
    assert str(result.returncode) == one(service, "RestartPreventExitStatus")
    assert len(result.stderr.strip().splitlines()) == 1
