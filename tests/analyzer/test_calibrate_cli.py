"""`vtprof calibrate` as a user runs it, on this machine's CPU: real numbers, a valid document, one line for a mistake."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from vtprof_analyzer import cli
from vtprof_analyzer.calibrate import machine
from vtprof_analyzer.calibrate.show import as_text
from vtprof_analyzer.cli import app
from vtprof_analyzer.devices.host import host_cores
from vtprof_analyzer.devices.measured import Entry, read_calibrations

pytestmark = pytest.mark.torch
SCHEMA = json.loads(resources.files("vtprof_schemas").joinpath("calibration.schema.json").read_text("utf-8"))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setitem(app.COMMANDS, "calibrate", "vtprof_analyzer.cli.calibrate")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vtprof", "calibrate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.GEMM_SIZES, "cpu", (16, 32))
    monkeypatch.setitem(machine.COPY_BYTES, "cpu", 1 << 20)


def test_the_document_is_valid_and_analyze_finds_what_it_says(run: Run) -> None:
    pytest.importorskip("torch")
    code, out, err = run("--device", "cpu", "--seconds", "0.2", "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(found, SCHEMA)
    assert [entry["dtype"] for entry in found["entries"]] == ["float32", "bfloat16"]
    stored = json.loads(Path(found["stored_in"]).read_text())
    jsonschema.validate(stored, SCHEMA)
    assert stored["entries"] == found["entries"]
    for entry in found["entries"]:
        roof = read_calibrations().roof(entry["device"], entry["dtype"], entry["cores"])
        assert roof is not None
        assert roof.peak_flops_per_s == entry["peak_flops_per_s"]
        # Any computer of this century, and none of this one: a factor of a million would be a unit mistaken.
        assert 1e8 < roof.peak_flops_per_s < 1e15
        assert 1e8 < roof.bandwidth_bytes_per_s < 1e13
        assert entry["device"] == machine.cpu_name()


def test_the_terminal_says_what_was_attained_and_where_it_is(run: Run, tiny: None) -> None:
    pytest.importorskip("torch")
    code, out, err = run("--device", "cpu", "--seconds", "0.01", "--dtype", "fp32")
    assert (code, err) == (0, "")
    assert "float32" in out
    assert "FLOP/B" in out
    assert "calibration.json" in out
    assert "`vtprof analyze` and `vtprof estimate` use it for this device." in out
    assert [entry.gemm_sizes for entry in read_calibrations().entries] == [(16, 32)]


def test_estimate_takes_the_measured_roof_for_the_host(
    run: Run, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(machine, "_threads", lambda _torch: host_cores())
    assert run("--device", "cpu", "--seconds", "0.01", "--dtype", "float32", "--dtype", "bfloat16")[0] == 0
    stored = {entry.dtype: entry for entry in read_calibrations().entries}
    for dtype, entry in stored.items():
        words = ["estimate", "Qwen2.5-VL-7B", "--device", "host", "--dtype", dtype, "--format", "json"]
        monkeypatch.setattr(sys, "argv", ["vtprof", *words, "--text", "10"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        roof = json.loads(capsys.readouterr().out)["roof"]
        assert (roof["kind"], roof["dtype"]) == ("attainable", dtype)
        assert roof["peak_flops_per_s"] == entry.peak_flops_per_s
        assert roof["bandwidth_bytes_per_s"] == entry.bandwidth_bytes_per_s
    assert set(stored) == {"float32", "bfloat16"}


def test_rates_of_a_cpu_are_shown_in_gigaflops() -> None:
    entry = Entry(
        "Frobnicator 9", "cpu", "float32", 43.2e9, 26.7e9, "2026-11-20T10:00:00Z", "2.13.0", "burst", 2
    )
    shown = as_text([entry, replace(entry, dtype="bfloat16", peak_flops_per_s=7.72e11)], Path("c.json"), True)
    assert "float32     43.2 GFLOP/s    26.7 GB/s    1.62 FLOP/B" in shown
    assert "bfloat16     772 GFLOP/s    26.7 GB/s    28.9 FLOP/B" in shown


def test_another_file_keeps_the_settings_as_they_are(run: Run, tiny: None, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "here.json"
    code, out, _ = run("--device", "cpu", "--seconds", "0.01", "--dtype", "float32", "-o", file)
    assert code == 0
    assert str(file) in out
    assert "use it for this device" not in out
    assert len(read_calibrations(file).entries) == 1
    assert read_calibrations().entries == ()


def test_a_broken_file_of_settings_is_replaced_and_said(run: Run, tiny: None, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    broken = tmp_path / "config" / "vtprof" / "calibration.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    code, _, err = run("--device", "cpu", "--seconds", "0.01", "--dtype", "float32")
    assert code == 0
    assert err.count("\n") == 1
    assert "not JSON" in err
    assert "kept as calibration.json.bak" in err
    assert broken.with_name("calibration.json.bak").read_text() == "{"
    assert len(read_calibrations().entries) == 1


def test_what_a_newer_version_keeps_is_refused_before_anything_is_measured(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newer = tmp_path / "config" / "vtprof" / "calibration.json"
    newer.parent.mkdir(parents=True)
    newer.write_text('{"schema_version": 2, "entries": []}')
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run("--device", "cpu")
    assert (code, out) == (2, "")
    assert err == f"vtprof: {newer}: written by a newer vtprof; give --out and another file\n"
    assert newer.read_text() == '{"schema_version": 2, "entries": []}'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seconds", "0"], "no number of seconds"),
        (["--seconds", "nan"], "no number of seconds"),
        (["--seconds", "1e9"], "no number of seconds"),
        (["--device", "tpu"], "choose cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "cuda"),
        (["--dtype", "int4"], "choose from float32, bfloat16, float16"),
        (["--out", ""], "is empty"),
        (["--out", "/"], "exists and is no calibration file"),
        (["--format", "xml"], "--format"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(run: Run, words: list[str], said: str) -> None:
    pytest.importorskip("torch")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert read_calibrations().entries == ()


def test_without_torch_it_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run("--seconds", "0.01")
    assert (code, out) == (2, "")
    assert "pip install torch" in err
    assert err.count("\n") == 1
