"""`vtprof-agent status` of a server: role, hooks and why they are off, an engine version that nobody tested."""

import json
from pathlib import Path
from typing import Any

from vtprof_agent.rings_report import look
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names
from vtprof_schemas.engine_versions import TESTED, is_tested

HOOKS = {
    "vllm.schedule": "set",
    "vllm.encode": "waiting",
    "vllm.update": "vllm.Scheduler.update is not there",
}


def _line(tmp_path: Path, info: dict[str, Any]) -> Any:
    ring = RingWriter.create(str(tmp_path), 64, "all", 0, info)
    (line,), problems = look(tmp_path)
    assert not problems
    ring.close()
    return line


def test_role_server_and_hooks_are_as_the_process_says(tmp_path: Path) -> None:
    info = {
        names.ENGINE_NAME: "vllm", names.ENGINE_VERSION: "0.9.2+cpu", names.FAMILY: "7-8", names.ROLE: "engine",
        names.RANK: 3, names.PROBE_HOOKS: json.dumps(HOOKS),
    }  # fmt: skip
    line = _line(tmp_path, info)
    assert (line.role, line.rank, line.family, line.hooks, line.engine_tested) == (
        "engine",
        3,
        "7-8",
        HOOKS,
        False,
    )
    first, hooks, off = line.text().splitlines()
    since, until = TESTED["vllm"]
    assert (
        f"engine rank 3: vllm 0.9.2+cpu (untested: the hooks know {since} up to, without, {until})," in first
    )
    assert hooks == "  1 of 2 hooks set; server 7-8"  # what waits belongs to another process
    assert off == "  hook vllm.update is off: vllm.Scheduler.update is not there"


def test_all_processes_of_a_server_have_its_model_and_detached_ones_come_last(tmp_path: Path) -> None:
    server = {names.ENGINE_NAME: "vllm", names.FAMILY: "7-8"}
    told = (("worker", {}), ("api", {}), ("engine", {names.REQUEST_MODEL: "m"}))
    rings = [
        RingWriter.create(str(tmp_path), 64, role, 0, {**server, names.ROLE: role, **more})
        for role, more in told
    ]
    rings[0].close()
    lines, _ = look(tmp_path)
    for ring in rings:
        ring.close()
    assert {(line.role, line.closed, line.model) for line in lines} == {
        ("api", False, "m"), ("engine", False, "m"), ("worker", True, "m"),
    }  # fmt: skip
    assert lines[-1].role == "worker"
    assert "(alive) worker rank 0: vllm, m; detached," in lines[-1].text()


def test_hooks_that_are_no_table_are_none(tmp_path: Path) -> None:
    assert _line(tmp_path, {names.PROBE_HOOKS: "[1"}).hooks == {}


def test_a_tested_version_is_within_its_range_and_an_unknown_engine_is_neither() -> None:
    assert [is_tested("vllm", version) for version in ("0.10.1", "0.10.2", "0.33.1.dev4+cpu", "0.34.0", "none")] == [
        False, True, True, False, None,
    ]  # fmt: skip
    assert is_tested("other", "1.0") is None


def test_what_a_process_says_of_itself_cannot_steer_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;x\x07\n"
    hooks = json.dumps({"a" + hostile: "set", "vllm.update": hostile})
    keys = (names.ENGINE_NAME, names.ENGINE_VERSION, names.FAMILY, names.ROLE, names.REQUEST_MODEL)
    line = _line(tmp_path, {**dict.fromkeys(keys, hostile), names.PROBE_HOOKS: hooks})
    assert line.model == hostile, "scripts get it as it is, escaped by JSON"
    for shown in line.text().split("\n"):
        assert shown.isprintable()
    assert len(line.text().split("\n")) == 3
