"""What the command prints and returns when a user errs, the system refuses, or the program breaks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from analyze_run import Run
from otlp_builder import document, request, write

from vtprof_analyzer.store import open_store
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError


def vtprof(*words: str | bytes, stdout: str | None = None, **env: str) -> tuple[int, str, str]:
    """Run the command in a process of its own: exit code, stdout, stderr."""
    command = [sys.executable, "-c", "from vtprof_analyzer.cli import main; main()", *words]
    target = open(stdout, "wb") if stdout else subprocess.PIPE  # noqa: SIM115, PTH123
    done = subprocess.run(
        command, stdout=target, stderr=subprocess.PIPE, env={**os.environ, **env}, check=False
    )
    return done.returncode, (done.stdout or b"").decode("utf-8", "replace"), done.stderr.decode()


@pytest.mark.parametrize(
    "words",
    [
        ["analyze"],
        ["analyze", "--bogus"],
        ["frobnicate"],
        ["rules", "list", "--format", "x"],
        ["analyze", "x", "--slo-ttft-ms", "inf"],
        ["analyze", "x", "--slo-tpot-ms", "nan"],
        ["analyze", "x", "--slo-tpot-ms", "-1"],
        ["analyze", ""],
        ["analyze", "x", "-o", ""],
        ["analyze", "x", "--db", ""],
        ["analyze", "x", "--fail-on"],
        ["analyze", "a" * 5000],
        ["analyze", "x", "--bogus-" + "a" * 5000],
        ["analyze", "a\x1b[31m\nb\udcff"],
        ["analyze", "/dev/zero"],
    ],
)
def test_an_error_of_the_user_is_one_line_that_a_terminal_shows_as_it_is(words: list[str]) -> None:
    code, out, err = vtprof(*map(os.fsencode, words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("vtprof: ")
    assert err[:-1].isprintable()
    assert len(err) < 500


def test_help_and_version_are_no_errors() -> None:
    assert vtprof("--version")[0] == 0
    assert "Usage: vtprof analyze" in vtprof("analyze", "--help")[1]
    code, _, err = vtprof()
    assert code == 2
    assert "Usage: vtprof" in err


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    code, _, err = vtprof("rules", "list", stdout="/dev/full")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err


def test_a_stdout_that_is_not_utf8_gets_what_it_can_show() -> None:
    code, out, err = vtprof("rules", "show", "PRE001", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (code, err) == (0, "")
    assert "PRE001" in out


def test_a_bug_keeps_its_traceback_and_is_not_taken_for_a_finding() -> None:
    broken = (
        "import vtprof_rules.load as l; l.load_packs = None; from vtprof_analyzer.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken, "rules", "list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "TypeError" in done.stderr.splitlines()[-1]


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A database of an earlier run."""
    path = tmp_path / "x.db"
    with open_store(path) as connection:
        connection.execute("CREATE TABLE ingest_files AS SELECT 1 AS old")
        connection.execute("CREATE VIEW seen AS FROM ingest_files")
    yield path


