"""Stored calibrations: found for that very device and data type, preferred to the datasheet, and never trusted."""

import errno
import fcntl
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_builder import write
from qwen_configs import TINY_2_5
from test_physics_groups import process

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.devices import shared_file
from vtprof_analyzer.devices.measured import (
    Calibrations,
    Entry,
    as_document,
    calibration_file,
    check_place,
    read_calibrations,
    store,
)
from vtprof_analyzer.devices.roofs import ATTAINABLE, DATASHEET, choose_roof
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError

SCHEMA = json.loads(resources.files("vtprof_schemas").joinpath("calibration.schema.json").read_text("utf-8"))
H200 = Entry(
    device="NVIDIA H200",
    kind="gpu",
    dtype="bfloat16",
    peak_flops_per_s=700e12,
    bandwidth_bytes_per_s=4.2e12,
    measured_at="2026-11-20T10:00:00Z",
    torch_version="2.13.0",
    method="best burst in 2 s: GEMM of 2048/4096/8192 square random matrices, copy of 1024 MiB (read and written)",
    gemm_sizes=(2048, 4096, 8192),
    copy_bytes=1 << 30,
)
EPYC = replace(
    H200,
    device="AMD EPYC",
    kind="cpu",
    dtype="float32",
    peak_flops_per_s=2e11,
    bandwidth_bytes_per_s=2e10,
    cores=2,
)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "vtprof" / "calibration.json"


def test_the_place_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/ann")
    assert calibration_file() == Path("/etc/ann/vtprof/calibration.json")
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CONFIG_HOME", ignored)
        assert calibration_file() == Path("/home/ann/.config/vtprof/calibration.json")


def test_tests_see_no_calibration_of_this_machine() -> None:
    file = calibration_file()
    assert file is not None
    assert not file.exists()
    assert not file.is_relative_to(Path.home() / ".config")


def test_what_is_stored_is_found_again(home: Path) -> None:
    assert read_calibrations().roof("NVIDIA H200", "bfloat16") is None
    assert store([H200, EPYC], home) is None
    jsonschema.validate(json.loads(home.read_text()), SCHEMA)
    assert read_calibrations() == Calibrations((H200, EPYC))
    roof = read_calibrations().roof("NVIDIA H200", "torch.bfloat16")
    assert roof is not None
    assert (roof.kind, roof.peak_flops_per_s, roof.bandwidth_bytes_per_s) == (ATTAINABLE, 700e12, 4.2e12)
    assert "vtprof calibrate of 2026-11-20, torch 2.13.0" in roof.source
    assert [path.name for path in home.parent.iterdir()] == ["calibration.json"]


def test_a_new_measurement_takes_the_place_of_the_old_one_alone(home: Path) -> None:
    store([H200, EPYC], home)
    newer = replace(H200, peak_flops_per_s=710e12, measured_at="2026-11-21T10:00:00Z")
    store([newer, replace(EPYC, dtype="bfloat16")], home)
    assert read_calibrations().entries == (EPYC, newer, replace(EPYC, dtype="bfloat16"))


@pytest.mark.parametrize(
    ("name", "dtype", "cores", "is_found"),
    [
        ("NVIDIA H200", "bfloat16", None, True),
        ("nvidia  h200 ", "bf16", 16, True),
        ("NVIDIA H200 SXM", "bfloat16", None, True),
        ("NVIDIA H200", "float16", None, False),
        ("NVIDIA H200", None, None, False),
        ("NVIDIA H200 NVL", "bfloat16", None, False),
        ("NVIDIA H200 MIG 1g.18gb", "bfloat16", None, False),
        ("NVIDIA H100 80GB HBM3", "bfloat16", None, False),
        (None, "bfloat16", None, False),
        ("AMD EPYC", "float32", 2, True),
        ("AMD EPYC", "float32", None, True),
        ("AMD EPYC", "float32", 64, False),
        ("AMD EPYC 9654 96-Core Processor", "float32", 2, False),
    ],
)
def test_only_that_very_device_and_data_type(
    name: str | None, dtype: str | None, cores: int | None, is_found: bool
) -> None:
    assert (Calibrations((H200, EPYC)).roof(name, dtype, cores) is not None) is is_found


