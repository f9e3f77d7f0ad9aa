"""The scheduler's hooks on vLLM's own Scheduler: step by step what they record is what the engine says of itself."""

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engine_places import ROOT
from engine_server import engine_environment

from vtprof_schemas import names
from vtprof_schemas.names import request_number

SOURCES = os.pathsep.join(str(ROOT / part) for part in ("agent", "schemas", "tests/probe"))
TIMEOUT_S = 300
PROMPT_TOKENS = 90
OUTPUT_TOKENS = 40
REQUESTS = 9
ABORTED = 4
IMAGE = range(40, 70)
"""As in scheduler_real.py: each tenth of these positions holds text."""
RUNS = ("sync", "async", "attached")


@pytest.fixture(scope="module")
def runs(engine_venv: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What scheduler_real.py wrote: vLLM is imported once for all runs."""
    output = tmp_path_factory.mktemp("scheduler") / "output.json"
    script = Path(__file__).with_name("scheduler_real.py")
    done = subprocess.run(
        [str(engine_venv / "bin" / "python"), str(script), str(tiny_model_folder), str(output)],
        env=engine_environment(engine_venv / "cache", {"PYTHONPATH": SOURCES}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


def of(run: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [fields for name, fields in run["records"] if name == kind]


def watched(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the engine said of the steps that the probe was there for."""
    return [step for step in run["steps"] if step["step"] is not None]


def visual(start: int, stop: int) -> int:
    return len([p for p in range(start, stop) if p in IMAGE and (p - IMAGE.start) % 10])


@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_the_engine_is_one_record_and_nothing_failed(runs: Any, name: str) -> None:
    run = runs[name]
    assert [row["step"] for row in of(run, "step")] == [step["step"] for step in watched(run)]
    # The engines of one process number their steps on.
    first = watched(run)[0]["step"]
    assert [step["step"] for step in watched(run)] == list(range(first, first + len(watched(run))))
    assert run["hook_errors"] == 0
    assert not run["hooked_after"]


@pytest.mark.parametrize("name", RUNS)
def test_tokens_blocks_and_counts_are_the_engines(runs: Any, name: str) -> None:
    run = runs[name]
    for said, row in zip(watched(run), of(run, "step"), strict=True):
        assert row["prefill_tokens"] + row["decode_requests"] == sum(said["scheduled"].values())
        assert row["decode_tokens"] == row["decode_requests"], "nothing was drafted"
        assert row["kv_used_tokens"] == said["kv_tokens"]
        assert row["kv_used_blocks"] == said["used_blocks"]
        assert [row["running"], row["waiting"]] == said["counts"]
        assert row["preemptions"] == len(said["preempted"])


@pytest.mark.parametrize("name", ["sync", "async"])
def test_prefill_and_decode_are_the_engines_context_and_generation(runs: Any, name: str) -> None:
    """The engine calls the second prefill of a preempted request generation; else they agree."""
    run = runs[name]
    again: set[str] = set()
    for said, row in zip(watched(run), of(run, "step"), strict=True):
        again.update(said["resumed"])
        if not again & said["scheduled"].keys():
            assert [row["prefill_tokens"], row["decode_requests"]] == [
                said["context"][1],
                said["generation"][0],
            ]


@pytest.mark.parametrize("name", ["sync", "async"])
def test_chunks_lie_where_the_engine_computed(runs: Any, name: str) -> None:
    run = runs[name]
    ids = {request_number(f"request-{index}"): index for index in range(REQUESTS)}
    steps = {said["step"]: said for said in watched(run)}
    first: set[int] = set()
    for row in of(run, "prefill"):
        said, index = steps[row["step"]], ids[row["request"]]
        key = f"request-{index}"
        start, count = said["before"][key], said["scheduled"][key]
        assert (row["context_tokens"], row["tokens"]) == (start, count)
        assert row["attention_pairs"] == sum(range(start + 1, start + count + 1))
        assert row["visual_tokens"] == (visual(start, start + count) if index % 2 else 0)
        assert row["last"] == (start + count == said["known_tokens"][key])
        assert row["cached_tokens"] == (0 if index in first else start)
        first.add(index)
    assert first == set(range(REQUESTS))
    assert any(row["cached_tokens"] for row in of(run, "prefill")), "no prefix was shared"
    assert any(not row["last"] for row in of(run, "prefill")), "no prompt was cut in chunks"


@pytest.mark.parametrize("name", RUNS)
def test_decode_reads_the_contexts_that_the_engine_holds(runs: Any, name: str) -> None:
    run = runs[name]
    chunks = {(row["step"], row["request"]) for row in of(run, "prefill")}
    for said, row in zip(watched(run), of(run, "step"), strict=True):
        decodes = {
            k: at for k, at in said["before"].items() if (said["step"], request_number(k)) not in chunks
        }
        assert row["decode_context_tokens"] == sum(decodes.values())
        images = [key for key in decodes if int(key.split("-")[1]) % 2]
        assert row["decode_visual_tokens"] == len(images) * visual(0, PROMPT_TOKENS)


@pytest.mark.parametrize("name", ["sync", "async"])
def test_preemptions_and_ends(runs: Any, name: str) -> None:
    run = runs[name]
    said = [(request_number(key), step["step"]) for step in watched(run) for key in step["preempted"]]
    assert said, "the cache was large enough for all"
    assert [(row["request"], row["step"]) for row in of(run, "preempted")] == said
    left = {row["request"]: row["output_tokens"] for row in of(run, "left")}
    for index in set(range(REQUESTS)) - {ABORTED}:
        assert left[request_number(f"request-{index}")] == OUTPUT_TOKENS - index
    assert left[request_number(f"request-{ABORTED}")] < OUTPUT_TOKENS - ABORTED
    resumed = [key for step in watched(run) for key in step["resumed"]]
    assert resumed
    again = [row["request"] for row in of(run, "queue")]
    # Each waited once at first, and each that was computed again once more.
    assert all(again.count(request_number(key)) >= 1 + resumed.count(key) for key in resumed)
    assert set(again) == {request_number(f"request-{index}") for index in range(REQUESTS)}


def test_one_encodes_the_shared_image_and_the_others_find_it(runs: Any) -> None:
    run = runs["sync"]
    encoded = [(step["step"], key) for step in run["steps"] for key in step["encoder_inputs"]]
    hits = [row["request"] for row in of(run, "encode")]
    with_image = {request_number(f"request-{index}") for index in range(1, REQUESTS, 2)}
    assert {request_number(key) for _, key in encoded} | set(hits) == with_image
    assert len(hits) == len(set(hits)) == len(with_image) - 1
    assert all((row["items"], row["cache_hits"]) == (0, 1) for row in of(run, "encode"))


@pytest.mark.parametrize("name", RUNS)
def test_steps_do_not_overlap_and_what_waits_ends_where_a_step_begins(runs: Any, name: str) -> None:
    run = runs[name]
    steps = of(run, "step")
    assert all(a["end_ns"] <= b["start_ns"] for a, b in pairwise(steps))
    starts = {row["start_ns"] for row in steps}
    assert all(row["start_ns"] <= row["end_ns"] and row["end_ns"] in starts for row in of(run, "queue"))


def test_the_engine_is_described(runs: Any) -> None:
    info = runs["sync"]["info"]
    # Two layers, keys and values of 2 heads x 64 in two bytes each; 36 blocks of 16 tokens.
    assert info[names.KV_BYTES_PER_TOKEN] == 2 * 2 * 2 * 64 * 2
    assert (info[names.KV_BLOCK_TOKENS], info[names.KV_CAPACITY_TOKENS]) == (16, 36 * 16)
    assert (info[names.ROLE], info[names.KV_DTYPE], info[names.DEVICE_KIND]) == ("engine", "bfloat16", "cpu")
    assert json.loads(info[names.MODEL_CONFIG])["model_type"] == "qwen2_5_vl"
    assert json.loads(info[names.ENGINE_CONFIG])["max_num_batched_tokens"] == 96
    hooks = json.loads(info[names.PROBE_HOOKS])
    assert {state for hook, state in hooks.items() if hook.startswith("vllm.scheduler.")} == {"set"}