def test_a_failing_run_leaves_the_old_database_and_nothing_beside_it(old: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_store(old) as connection:
        connection.execute("CREATE TABLE ingest_files AS SELECT 2 AS old")
        raise ZeroDivisionError
    with duckdb.connect(str(old)) as connection:
        assert connection.execute("FROM seen").fetchall() == [(1,)]
    assert list(old.parent.iterdir()) == [old]


def test_a_run_that_ends_well_replaces_the_old_database(old: Path) -> None:
    with open_store(old) as connection:
        connection.execute("CREATE TABLE ingest_files AS SELECT 2 AS old")
    with duckdb.connect(str(old)) as connection:
        assert connection.execute("SELECT old FROM ingest_files").fetchall() == [(2,)]
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("name", [":memory:", "md:mine", "s3:x"])
def test_a_database_is_always_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store(Path(name)) as connection:
        connection.execute("CREATE TABLE ingest_files AS SELECT 1 AS n")
    assert (tmp_path / name).is_file()


def test_no_extension_comes_from_the_network() -> None:
    with open_store() as connection:
        settings = connection.execute(
            "SELECT current_setting('autoinstall_known_extensions'), current_setting('autoload_known_extensions')"
        )
        assert settings.fetchall() == [(False, False)]


@pytest.mark.parametrize("place", ["/dev/null", "a" * 5000, "no/such/x.db"])
def test_a_place_that_cannot_be_a_database_is_a_config_error(place: str) -> None:
    with pytest.raises(ConfigError) as raised, open_store(Path(place)):
        pass
    assert str(raised.value).startswith("--db ")
    assert "\n" not in str(raised.value)


def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"), open_store(tmp_path / "pipe"):
        pass


def test_what_was_damaged_or_out_of_range_stands_in_the_trust_section(tmp_path: Path) -> None:
    attrs = {names.INPUT_TOKENS: 7, names.TOKENS_IMAGE: 2**62, names.REQUEST_STATUS: names.STATUS_OK}
    write(tmp_path / "t.jsonl", document(*request(0, 9, attrs, prefill=(0, 5))))
    (tmp_path / "x.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 no gzip at all")
    code, out, err = vtprof("analyze", str(tmp_path), "--format", "terminal")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "damaged files: 1" in words
    assert "values nothing real has: 1" in words


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("tokens Qwen2.5-VL-7B --image 28x28 --format json", ">&-", 0),
        ("--help", ">&-", 0),
        ("tokens nosuch --image 28x28", "2>&-", 2),
    ],
)
def test_closed_streams_are_no_crash_and_change_no_code(words: str, closed: str, code: int) -> None:
    call = "from vtprof_analyzer.cli import main; main()"
    shell = f"{sys.executable} -c '{call}' {words} {closed}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_an_interrupt_during_a_query_ends_it_without_a_traceback() -> None:
    """Sent once the query has worked for a while: DuckDB alone would wait for what its threads do, for days."""
    program = """
import os, signal, threading, time
from vtprof_analyzer import cli
from vtprof_analyzer.cli import app
from vtprof_analyzer.store import open_store

def interrupt():
    while time.process_time() - time.thread_time() < 1.5:
        pass
    os.kill(os.getpid(), signal.SIGINT)

def run(words):
    with open_store() as db:
        db.execute("SET threads = 4")
        db.execute("CREATE TABLE t AS SELECT range AS a FROM range(10000000)")
        threading.Thread(target=interrupt).start()
        db.execute("SELECT sum(hash(x.a + y.a)) FROM t AS x, t AS y").fetchall()

app.run = run
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"vtprof: interrupted\n")


def interrupted(*_args: object, **_given: object) -> None:
    raise KeyboardInterrupt


QUERY_ENDED = duckdb.InterruptException("INTERRUPT Error: Interrupted!")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), QUERY_ENDED, RuntimeError("Query interrupted")])
def test_an_interrupted_analysis_says_what_is_left_and_leaves_that(
    run: Run, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    assert run("analyze", traces, "--db", "kept.db", "--format", "json", "-o", "out")[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def ended(*_: object) -> None:
        raise error

    monkeypatch.setattr("vtprof_analyzer.pipeline.run", ended)
    said = (
        "vtprof: interrupted; no report was written, and --db kept.db is as it was before; the cache keeps only what was"
        " read to the end\n"
    )
    assert run("analyze", traces, "--db", "kept.db", "--format", "json", "-o", "out") == (130, "", said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".kept.db.*"))
    short = (130, "", "vtprof: interrupted; no report was written\n")
    assert run("analyze", traces, "--no-cache") == short


def test_an_interrupted_delivery_says_that_files_may_be_missing(
    run: Run, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtprof_analyzer.cli.deliver.write", interrupted)
    code, _, err = run("analyze", traces, "--format", "json", "-o", "out")
    whole = "each report file in out is whole, but some may be missing, or older than others"
    assert (code, err) == (130, f"vtprof: interrupted; {whole}\n")


def test_an_interrupted_comparison_says_that_nothing_was_compared(
    run: Run, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtprof_analyzer.runs.read.read_runs", interrupted)
    code, out, err = run("compare", traces, traces)
    kept = "the cache keeps only runs that were read to the end"
    assert (code, out, err) == (130, "", f"vtprof: interrupted; nothing was compared; {kept}\n")
