"""The file in which a running agent tells of itself: the user's alone, whole, and harmless whatever lies in its place."""

import json
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent_states import HEALTHY, NOW, STATE, S, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtprof_agent.agent_state import PERIOD_S, STATE_FILE, AgentState, StateWriter, look
from vtprof_agent.follower import Progress
from vtprof_agent.progress_store import CURSORS_FILE, LOCK_FILE, ProgressStore, claim
from vtprof_agent.regular_file import open_regular
from vtprof_schemas.errors import BackendError


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    fit = replace(
        STATE.attribution[0], co_tenant=np.True_, condition_number=np.float64(7.5), windows=np.int64(3)
    )
    write(tmp_path, replace(STATE, attribution=(fit,)))
    (written,) = json.loads((tmp_path / STATE_FILE).read_text())["agent"]["attribution"]
    assert (written["co_tenant"], written["condition_number"], written["windows"]) == (True, 7.5, 3)


def test_the_file_is_the_user_s_alone_replaced_as_a_whole_and_not_too_often(tmp_path: Path) -> None:
    now = [0]
    writer = StateWriter(tmp_path, lambda: now[0], lambda: NOW)
    (tmp_path / STATE_FILE).with_suffix(".new").write_text("of an agent that was killed")
    asked = []

    def state() -> AgentState:
        asked.append(1)
        return STATE

    for now[0] in (0, S, int(PERIOD_S * S) - 1, int(PERIOD_S * S)):
        writer.write(state)
    assert len(asked) == 2
    assert stat.S_IMODE((tmp_path / STATE_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    writer.close()
    writer.close()
    assert not list(tmp_path.iterdir())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    agent=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*vars(STATE), "target", "key"]), inner, max_size=30)
        ),
        max_leaves=40,
    )
)
def test_whatever_the_file_holds_is_told_in_lines(tmp_path: Path, agent: object) -> None:
    lock = claim(tmp_path)
    document = {"version": 1, "written_unix_ns": NOW, "agent": agent}
    (tmp_path / STATE_FILE).write_text(json.dumps(document))
    assert all(line.isprintable() for line in look(tmp_path, NOW).lines())
    os.close(lock)


@pytest.mark.parametrize("depth", range(100, 1000, 50))
def test_a_state_nested_however_deep_is_told_in_lines_and_as_json(tmp_path: Path, depth: int) -> None:
    lock = claim(tmp_path)
    nested = "[" * depth + "]" * depth
    (tmp_path / STATE_FILE).write_text(
        f'{{"version": 1, "written_unix_ns": {NOW}, "agent": {{"pid": {nested}, "detail": {nested}}}}}'
    )
    seen = look(tmp_path, NOW)
    assert all(line.isprintable() for line in seen.lines())
    assert json.dumps(seen.document(), indent=2)
    os.close(lock)


def test_what_a_killed_agent_told_is_not_taken_for_the_next_one_s_which_cannot_write(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path, HEALTHY)
    os.close(lock)  # it was killed
    lock = claim(tmp_path)
    StateWriter(tmp_path)
    assert look(tmp_path, NOW).lines() == [f"agent of {tmp_path}: runs, and has told nothing of itself yet"]
    os.close(lock)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", '{"version": 2}', "[" * 100_000, '{"version":1,"agent":{},"written_unix_ns":"x"}'],
)
def test_a_file_that_is_no_state_is_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    (line,) = look(tmp_path, NOW).lines()
    assert f"{STATE_FILE} cannot be used" in line


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}")
    (tmp_path / STATE_FILE).symlink_to(tmp_path / "other")
    assert "cannot be read" in look(tmp_path, NOW).lines()[0]
    (tmp_path / STATE_FILE).with_suffix(".new").symlink_to(tmp_path / "other")
    write(tmp_path)
    assert (tmp_path / "other").read_text() == "{}"
    assert not (tmp_path / STATE_FILE).is_symlink()


@pytest.fixture
def never_waits() -> Iterator[None]:
    """Fail a test that waits for the other end of a FIFO."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for the other end of a FIFO")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("never_waits")
def test_a_fifo_in_place_of_a_file_is_a_line_and_no_wait(tmp_path: Path) -> None:
    for name in (STATE_FILE, LOCK_FILE, CURSORS_FILE):
        os.mkfifo(tmp_path / name)
    seen = look(tmp_path, NOW)
    assert (seen.alive, seen.lines()) == (
        None,
        [f"agent of {tmp_path}: {STATE_FILE} cannot be read: not a regular file"],
    )
    with pytest.raises(BackendError, match=f"{LOCK_FILE}: cannot be used as ring folder: not a regular file"):
        claim(tmp_path)
    store = ProgressStore(tmp_path)
    assert store.get("r") is None and "not a regular file" in str(store.problem)
    store.save({"r": Progress(5)})
    assert ProgressStore(tmp_path).get("r") == Progress(5)
    write(tmp_path)
    assert look(tmp_path, NOW).age_s == 0


@pytest.mark.usefixtures("never_waits")
def test_a_device_or_a_link_in_place_of_the_cursors_is_not_read(tmp_path: Path) -> None:
    (tmp_path / CURSORS_FILE).symlink_to("/dev/zero")
    assert ProgressStore(tmp_path).problem is not None
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path("/dev/zero"), os.O_RDONLY)