def test_the_order_is_trace_then_calibration_then_datasheet_and_all_stay_known() -> None:
    stored = Calibrations((H200,)).roof("NVIDIA H200", "bfloat16")
    choice = choose_roof("NVIDIA H200", "bfloat16", measured=stored, devices=2)
    assert [(roof.kind, roof.peak_flops_per_s) for roof in choice.roofs] == [
        (ATTAINABLE, 1400e12),
        (DATASHEET, 2 * 989e12),
    ]
    assert choice.roof is choice.roofs[0]
    assert [roof.ridge for roof in choice.roofs] == [
        pytest.approx(166.67, abs=0.01),
        pytest.approx(206.04, abs=0.01),
    ]
    recorded = choose_roof("NVIDIA H200", "bfloat16", 650e12, 4e12, "of the run", measured=stored)
    assert [roof.peak_flops_per_s for roof in recorded.roofs] == [650e12, 700e12, 989e12]
    assert recorded.roof is recorded.roofs[0]
    unknown = choose_roof("AMD EPYC", "float32", measured=EPYC.roof, device_kind="cpu")
    assert unknown.roof == EPYC.roof
    assert unknown.notes == []


BAD_FILES = {
    "empty": b"",
    "no JSON": b"{",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "list": b"[]",
    "another version": b'{"schema_version": 0, "entries": []}',
    "a version in words": b'{"schema_version": "2", "entries": []}',
    "no entries": b'{"schema_version": 1}',
    "entries no list": b'{"schema_version": 1, "entries": {"a": 1}}',
    "huge": b" " * (1024 * 1024 + 1),
    "long number": b'{"schema_version": 1, "entries": [' + b"9" * 5000 + b"]}",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_file_that_cannot_be_used_is_one_note_and_nothing_else(home: Path, content: bytes) -> None:
    home.parent.mkdir()
    home.write_bytes(content)
    read = read_calibrations()
    assert read.entries == ()
    assert read.note is not None
    assert "\n" not in read.note
    assert "calibration.json" in read.note
    assert "vtprof calibrate" in read.note
    # A new measurement mends it, says what was there, and destroys nothing, however often.
    for name in ("calibration.json.bak", "calibration.json.bak2"):
        home.write_bytes(content)
        said = store([H200], home)
        assert said is not None
        assert said.startswith(f"calibration file {home}: ")
        assert said.endswith(f"; the old file is kept as {name}")
        assert (home.parent / name).read_bytes() == content
        assert read_calibrations() == Calibrations((H200,))
    store([EPYC], home)
    assert len(list(home.parent.iterdir())) == 3


BAD_VALUES: list[tuple[str, Any]] = [
    ("device", ""),
    ("device", "x" * 501),
    ("device", "NVIDIA\nH200"),
    ("device", 5),
    ("kind", "tpu"),
    ("kind", ["cpu"]),
    ("dtype", "complex64"),
    ("dtype", None),
    ("peak_flops_per_s", "7e14"),
    ("peak_flops_per_s", True),
    ("peak_flops_per_s", -7e14),
    ("peak_flops_per_s", 0),
    ("peak_flops_per_s", float("nan")),
    ("peak_flops_per_s", float("inf")),
    ("peak_flops_per_s", 10**400),
    ("bandwidth_bytes_per_s", 1.0),
    ("bandwidth_bytes_per_s", None),
    ("measured_at", {}),
    ("method", "\x1b[2J"),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES, ids=[f"{k}-{str(v)[:12]!r}" for k, v in BAD_VALUES])
def test_a_bad_entry_is_left_out_and_counted(home: Path, key: str, value: Any) -> None:
    document_ = as_document([H200, EPYC])
    document_["entries"][0][key] = value
    home.parent.mkdir()
    home.write_text(json.dumps(document_))
    read = read_calibrations()
    assert read.entries == (EPYC,)
    assert "1 of 2 entries are no measurements" in str(read.note)
    before = home.read_text()
    assert "kept as calibration.json.bak" in str(store([H200], home))
    assert (home.parent / "calibration.json.bak").read_text() == before
    assert read_calibrations() == Calibrations((EPYC, H200))


def test_odd_details_do_not_cost_the_measurement(home: Path) -> None:
    document_ = as_document([EPYC])
    document_["entries"][0] |= {
        "cores": -1,
        "gemm_sizes": [512, "x", -1, True],
        "copy_bytes": 1.5,
        "more": [],
    }
    home.parent.mkdir()
    home.write_text(json.dumps(document_))
    assert read_calibrations() == Calibrations(
        (replace(EPYC, cores=None, gemm_sizes=(512,), copy_bytes=None),)
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*as_document([H200])["entries"][0]]), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read_without_a_fault(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps({"schema_version": 1, "entries": tree}))
    read_calibrations(file).roof("NVIDIA H200", "bfloat16")


