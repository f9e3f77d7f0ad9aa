"""The check of counters on a real GPU: what it makes of series whose truth is known, and all of it on the stand-in.

What is expected is what gpu_check_process.py scripts: an H100 at 0.9 of its bandwidth, 0.6 of its bf16 peak, 50 GB/s.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvml_standin.standin import NO_PERMISSION, VARIABLE, build

GPU_CHECK = Path(__file__).parents[1] / "gpu"
sys.path.append(str(GPU_CHECK))

from counter_series import Reading, Work, amount_in, changes, find_lag, gaps_ms  # noqa: E402
from findings import Finding, figure, table  # noqa: E402

MS = 1_000_000
GPM_ROWS = {
    "cost of a GPM sample", "GPM windows", "GPM refresh", "GPM latch", "DRAM ratio, a copy", "NVML's memory utilization",
    "tensor ratio, a bf16 product", "PCIe to the GPU, GPM",
}  # fmt: skip


# --- Series whose truth is known -------------------------------------------------------------------------


def latched(period_ms: int, look_ms: int, seconds: int = 10) -> list[Reading]:
    """Look at a counter that is renewed on a grid and then shows its age since the beginning."""
    looks = range(0, seconds * 1000, look_ms)
    return [(at_ms * MS, float(at_ms // period_ms * period_ms)) for at_ms in looks]


@given(period_ms=st.integers(20, 500), look_ms=st.integers(1, 19))
def test_the_period_of_a_latched_counter_is_found_to_a_look(period_ms: int, look_ms: int) -> None:
    gaps = gaps_ms(latched(period_ms, look_ms))
    assert gaps and all(abs(gap - period_ms) <= look_ms for gap in gaps)
    assert {step for _, step in changes(latched(period_ms, look_ms))} == {float(period_ms)}


def test_no_new_sample_is_no_change() -> None:
    series = [(0, 1.0), (10, math.nan), (20, 1.0), (30, math.nan), (40, 3.0)]
    assert changes(series) == [(30, 2.0)]  # between the looks at 20 and 40
    assert gaps_ms(series) == [] == gaps_ms([])


WAVE = [Work(at_ms * MS, (at_ms + 230) * MS, 1.0) for at_ms in range(0, 20_000, 400)]


@settings(max_examples=20)
@given(
    lag_ms=st.integers(-40, 200),
    level=st.floats(0.01, 1000.0),
    rest=st.floats(0.0, 1000.0),
    every_ms=st.sampled_from((107, 117, 131)),
)
def test_the_lag_of_windows_behind_a_square_wave_is_found(
    lag_ms: int, level: float, rest: float, every_ms: int
) -> None:
    windows = []
    for begin_ms in range(1000, 15_000, every_ms):
        ran_ms = sum(  # on from each multiple of 400 ms for 230 ms, in whole ms
            (at_ms - lag_ms) % 400 < 230 for at_ms in range(begin_ms, begin_ms + every_ms)
        )
        windows.append((begin_ms * MS, (begin_ms + every_ms) * MS, rest + level * ran_ms / every_ms))
    found = find_lag(windows, WAVE)
    assert found is not None
    assert abs(found[0] - lag_ms) <= 2.5
    assert found[1] > 0.99


def test_nothing_is_said_of_the_lag_of_what_does_not_vary() -> None:
    windows = [(at * MS, (at + 100) * MS, 0.5) for at in range(0, 10_000, 100)]
    assert find_lag(windows, WAVE) is None
    assert find_lag([(a, b, float(a)) for a, b, _ in windows], []) is None


@given(st.lists(st.integers(0, 21_000 * MS), min_size=2, max_size=6).map(sorted))
def test_work_is_neither_lost_nor_doubled_between_windows(edges: list[int]) -> None:
    parts = sum(amount_in(WAVE, a, b) for a, b in pairwise(edges))
    assert parts == pytest.approx(amount_in(WAVE, edges[0], edges[-1]), abs=1e-6)
    assert amount_in(WAVE, 0, 21_000 * MS) == pytest.approx(50.0)


def test_a_table_row_has_the_figures_and_no_stray_bars() -> None:
    one = figure("cost", "ms", [float(ms) for ms in range(1, 101)])
    assert (one.median, one.p95, one.n) == (50.5, 95.0, 100)
    finding = Finding("what", "assumed", "file: NAME", "holds", (one,), "a|b")
    row = table([finding]).splitlines()[2]
    assert row == "| what | assumed (file: NAME) | cost 50.5 / 95 ms (100); a/b | holds |"


# --- The whole program on the stand-in -------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder with the library, which another user may enter: pytest's own may not be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        build(Path(name) / "lib")
        yield Path(name)


def check(folder: Path, *arguments: str, library: str = "lib", **told: Any) -> tuple[int, str, str]:
    """Run the program; return exit code, output and messages."""
    roots = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("gpu_check_process.py")), json.dumps(told), *arguments],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(folder / library),
            VARIABLE: str(folder / "control"),
            "PYTHONPATH": ":".join(roots),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def found(folder: Path, **told: Any) -> dict[str, dict[str, Any]]:
    """Run the program and return its findings by what they are about."""
    path = folder / "findings.json"
    code, output, _ = check(folder, "--json", str(path), **told)
    document = json.loads(path.read_text())
    assert code == int(any(one["verdict"] == "differs" for one in document["findings"]))
    assert document["gpu"] == "NVIDIA H100 80GB HBM3"
    for one in document["findings"]:
        assert sum(row.startswith(f"| {one['what']} |") for row in output.splitlines()) == 1
    return {one["what"]: one for one in document["findings"]}


def verdicts(output: str) -> dict[str, str]:
    """Return the verdicts of a table by what they are about."""
    rows = [row.split("|") for row in output.splitlines() if row.startswith("| ")][1:]
    return {row[1].strip(): row[-2].strip() for row in rows}


def median(finding: dict[str, Any], name: str) -> float:
    (value,) = (one["median"] for one in finding["measured"] if one["name"] == name)
    return float(value)


def test_what_the_stand_in_does_as_assumed_holds_with_the_figures_that_were_scripted(folder: Path) -> None:
    findings = found(folder)
    held = {what for what, one in findings.items() if one["verdict"] == "holds"}
    # It renews GPM at each call, and its PCIe call does not block.
    assert findings.keys() - held == {"GPM refresh", "PCIe to the GPU, NVML"}
    assert len(findings) == 15
    assert median(findings["cost of a GPM sample"], "nvmlGpmSampleGet") == pytest.approx(0.02)
    assert median(findings["GPM windows"], "length") == pytest.approx(100.0, abs=1.0)
    assert median(findings["DRAM ratio, a copy"], "told") == pytest.approx(0.9)
    assert median(findings["DRAM ratio, a copy"], "known") == pytest.approx(0.9)
    assert median(findings["DRAM ratio, a copy"], "NVML's memory utilization") == 1.0
    assert median(findings["NVML's memory utilization"], "GPM's DRAM ratio") == pytest.approx(0.1)
    # 0.6 of the peak at 1500 MHz, which is 1500 / 1830 of the table's.
    assert median(findings["tensor ratio, a bf16 product"], "known") == pytest.approx(0.6, rel=1e-3)
    assert median(findings["energy step"], "every") == pytest.approx(100.0, abs=6.0)
    assert median(findings["energy latch"], "lag") == pytest.approx(0.0, abs=5.0)
    assert median(findings["energy under load"], "told") == pytest.approx(690.0, rel=0.03)
    assert median(findings["power at rest"], "told") == pytest.approx(100.0, rel=0.03)
    assert median(findings["throttle counters"], "field 74") == pytest.approx(0.8, abs=0.01)
    assert median(findings["throttle counters"], "reason 0x4") == pytest.approx(0.8, abs=0.1)
    assert median(findings["PCIe to the GPU, GPM"], "known") == pytest.approx(50e9 / 2**20)
    assert median(findings["PCIe to the GPU, GPM"], "told") == pytest.approx(55e9 / 2**20, rel=1e-6)


def test_counters_that_are_latched_by_a_clock_of_their_own_show_their_period_and_their_lag(
    folder: Path,
) -> None:
    findings = found(folder, refresh_s=0.1)
    assert findings["GPM refresh"]["verdict"] == "holds"
    assert median(findings["GPM refresh"], "every") == pytest.approx(100.0, abs=6.0)
    assert findings["GPM latch"]["verdict"] == "differs"
    # Looked at in all phases, a value is half a period old on average.
    assert median(findings["GPM latch"], "lag") == pytest.approx(50.0, abs=10.0)


def test_counters_that_tell_twice_of_what_ran_differ(folder: Path) -> None:
    findings = found(folder, truth=0.5)
    for what in ("DRAM ratio, a copy", "tensor ratio, a bf16 product", "PCIe to the GPU, GPM"):
        assert findings[what]["verdict"] == "differs"
        assert median(findings[what], "told") / median(findings[what], "known") == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize("why", ("Not Supported", "Insufficient Permissions"))
def test_without_gpm_the_rest_is_checked_and_why_is_told(folder: Path, why: str) -> None:
    offered = why != "Not Supported"
    findings = found(folder, gpm=offered, fail={"gpm_sample": NO_PERMISSION} if offered else {})
    assert {what for what, one in findings.items() if one["verdict"] == "not offered"} == GPM_ROWS
    assert {findings[what]["note"] for what in GPM_ROWS} == {f"nvmlGpmSampleGet: {why}"}
    assert findings["energy under load"]["verdict"] == "holds"


@pytest.mark.parametrize(
    ("loads", "why"),
    [
        ("none", "torch is not installed"),
        # Nor would one with CUDA: no GPU has the stand-in's UUID.
        pytest.param("torch", "this torch has no CUDA, or sees no GPU", marks=pytest.mark.torch),
    ],
)
def test_without_cuda_it_says_so_in_a_line_and_checks_what_shows_at_rest(
    folder: Path, loads: str, why: str
) -> None:
    code, output, messages = check(folder, loads=loads)
    assert code == 0
    assert messages == f"no loads, so only what shows at rest is checked: {why}\n"
    assert verdicts(output) == {
        "cost of a GPM sample": "holds",
        "GPM windows": "holds",
        "GPM refresh": "not shown",  # nothing runs, so nothing changes
        "energy step": "holds",
        "power at rest": "holds",
        "without root": "holds",
    }


def test_a_mig_device_is_checked_for_what_it_has_of_its_own(folder: Path) -> None:
    code, output, _ = check(folder, loads="none", mig=True)
    assert code == 0
    assert output.startswith("NVIDIA H100 80GB HBM3 MIG, ")
    assert "nvmlGpmSampleGet 0.02 / 0.02 ms" in output
    assert verdicts(output) == {
        "cost of a GPM sample": "holds",
        "GPM windows": "holds",
        "GPM refresh": "not shown",
        "energy step": "not offered",  # energy and power are the whole GPU's
        "power at rest": "not offered",
        "without root": "holds",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being root")
def test_what_only_root_may_read_differs_from_what_is_assumed(folder: Path) -> None:
    finding = found(folder, loads="none", mode=0o600)["without root"]
    assert finding["verdict"] == "differs"
    assert finding["note"] == "GPM: 0 values, energy: 0 values"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"library": "no driver here"}, "check-gpu: NVML: no NVIDIA driver library (libnvidia-ml.so.1) here"),
        ({"arguments": ("--gpu", "7")}, "check-gpu: --gpu 7: there are 2 GPUs"),
    ],
)
def test_without_a_gpu_there_is_one_line_and_exit_code_2(
    folder: Path, options: dict[str, Any], said: str
) -> None:
    code, output, messages = check(folder, *options.pop("arguments", ()), **options)
    assert (code, output) == (2, "")
    assert messages.startswith(said) and messages.count("\n") == 1
