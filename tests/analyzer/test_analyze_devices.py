"""`vtprof analyze` and the device: named, unknown, of another machine, measured on this one."""

import json
from pathlib import Path

import pytest
from analyze_run import CONFIG, RESOURCE, Run, one_request, report
from otlp_builder import document, write

from vtprof_analyzer.devices.measured import calibration_file
from vtprof_schemas import names


def test_a_recorded_device_that_nobody_knows_is_a_note_and_a_typed_one_an_error(
    run: Run, tmp_path: Path
) -> None:
    odd = RESOURCE | {names.HW_NAME: "Frobnicator 9"}
    path = write(tmp_path / "odd.jsonl", document(*one_request(1), resource=odd))
    found = report(run, path)
    assert {row["bound"] for row in found["phases"] if row["phase"] in ("prefill", "decode")} == {
        "insufficient_data"
    }
    assert any("Frobnicator 9" in note for note in found["deployment"]["notes"])
    code, out, err = run("analyze", path, "--device", "H20000")
    assert (code, out) == (2, "")
    assert err.startswith("vtprof: --device H20000: not one device of the table; did you mean ")
    assert err.count("\n") == 1
    code, out, err = run("analyze", path, "--device", "bogus")
    assert (code, out) == (2, "")
    assert err == (
        "vtprof: --device bogus: not one device of the table; it has NVIDIA H100 SXM 80GB, NVIDIA H200 SXM,"
        " AMD Instinct MI300X and 50 more; --list-devices names all\n"
    )


def test_every_known_device_can_be_listed_without_traces(run: Run) -> None:
    code, out, err = run("analyze", "--list-devices")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 53
    assert "NVIDIA H200 SXM" in out.splitlines()


def test_a_device_that_was_named_is_not_asked_for_again(run: Run, tmp_path: Path) -> None:
    on_cpu = RESOURCE | {
        names.HW_NAME: "AMD EPYC", names.DEVICE_KIND: "cpu", names.WEIGHTS_DTYPE: "float32", names.KV_DTYPE: "float32",
    }  # fmt: skip
    path = write(tmp_path / "cpu.jsonl", document(*one_request(1), resource=on_cpu))
    text = " ".join(run("analyze", path, "--device", "L20", "--format", "terminal")[1].split())
    assert "NVIDIA L20 has no float32 roof in the device table" in text
    assert "name it with --device" not in text
    assert "times were recorded on AMD EPYC; --device names NVIDIA L20" in text
    alone = " ".join(run("analyze", path, "--format", "terminal")[1].split())
    assert "record with `vtprof-agent exec --calibrate-host`" in alone
    assert "--device" not in alone


def test_a_device_that_only_the_user_names_says_what_it_computes_in(run: Run, tmp_path: Path) -> None:
    import duckdb

    unnamed = {key: value for key, value in RESOURCE.items() if key != names.HW_NAME}
    path = write(tmp_path / "unnamed.jsonl", document(*one_request(1), resource=unnamed))
    report(run, path, "--device", "L20", "--db", tmp_path / "run.duckdb")
    with duckdb.connect(str(tmp_path / "run.duckdb"), read_only=True) as db:
        # 239 over 119.5 TFLOP/s
        assert db.execute("SELECT fp8_peak_ratio FROM deployment_facts").fetchall() == [(2.0,)]


def test_the_roof_of_another_device_is_said_and_no_verdict_is_sure(run: Run, traces: Path) -> None:
    found = report(run, traces, "--device", "H100 PCIe")
    assert (
        "times were recorded on NVIDIA H200; the roof is NVIDIA H100 PCIe's" in found["deployment"]["notes"]
    )
    judged = [row for row in found["phases"] if row["floor_ratio"] is not None]
    assert judged and {row["confidence"] for row in judged} == {"low"}
    same = report(run, traces, "--device", "H200 SXM")["deployment"]["notes"]
    assert not any("times were recorded" in note for note in same)


def test_work_above_the_roof_is_noted(run: Run, tmp_path: Path) -> None:
    slow = RESOURCE | {names.DEVICE_PEAK_FLOPS: 1e6, names.DEVICE_BANDWIDTH: 1e6}
    path = write(tmp_path / "slow.jsonl", document(*one_request(1), resource=slow))
    found = report(run, path)
    assert any(
        note.startswith("prefill ran at ") and "the ceiling was measured too low" in note
        for note in found["deployment"]["notes"]
    )
    assert {row["confidence"] for row in found["phases"] if row["floor_ratio"]} == {"low"}


