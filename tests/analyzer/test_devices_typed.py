"""The device that a user names: a row, a slice of one, this machine's CPU, or one line on what is wrong with the name."""

import pytest

from vtprof_analyzer.devices.measured import Calibrations, Entry
from vtprof_analyzer.devices.roofs import choose_roof
from vtprof_analyzer.devices.typed import typed_device
from vtprof_schemas.errors import ConfigError


def measured(cores: int | None, peak: float, day: int = 1, dtype: str = "float32") -> Entry:
    at = f"2026-11-{day:02}T10:00:00Z"
    return Entry("Frobnicator 9", "cpu", dtype, peak, 2e10, at, "2.13.0", "best burst", cores)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtprof_analyzer.devices.host.cpu_name", lambda: "Frobnicator 9")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))


def test_a_row_of_the_table_and_what_the_name_was_taken_as() -> None:
    plain, guessed = typed_device("H200 SXM"), typed_device("A100")
    assert (plain.device.name, plain.note, plain.cores) == ("NVIDIA H200 SXM", None, None)
    assert guessed.note is not None
    assert guessed.note.startswith("A100: taken as NVIDIA A100 SXM")
    assert typed_device("H200 SXM MIG 1g.18gb").device.name == "NVIDIA H200 SXM MIG 1g.18gb"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "MIG 1g.5gb",
            "--device 'MIG 1g.5gb' is a MIG slice of a GPU that is not named: give both, as in H100 SXM MIG 3g.40gb",
        ),
        (
            " 1g.5gb",
            "--device '1g.5gb' is a MIG slice of a GPU that is not named: give both, as in H100 SXM MIG 3g.40gb",
        ),
        (
            "H200 SXM MIG 5g.99gb",
            "--device H200 SXM MIG 5g.99gb: MIG 5g.99gb is no profile of NVIDIA H200 SXM",
        ),
        ("L4 MIG 1g.5gb", "--device L4 MIG 1g.5gb: MIG 1g.5gb: no MIG profiles are known of NVIDIA L4"),
    ],
)
def test_a_slice_that_there_is_not_says_what_is_wrong_with_it(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        typed_device(name)
    assert str(error.value) == said


@pytest.mark.parametrize("name", ["", "Frob MIG 1g.5gb", "x" * 10_000, "H100, H200", "hosts", "\x1b[2J"])
def test_a_name_that_nobody_knows_is_one_short_line(name: str) -> None:
    with pytest.raises(ConfigError, match="not one device of the table") as error:
        typed_device(name)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["host", "cpu", " Host "])
def test_the_host_is_this_machines_cpu_on_the_cores_of_this_process(name: str) -> None:
    found = typed_device(name)
    assert (found.device.name, found.device.kind, found.cores) == ("Frobnicator 9", "cpu", 8)
    assert found.note == f"--device {name.strip()}: this machine's CPU, Frobnicator 9 on 8 cores"


@pytest.mark.parametrize(
    ("entries", "peak", "confidence"),
    [
        ([measured(8, 8e11)], 8e11, "high"),
        # torch computes with a thread for each core, and a process sees two CPUs of each.
        ([measured(4, 4e11)], 4e11, "high"),
        ([measured(4, 4e11), measured(1, 1e11, day=2)], 4e11, "high"),
        ([measured(8, 8e11), measured(8, 9e11, day=2), measured(4, 4e11, day=3)], 9e11, "high"),
        ([measured(None, 8e11)], 8e11, "high"),
        ([measured(1, 1e11)], 1e11, "low"),
        ([measured(16, 16e11)], None, None),
        ([measured(8, 8e11, dtype="bfloat16")], None, None),
        ([], None, None),
    ],
)
def test_the_hosts_roof_is_what_was_measured_on_most_of_its_cores(
    entries: list[Entry], peak: float | None, confidence: str | None
) -> None:
    choice = typed_device("host").roofs("float32", 1, Calibrations(tuple(entries)))
    roof = choice.roof
    assert (roof and roof.peak_flops_per_s, roof and roof.confidence) == (peak, confidence)
    assert len(choice.notes) == (peak is None)
    if confidence == "low":
        assert roof is not None
        assert roof.doubt == "it was measured on 1 of 8 cores"


def test_a_peak_far_below_a_teraflop_is_shown_in_gigaflops() -> None:
    name = "AMD EPYC 7763 64-Core Processor @ 2.45GHz"
    # Two FMA units of 8 float32 values, a multiply-add each, at 2.45 GHz: 78.4 GFLOP/s a core.
    few, many = (choose_roof(name, "float32", device_kind="cpu", cores=cores).notes[0] for cores in (2, 48))
    assert f"{name}: 157 GFLOP/s in float32" in few
    assert f"{name}: 3.76 TFLOP/s in float32" in many


def test_another_data_type_than_the_measured_ones_is_said() -> None:
    stored = Calibrations((measured(8, 2e11),))
    choice = typed_device("host").roofs("bfloat16", 1, stored)
    assert choice.roof is None
    (note,) = choice.notes
    assert note.startswith("Frobnicator 9 was measured in float32 and not in bfloat16: no roofline;")
    assert note.endswith("`vtprof calibrate --dtype bfloat16`, or --dtype float32")