def test_a_pipe_or_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in str(read_calibrations(tmp_path / "pipe").note)
    assert read_calibrations(tmp_path).note is not None
    (tmp_path / "file").write_text("")
    assert read_calibrations(tmp_path / "file" / "below") == Calibrations()


def test_another_file_of_the_user_is_never_overwritten(home: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.json"
    precious.write_text('{"mine": 1}')
    for call in (lambda: check_place(precious), lambda: store([H200], precious)):
        with pytest.raises(ConfigError, match="exists and is no calibration file"):
            call()
    assert precious.read_text() == '{"mine": 1}'
    store([H200], tmp_path / "new" / "mine.json")
    assert read_calibrations(tmp_path / "new" / "mine.json").entries == (H200,)
    with pytest.raises(BackendError, match=r"cannot be written .*--out"):
        store([H200], precious / "below.json")


@pytest.mark.parametrize("version", [2, 1.5, 10**400], ids=["2", "1.5", "huge"])
def test_what_a_later_version_wrote_is_not_replaced(home: Path, tmp_path: Path, version: float) -> None:
    text = json.dumps({"schema_version": version, "entries": [{"more": 1}]})
    other = tmp_path / "other.json"
    home.parent.mkdir()
    for file in (home, other):
        file.write_text(text)
        for call in (lambda file=file: check_place(file), lambda file=file: store([H200], file)):
            with pytest.raises(ConfigError, match=r"written by a newer vtprof; give --out"):
                call()
        assert file.read_text() == text
    assert [path.name for path in home.parent.iterdir()] == ["calibration.json"]
    note = read_calibrations().note
    assert note is not None
    assert "written by a newer vtprof" in note
    assert "`vtprof calibrate` writes" not in note


@pytest.mark.parametrize("before", ["{", None], ids=["unreadable", "to nothing yet"])
def test_a_symlink_is_written_through(home: Path, tmp_path: Path, before: str | None) -> None:
    target = tmp_path / "dotfiles" / "vtprof.json"
    home.parent.mkdir()
    home.symlink_to(target)
    if before is not None:
        target.parent.mkdir()
        target.write_text(before)
    for entry in (H200, EPYC):
        store([entry], home)
    assert home.is_symlink()
    assert read_calibrations(target) == read_calibrations() == Calibrations((H200, EPYC))
    kept = target.with_name("vtprof.json.bak")
    assert (kept.read_text() if kept.exists() else None) == before


def test_what_is_no_file_is_left_alone(home: Path) -> None:
    home.mkdir(parents=True)
    with pytest.raises(ConfigError, match="no file; move it"):
        store([H200], home)
    home.rmdir()
    home.symlink_to(home)
    with pytest.raises(ConfigError, match="no file; move it"):
        store([H200], home)
    assert home.is_symlink()


def _store_many(file: Path, name: str, count: int) -> None:
    for number in range(count):
        store([replace(H200, device=f"{name} {number}")], file)


def test_two_processes_at_once_lose_nothing(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_store_many, args=(home, name, 50)) for name in ("one", "other")]
    for process_ in both:
        process_.start()
    for process_ in both:
        process_.join(60)
    assert [process_.exitcode for process_ in both] == [0, 0]
    names_ = {entry.device for entry in read_calibrations(home).entries}
    assert names_ == {f"{name} {number}" for name in ("one", "other") for number in range(50)}
    assert [path.name for path in home.parent.iterdir()] == ["calibration.json"]


def test_a_process_that_keeps_the_lock_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_file, "LOCK_WAIT_S", 0.0)
    store([EPYC], home)
    with shared_file.locked(home), pytest.raises(BackendError, match=r"another vtprof .* --out") as error:
        store([H200], home)
    assert "\n" not in str(error.value)
    assert read_calibrations().entries == (EPYC,)
    # One that was killed leaves its lock file, and nobody waits for it.
    (home.parent / ".calibration.json.lock").write_text("")
    store([H200], home)
    assert read_calibrations().entries == (EPYC, H200)


