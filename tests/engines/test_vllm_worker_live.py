"""The worker's hooks in a real vLLM: what its encoder was given is what is recorded, item by item and patch by patch."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import worker_encoder_v2
import worker_offline
from engine_places import ROOT
from engine_server import engine_environment

from vtprof_schemas import names

pytestmark = pytest.mark.slow

SOURCES = os.pathsep.join(str(ROOT / part) for part in ("agent", "schemas", "tests/probe"))
TIMEOUT_S = 300


def run_script(venv: Path, folder: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder in vLLM's environment; return what it wrote."""
    output = folder / "output.json"
    done = subprocess.run(
        [str(venv / "bin" / "python"), str(Path(__file__).with_name(script)), *arguments, str(output)],
        env=engine_environment(venv / "cache", {"PYTHONPATH": SOURCES}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def of(run: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [fields for name, fields in run["records"] if name == kind]


@pytest.fixture(scope="module")
def offline(engine_venv: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of the prompts of worker_offline.py, API, engine and worker in one process."""
    return run_script(
        engine_venv, tmp_path_factory.mktemp("offline"), "worker_offline.py", str(tiny_model_folder)
    )


@pytest.fixture(scope="module")
def encoder_v2(engine_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The two steps of worker_encoder_v2.py."""
    return run_script(engine_venv, tmp_path_factory.mktemp("v2"), "worker_encoder_v2.py")


def patches(height: int, width: int) -> int:
    rows, columns = tiny_model.resized(height, width)
    return rows // tiny_model.PATCH_PIXELS * (columns // tiny_model.PATCH_PIXELS)


def test_items_patches_and_pairs_are_those_of_the_images_sent(offline: Any) -> None:
    expected = []
    for _text, sizes in worker_offline.PROMPTS:
        counts = [patches(height, width) for height, width in sizes]
        if counts:
            expected.append((len(counts), sum(counts), sum(count**2 for count in counts), -1))
    recorded = [
        (row["items"], row["patches"], row["attention_pairs"], row["cache_hits"])
        for row in of(offline, "encode")
        if row["items"]
    ]
    # 280 x 280 pixels are 20 x 20 patches of 14 pixels, 280 x 560 are 20 x 40.
    assert expected == [(1, 400, 160_000, -1), (2, 1600, 1_280_000, -1)]
    assert recorded == expected


def test_encoder_runs_lie_in_their_step_and_name_requests_that_arrived(offline: Any) -> None:
    steps = {row["step"]: row for row in of(offline, "step")}
    arrived = {row["request"]: index for index, row in enumerate(of(offline, "request_arrived"))}
    runs = [row for row in of(offline, "encode") if row["items"]]
    assert [arrived[row["request"]] for row in runs] == [0, 1]
    for row in runs:
        step = steps[row["step"]]
        assert step["start_ns"] < row["start_ns"] < row["end_ns"] < step["end_ns"]
        assert step["prefill_tokens"] > 0


def test_worker_describes_itself_and_has_no_gpu_time_on_a_cpu(offline: Any) -> None:
    info = offline["info"]
    assert info[names.DEVICE_KIND] == "cpu"
    assert info[names.WEIGHTS_DTYPE] == tiny_model.DTYPE
    assert info[names.DEVICE_CORES] >= 1
    assert info[names.HW_NAME]
    assert of(offline, "gpu_time") == []


def test_hooks_of_the_worker_are_set_come_off_and_make_no_error(offline: Any) -> None:
    states = json.loads(offline["info"][names.PROBE_HOOKS])
    worker = {name: state for name, state in states.items() if name.startswith("vllm.worker.")}
    assert worker.pop("vllm.worker.execute.encoder_only", "waiting") == "waiting"
    assert set(worker.values()) <= {"set", "waiting"}
    assert {name for name in worker if worker[name] == "set"} >= {
        "vllm.worker.execute.v1", "vllm.worker.encode.v1", "vllm.worker.sample.v1",
    }  # fmt: skip
    assert (offline["hook_errors"], offline["hooked"], offline["hooked_after"]) == (0, True, False)


def test_encoder_of_runner_v2_records_the_batch_that_it_ran(encoder_v2: Any) -> None:
    counts = {
        name: [rows * columns for rows, columns in grids] for name, grids in worker_encoder_v2.GRIDS.items()
    }
    first, second = counts["first"], counts["second"]
    number = names.request_number
    # The profiling run is no step. In the second step the first item is in the cache: vLLM leaves it out.
    assert encoder_v2["calls"] == [[first[0]], [first[0]], [first[1], second[0]]]
    assert [
        (row["step"], row["request"], row["items"], row["patches"], row["attention_pairs"])
        for row in of(encoder_v2, "encode")
    ] == [
        (1, number("first"), 1, first[0], first[0] ** 2),
        (2, number("first"), 1, first[1], first[1] ** 2),
        (2, number("second"), 1, second[0], second[0] ** 2),
    ]
    assert encoder_v2["hook_errors"] == 0
