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
    assert hooks == "  hooks: 1 set, 1 waiting for their modules; server 7-8"
    assert off == "  hook vllm.update is off: vllm.Scheduler.update is not there"


def test_hooks_that_are_no_table_are_none(tmp_path: Path) -> None:
    assert _line(tmp_path, {names.PROBE_HOOKS: "[1"}).hooks == {}


def test_a_tested_version_is_within_its_range_and_an_unknown_engine_is_neither() -> None:
    assert [is_tested("vllm", version) for version in ("0.10.1", "0.10.2", "0.33.1.dev4+cpu", "0.34.0", "none")] == [
        False, True, True, False, None,
    ]  # fmt: skip
    assert is_tested("other", "1.0") is None
