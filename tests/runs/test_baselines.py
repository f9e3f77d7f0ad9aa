"""Baselines: everything comes back as it was saved; processes that add at once lose nothing; names and folders hold."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from baseline_runs import SAVE_ONE, a_run, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.devices import shared_file
from vtprof_analyzer.regress.requests import Requests, Run
from vtprof_analyzer.runs import baselines
from vtprof_analyzer.runs.baseline_file import read, write
from vtprof_schemas.errors import BackendError, ConfigError, NoData

NAMES = [one.name for one in fields(Requests)]
TEXT = st.text(min_size=1, max_size=40)
MILLISECONDS = st.one_of(st.just(np.nan), st.floats(0, 1e11))
COUNTS = st.one_of(st.just(np.nan), st.integers(0, 10**12).map(float))


def column(name: str) -> st.SearchStrategy[float]:
    if name == "weight":
        return st.floats(1e-3, 1e6)
    if name == "encoder_hit":
        return st.one_of(st.just(np.nan), st.floats(0, 1))
    return MILLISECONDS if name.endswith("_ms") else COUNTS


@st.composite
def tables(draw: st.DrawFn) -> Requests:
    count = draw(st.integers(1, 6))
    models = tuple(draw(st.lists(st.text(max_size=20), min_size=1, max_size=3, unique=True)))
    numbers: dict[str, Any] = {
        name: np.array(draw(st.lists(column(name), min_size=count, max_size=count)), dtype=np.float64)
        for name in NAMES
    }
    ids = draw(st.lists(st.text(max_size=40), min_size=count, max_size=count))
    numbers["ids"] = np.array([*ids, None], dtype=object)[:-1]
    starts = draw(st.lists(st.integers(0, 2**62), min_size=count, max_size=count))
    numbers["start_ns"] = np.array(sorted(starts), dtype=np.int64)
    index = draw(st.lists(st.integers(0, len(models) - 1), min_size=count, max_size=count))
    numbers["model"] = np.array(index, dtype=np.int64)
    return Requests(**(numbers | {"models": models}))


RUNS = st.builds(
    Run, TEXT, tables(), *[st.none() | TEXT] * 3,
    st.dictionaries(TEXT, st.integers(0, 10**9), max_size=3), st.lists(TEXT, max_size=3, unique=True).map(tuple),
)  # fmt: skip


def same(one: Run, other: Run) -> None:
    """Assert that two runs agree in everything but their labels."""
    for name in NAMES:
        found, wanted = getattr(other.requests, name), getattr(one.requests, name)
        np.testing.assert_array_equal(found, wanted, err_msg=name)
        if name != "models":
            assert found.dtype == wanted.dtype, name
    assert replace(one, label="", requests=None) == replace(other, label="", requests=None)


@given(st.lists(RUNS, min_size=1, max_size=3), st.none() | TEXT)
@settings(max_examples=25)
def test_all_columns_and_all_metadata_come_back_exactly(runs: list[Run], note: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.parquet"
        write(file, "x", note, [(run, 7) for run in runs], 9)
        baseline, found = read(file)
    assert (baseline.name, baseline.note, baseline.saved_unix_nano) == ("x", note, 9)
    assert [told.label for told in baseline.runs] == [run.label for run in runs]
    assert [told.saved_unix_nano for told in baseline.runs] == [7] * len(runs)
    for run, back in zip(runs, found, strict=True):
        assert back.label == run.label
        same(run, back)


def test_runs_are_called_by_the_name_and_their_number(tmp_path: Path) -> None:
    file = baselines.save("main", [a_run(0)], tmp_path)
    assert [run.label for run in baselines.load(file)] == ["main"]
    baselines.save("main", [a_run(1)], tmp_path, add=True)
    assert [run.label for run in baselines.load(file)] == ["main #1", "main #2"]


def test_the_file_is_a_request_table_for_everyone_else(tmp_path: Path) -> None:
    file = baselines.save("main", [a_run(0), a_run(1)], tmp_path)
    with duckdb.connect() as anyone:
        found = anyone.sql(
            f"SELECT run, request_id, model, n_visual_tokens, ttft_ms FROM '{file}'"
        ).fetchall()
    assert found[0] == (1, "0-0", "Qwen", 100.0, 10.0)
    assert [row[0] for row in found] == [1, 1, 1, 2, 2, 2]


def test_what_is_added_stands_beside_what_was_there(tmp_path: Path) -> None:
    baselines.save("main", [a_run(0)], tmp_path, note="first", now_unix_nano=1)
    file = baselines.save("main", [a_run(1)], tmp_path, add=True, now_unix_nano=2)
    baseline, runs = read(file)
    assert (baseline.note, baseline.saved_unix_nano) == ("first", 2)
    assert [told.saved_unix_nano for told in baseline.runs] == [1, 2]
    assert [told.label for told in baseline.runs] == ["traces/0", "traces/1"]
    same(a_run(0), runs[0])
    same(a_run(1), runs[1])


def test_adding_to_nothing_makes_a_baseline(tmp_path: Path) -> None:
    assert len(baselines.load(baselines.save("main", [a_run(0)], tmp_path, add=True))) == 1


def test_processes_that_add_at_the_same_time_lose_no_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVE_ONE, str(tmp_path)]
    started = [
        subprocess.Popen([*command, str(number)], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for number in range(3)
    ]  # fmt: skip
    for process in started:  # all have imported what they need before any of them begins
        assert process.stdout
        process.stdout.readline()
    for process in started:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0, 0, 0]
    (file,) = tmp_path.iterdir()
    saved = [told.label for told in baselines.facts(file).runs]
    assert sorted(saved) == sorted(f"traces/{number}" for number in range(12))


def test_a_save_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = baselines.save("main", [a_run(0)], tmp_path)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="No space left"):
        baselines.save("main", [a_run(1)], tmp_path, add=True)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    old, young, others = (
        tmp_path / name for name in (".main.parquet.1.tmp", ".main.parquet.2.tmp", ".x.parquet.1.tmp")
    )
    for left in (old, young, others):
        left.write_text("")
    os.utime(old, (0, 0))
    os.utime(others, (0, 0))
    baselines.save("main", [a_run(0)], tmp_path)
    assert sorted(left.exists() for left in (old, young, others)) == [False, True, True]
    assert not old.exists()


def test_the_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        file = baselines.save("main", [a_run(0)], tmp_path)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    link = tmp_path / "main.parquet"
    link.symlink_to(kept / "main.parquet")
    baselines.save("main", [a_run(0)], tmp_path)
    baselines.save("main", [a_run(1)], tmp_path, add=True)
    assert link.is_symlink()
    assert len(baselines.load(kept / "main.parquet")) == 2


@pytest.mark.parametrize("name", ["a[1]", "a*b", "it's", "ü", os.fsdecode(b"a\xff")])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    file = baselines.save("main", [a_run(0)], tmp_path / name)
    assert baselines.find("main", tmp_path / name) == file
    same(a_run(0), baselines.load(file)[0])


def refused(tmp_path: Path, runs: Sequence[Run], **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        baselines.save("main", runs, tmp_path, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "value"), [("engine", "vllm 0.34.0"), ("device", "L4"), ("settings", "TP 2")]
)
def test_a_run_of_another_deployment_is_refused_unless_forced(tmp_path: Path, what: str, value: str) -> None:
    baselines.save("main", [a_run(0)], tmp_path)
    other = replace(a_run(1), **{what: value})
    assert f"{what}: {getattr(a_run(0), what)} there, {value} here" in refused(tmp_path, [other], add=True)
    assert "another deployment" in refused(tmp_path, [a_run(2), other], add=True)
    assert len(baselines.load(baselines.save("main", [other], tmp_path, add=True, force=True))) == 2


def test_runs_that_differ_are_refused_for_a_new_baseline_too(tmp_path: Path) -> None:
    refused(tmp_path, [a_run(0), replace(a_run(1), engine="vllm 0.34.0")])
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_recorded_is_no_other_deployment(tmp_path: Path) -> None:
    baselines.save("main", [a_run(0)], tmp_path)
    baselines.save("main", [replace(a_run(1), engine=None, device=None, settings=None)], tmp_path, add=True)


def test_the_same_run_a_second_time_is_refused(tmp_path: Path) -> None:
    baselines.save("main", [a_run(0), a_run(1)], tmp_path)
    assert "3 requests of traces/1 are in run 2 already" in refused(tmp_path, [a_run(1)], add=True)


def test_runs_without_requests_are_left_out(tmp_path: Path) -> None:
    nothing = Run("empty", requests(0))
    with pytest.raises(NoData):
        baselines.save("main", [nothing], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(baselines.load(baselines.save("main", [nothing, a_run(0)], tmp_path))) == 1


def test_force_replaces_baselines_and_nothing_else(tmp_path: Path) -> None:
    baselines.save("main", [a_run(0), a_run(1)], tmp_path)
    assert len(baselines.load(baselines.save("main", [a_run(2)], tmp_path, force=True))) == 1
    (tmp_path / "main.parquet").write_text("a letter")
    for given_ in ({"force": True}, {"add": True}, {}):
        assert "is no baseline" in refused(tmp_path, [a_run(0)], **given_)
    with pytest.raises(ConfigError, match="is no baseline"):
        baselines.remove("main", tmp_path)
    assert (tmp_path / "main.parquet").read_text() == "a letter"


def test_find_takes_names_and_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = baselines.save("main", [a_run(0)], tmp_path / "kept")
    assert baselines.find("main", tmp_path / "kept") == file
    monkeypatch.setenv(baselines.ENVIRONMENT, str(tmp_path / "kept"))
    assert baselines.find("main") == file
    for other in ("other", "../kept/main", "./main", str(file), "main.parquet", "", ".", "mai\0n"):
        assert baselines.find(other) is None


def test_a_baseline_is_known_by_its_content(tmp_path: Path) -> None:
    file = baselines.save("main", [a_run(0)], tmp_path)
    moved = file.rename(tmp_path / "artifact.bin")
    assert baselines.is_baseline(moved)
    plain = tmp_path / "plain.parquet"
    with duckdb.connect() as anyone:
        anyone.sql(f"COPY (SELECT 1 AS run, 'vtprof' AS request_id) TO '{plain}'")
    (tmp_path / "text").write_text(json.dumps({"vtprof.baseline": 1}))
    for other in (plain, tmp_path / "text", tmp_path, tmp_path / "nothing"):
        assert not baselines.is_baseline(other)


def test_of_two_that_save_a_new_name_at_once_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = baselines._held

    def held_later(file: Path) -> Any:
        monkeypatch.setattr(baselines, "_held", held)
        baselines.save("main", [a_run(0)], tmp_path)
        return held(file)

    monkeypatch.setattr(baselines, "_held", held_later)
    assert "exists" in refused(tmp_path, [a_run(1)])
    assert [told.label for told in baselines.facts(tmp_path / "main.parquet").runs] == ["traces/0"]


def test_who_waits_too_long_for_another_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = baselines.save("main", [a_run(0)], tmp_path)
    monkeypatch.setattr(shared_file, "LOCK_WAIT_S", 0.0)
    with shared_file.locked(file), pytest.raises(BackendError, match="another vtprof is changing it"):
        baselines.save("main", [a_run(1)], tmp_path, add=True)
