"""A ring folder that is removed and made anew, as by the next server, has one agent still."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from test_agent_feeds import NODE, Kept
from test_agent_loop import _begin, _end, _ring

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.config import Config
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.progress_store import claim, claim_anew
from vtprof_agent.runner import agent
from vtprof_schemas.errors import BackendError


def _agent(rings: Path, lock: int) -> Agent:
    observer = Observer(NODE, Metrics("test"), sample_s=0, series_s=0)
    return Agent(
        rings, [Kept()], LoopSettings(scan_s=0), AssemblySettings(), observer=observer,
        claim=partial(claim_anew, rings, lock),
    )  # fmt: skip


def _made_anew(rings: Path) -> None:
    shutil.rmtree(rings)
    rings.mkdir()


def test_the_agent_locks_the_new_folder_and_a_second_one_is_refused(tmp_path: Path) -> None:
    rings = tmp_path / "rings"
    lock = claim(rings)
    ours = _agent(rings, lock)
    ours.turn()
    _made_anew(rings)
    ring = _ring(rings)
    _begin(ring)
    _end(ring)
    ours.turn()
    assert ours.records_read > 0
    with pytest.raises(BackendError, match="another vtprof-agent follows these rings"):
        claim(rings)
    assert not os.get_inheritable(lock)
    ours.stop()
    os.close(lock)
    os.close(claim(rings))
    ring.close()


def test_an_agent_as_it_is_put_together_locks_the_new_folder_too(tmp_path: Path) -> None:
    rings = tmp_path / "rings"
    with agent(Config(ring_dir=rings, out_dir=tmp_path / "out", sample_s=0, scan_s=0), {}) as running:
        running.turn()
        _made_anew(rings)
        running.turn()
        with pytest.raises(BackendError, match="another vtprof-agent follows these rings"):
            claim(rings)
        running.stop()


def test_a_folder_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    rings = tmp_path / "rings"
    lock = claim(rings)
    shutil.rmtree(rings)
    claim_anew(rings, lock)
    assert not rings.exists()
    os.close(lock)


def test_where_another_agent_was_quicker_its_rings_are_left_to_it_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rings = tmp_path / "rings"
    lock = claim(rings)
    ours = _agent(rings, lock)
    ours.turn()
    _made_anew(rings)
    others = claim(rings)
    ring = _ring(rings)
    _begin(ring)
    for _ in range(3):
        ours.turn()
    assert ours.records_read == 0
    assert ["another vtprof-agent follows these rings" in line for line in caplog.messages] == [True]
    os.close(others)
    ours.turn()
    assert ours.records_read > 0
    ours.stop()
    os.close(lock)
    ring.close()