@pytest.fixture
def this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of its own: a CPU that no table knows, of which this process may use four CPUs."""
    monkeypatch.setattr("vtprof_analyzer.devices.host.cpu_name", lambda: "Frobnicator 9")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})


ON_CPU = RESOURCE | {
    names.HW_NAME: "Frobnicator 9", names.DEVICE_KIND: "cpu", names.WEIGHTS_DTYPE: "float32", names.KV_DTYPE: "float32",
}  # fmt: skip


def calibrated(cores: int, peak: float = 2e11) -> None:
    entry = {
        "device": "Frobnicator 9", "kind": "cpu", "dtype": "float32", "peak_flops_per_s": peak,
        "bandwidth_bytes_per_s": 2e10, "measured_at": "2026-11-20T10:00:00Z", "torch_version": "2.13.0",
        "method": "best burst", "cores": cores,
    }  # fmt: skip
    file = calibration_file()
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"schema_version": 1, "entries": [entry]}))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize("name", ["host", " CPU "])
def test_this_machines_cpu_is_a_device_with_the_roof_that_was_measured_on_it(
    run: Run, tmp_path: Path, this_cpu: None, home: None, name: str
) -> None:
    calibrated(4)
    path = write(tmp_path / "cpu.jsonl", document(*one_request(1), resource=ON_CPU))
    found = report(run, path, "--device", name)["deployment"]
    assert found["roof"]["kind"] == "attainable"
    assert (found["roof"]["peak_flops_per_s"], found["roof"]["bandwidth_bytes_per_s"]) == (2e11, 2e10)
    said = f"--device {name.strip()}: this machine's CPU, Frobnicator 9 on 4 cores"
    assert found["notes"].count(said) == 1
    assert not any("times were recorded" in note for note in found["notes"])


def test_the_roof_of_this_machine_is_doubted_for_times_of_another(
    run: Run, traces: Path, tmp_path: Path, this_cpu: None, home: None
) -> None:
    calibrated(4)
    float32 = RESOURCE | {names.WEIGHTS_DTYPE: "float32", names.KV_DTYPE: "float32"}
    for resource, said in (
        (float32, "times were recorded on NVIDIA H200; the roof is Frobnicator 9's"),
        (
            ON_CPU | {names.DEVICE_CORES: 64},
            "times were recorded on 64 cores of Frobnicator 9; --device names 4 of them",
        ),
    ):
        path = write(tmp_path / "other.jsonl", document(*one_request(1), resource=resource))
        found = report(run, path, "--device", "host")
        assert said in found["deployment"]["notes"]
        judged = [row for row in found["phases"] if row["floor_ratio"] is not None]
        assert judged and {row["confidence"] for row in judged} == {"low"}


def test_groups_of_processes_share_the_roof_of_this_machine(
    run: Run, tmp_path: Path, this_cpu: None, home: None
) -> None:
    import duckdb

    calibrated(2)  # one thread for each core, of which this process sees two CPUs
    deeper = ON_CPU | {names.MODEL_CONFIG: json.dumps(CONFIG | {"num_hidden_layers": 3})}
    folder = tmp_path / "two"
    folder.mkdir()
    write(folder / "a.jsonl", document(*one_request(1), resource=ON_CPU))
    write(
        folder / "b.jsonl",
        document(*one_request(2), resource=deeper | {names.SERVICE_INSTANCE_ID: "ring-2"}),
    )
    report(run, folder, "--device", "host", "--db", tmp_path / "run.duckdb")
    with duckdb.connect(str(tmp_path / "run.duckdb"), read_only=True) as db:
        assert db.execute("SELECT DISTINCT peak_flops_per_s FROM step_cost").fetchall() == [(2e11,)]


def test_a_machine_that_nobody_measured_has_no_roof_and_one_line_that_says_what_gives_one(
    run: Run, tmp_path: Path, this_cpu: None, home: None
) -> None:
    path = write(tmp_path / "cpu.jsonl", document(*one_request(1), resource=ON_CPU))
    found = report(run, path, "--device", "host")["deployment"]
    assert found["roof"] is None
    assert sum("or run `vtprof calibrate` on that machine" in note for note in found["notes"]) == 1
    assert not any("name one with --device" in note for note in found["notes"])


def test_a_name_that_fits_several_devices_is_taken_as_one_and_noted(run: Run, traces: Path) -> None:
    found = report(run, traces, "--device", "A100")["deployment"]
    assert sum(note.startswith("A100: taken as NVIDIA A100 SXM") for note in found["notes"]) == 1
    assert found["roof"]["peak_flops_per_s"] == 312e12


def test_a_slice_of_a_gpu_that_is_not_named_says_so(run: Run, traces: Path) -> None:
    code, out, err = run("analyze", traces, "--device", "MIG 1g.5gb")
    assert (code, out) == (2, "")
    assert err.startswith(
        "vtprof: --device 'MIG 1g.5gb' is a MIG slice of a GPU that is not named: give both,"
    )
    assert err.count("\n") == 1
