"""What a killed run left beside its database is removed by the next one; what is a living run's, or others', never."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from store_fixture import fetch

from vtprof_analyzer.held_folder import held_folder
from vtprof_analyzer.store import open_store

KILLED = """
import os, signal, sys
from pathlib import Path
from vtprof_analyzer.store import open_store
with open_store(Path(sys.argv[1]) if sys.argv[1:] else None) as db:
    db.execute("CREATE TABLE t AS SELECT 1 AS n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(*arguments: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_next_run_with_the_same_database_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    killed(tmp_path / "run.db")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".run.db.")
    with open_store(tmp_path / "other.db"):
        assert left.exists()
    with open_store(tmp_path / "run.db"):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.db", "run.db"]


def test_the_next_run_removes_what_a_killed_one_left_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed()
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_store() as db:
        assert len(list(tmp_path.iterdir())) == 1
        assert fetch(db, "SELECT table_name FROM duckdb_tables()") == []
    assert not list(tmp_path.iterdir())


def test_a_run_under_way_keeps_its_folder(tmp_path: Path) -> None:
    with open_store(tmp_path / "run.db") as first:
        first.execute("CREATE TABLE t AS SELECT 1 AS n")
        (held,) = tmp_path.iterdir()
        with open_store(tmp_path / "run.db"):
            assert held.exists()
        assert fetch(first, "FROM t") == [(1,)]


def test_a_folder_with_anything_else_in_it_stays(tmp_path: Path) -> None:
    with held_folder(".run.db.", tmp_path, ("tables.db",)) as made:
        name = made.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    (tmp_path / f"{name}.backup").mkdir()
    with held_folder(".run.db.", tmp_path, ("tables.db",)):
        assert (tmp_path / name / "notes.txt").exists()
        assert (tmp_path / f"{name}.backup").exists()
    (tmp_path / name / "notes.txt").rename(tmp_path / name / "tables.db.wal")
    with held_folder(".run.db.", tmp_path, ("tables.db",)):
        assert not (tmp_path / name).exists()


def test_a_name_with_wildcards_stands_for_itself(tmp_path: Path) -> None:
    with held_folder(".run*.", tmp_path, ()) as made:
        name = made.name
    (tmp_path / name.replace("*", "x")).mkdir()
    with held_folder(".run*.", tmp_path, ()):
        assert (tmp_path / name.replace("*", "x")).exists()