def test_a_lock_whose_file_went_before_it_was_had_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock = home.parent / ".calibration.json.lock", fcntl.flock
    seen: list[int] = []

    def leave_first(handle: int, operation: int) -> None:
        if not seen:
            lock.unlink()  # as the one before does when it is done
        seen.append(handle)
        flock(handle, operation)

    home.parent.mkdir()
    monkeypatch.setattr(fcntl, "flock", leave_first)
    with shared_file.locked(home):
        assert lock.exists()
    assert len(seen) == 2


def test_a_file_system_without_locks_keeps_the_measurement(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store([H200], home)
    assert read_calibrations().entries == (H200,)


def test_a_full_disk_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    home.parent.mkdir()
    home.write_text("{")
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(BackendError, match=r"No space left on device.*--out"):
        store([H200], home)
    assert [path.name for path in home.parent.iterdir()] == ["calibration.json"]
    assert home.read_text() == "{"


Report = Callable[..., Any]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    def run(*lines: dict[str, Any], **options: Any) -> Any:
        return analyze(Options([write(tmp_path / "t.jsonl", *lines)], **options)).deployment

    return run


def test_analyze_uses_what_was_measured_and_keeps_the_datasheet(home: Path, report: Report) -> None:
    before = report(process(1, TINY_2_5))
    assert [roof.kind for roof in before.roofs] == [DATASHEET]
    store([H200], home)
    after = report(process(1, TINY_2_5))
    assert after.roof is not None
    assert (after.roof.kind, after.roof.peak_flops_per_s) == (ATTAINABLE, 700e12)
    assert [(roof.kind, round(roof.ridge, 1)) for roof in after.roofs] == [
        (ATTAINABLE, 166.7),
        (DATASHEET, 206.0),
    ]
    assert "vtprof calibrate of 2026-11-20" in after.roof.source


def test_what_the_trace_recorded_goes_first(home: Path, report: Report) -> None:
    store([H200], home)
    peak = {names.DEVICE_PEAK_FLOPS: 1e12, names.DEVICE_BANDWIDTH: 1e10}
    found = report(process(1, TINY_2_5, **peak))
    assert [roof.peak_flops_per_s for roof in found.roofs] == [1e12, 700e12, 989e12]
    assert found.roof.peak_flops_per_s == 1e12


def test_a_calibrated_cpu_has_a_roof_on_its_own_cores_only(home: Path, report: Report) -> None:
    store([EPYC], home)
    on_cpu = {
        names.HW_NAME: "AMD EPYC", names.DEVICE_KIND: "cpu", names.WEIGHTS_DTYPE: "float32", names.DEVICE_CORES: 2,
    }  # fmt: skip
    assert report(process(1, TINY_2_5, **on_cpu)).roof.peak_flops_per_s == 2e11
    elsewhere = report(process(1, TINY_2_5, **on_cpu | {names.DEVICE_CORES: 8}))
    assert elsewhere.roof is None
    assert any("run `vtprof calibrate` on that machine" in note for note in elsewhere.notes)


def test_a_device_that_the_user_names_has_its_own_calibration(home: Path, report: Report) -> None:
    store([H200], home)
    on_h100 = {names.HW_NAME: "NVIDIA H100 80GB HBM3"}
    assert report(process(1, TINY_2_5, **on_h100)).roof.kind == DATASHEET
    named = report(process(1, TINY_2_5, **on_h100), device="h200")
    assert (named.roof.kind, named.roof.peak_flops_per_s) == (ATTAINABLE, 700e12)


def test_each_group_of_processes_finds_its_own(home: Path, tmp_path: Path) -> None:
    store([H200], home)
    lines = [process(1, TINY_2_5), process(2, TINY_2_5, **{names.HW_NAME: "NVIDIA L4"})]
    file = tmp_path / "run.duckdb"
    analyze(Options([write(tmp_path / "t.jsonl", *lines)], database=file))
    import duckdb

    with duckdb.connect(str(file), read_only=True) as db:
        peaks = db.execute("SELECT DISTINCT peak_flops_per_s FROM step_cost ORDER BY 1").fetchall()
    assert peaks == [(121e12,), (700e12,)]


def test_a_bad_file_is_one_note_of_the_report(home: Path, report: Report) -> None:
    home.parent.mkdir()
    home.write_text("{")
    found = report(process(1, TINY_2_5))
    assert found.roof.kind == DATASHEET
    assert sum("calibration file" in note for note in found.notes) == 1
