"""Offline inference: API, scheduler and worker in one process, one ring, and the same counts as from a server."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import trace_files
from engine_server import agent_command, engine_environment
from tiny_model import TAG_TOKENS_PER_IMAGE, TEMPLATE_TOKENS, visual_tokens
from workload import Image

from vtprof_schemas import names

PROGRAM = Path(__file__).with_name("offline_program.py")
OUTPUT_TOKENS = 6
REQUESTS: tuple[tuple[str, tuple[Image, ...]], ...] = (
    ("only text", ()),
    ("one image, in one process", (Image(112, 168, tint=5),)),
    ("two images of two sizes, in one process", (Image(84, 84, tint=6), Image(280, 420, tint=7))),
)


@pytest.fixture(scope="module")
def spans(
    engine_venv: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[trace_files.Span]:
    folder = tmp_path_factory.mktemp("offline")
    requests = json.dumps([[text, [image.data_url() for image in images]] for text, images in REQUESTS])
    program = [str(engine_venv / "bin" / "python"), str(PROGRAM), str(tiny_model_folder), requests]
    done = subprocess.run(
        [*agent_command("exec", "--out", str(folder / "out"), "--"), *program],
        env=engine_environment(engine_venv / "cache", {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("COUNTS "))
    assert json.loads(line.removeprefix("COUNTS ")) == [
        [visual + text, OUTPUT_TOKENS] for text, visual, _ in expected()
    ]
    return trace_files.read(folder / "out")


def expected() -> list[tuple[int, int, int]]:
    """Return text tokens, visual tokens and images of each request."""
    return [
        (
            len(text.encode()) + TEMPLATE_TOKENS + TAG_TOKENS_PER_IMAGE * len(images),
            sum(visual_tokens(image.height, image.width) for image in images),
            len(images),
        )
        for text, images in REQUESTS
    ]


def test_each_request_is_recorded_with_its_tokens_and_images(spans: list[trace_files.Span]) -> None:
    found = Counter(
        (
            request.root.count(names.TOKENS_TEXT),
            request.root.count(names.TOKENS_IMAGE),
            request.total(names.ENCODE, names.ENCODE_ITEMS),
        )
        for request in trace_files.requests(spans).values()
    )
    assert found == Counter(expected())


def test_all_of_it_ran_in_one_process(spans: list[trace_files.Span]) -> None:
    assert len({span.resource[names.PROCESS_PID] for span in spans if span.name in names.SPANS}) == 1


def test_phases_and_steps_of_one_process_are_whole(spans: list[trace_files.Span]) -> None:
    for request in trace_files.requests(spans).values():
        assert request.root.attributes[names.REQUEST_STATUS] == names.STATUS_OK
        assert request.root.attributes[names.OUTPUT_TOKENS] == OUTPUT_TOKENS
        phases = {str(span.attributes[names.PHASE]) for span in request.phases}
        assert {names.QUEUE, names.PREFILL, names.DECODE} <= phases
    steps = [span for span in spans if span.name in (names.SPAN_STEP, names.SPAN_WINDOW)]
    prompts = sum(text + visual for text, visual, _ in expected())
    assert sum(span.count(names.STEP_PREFILL_TOKENS) for span in steps) == prompts
    decoded = sum(span.count(names.STEP_DECODE_REQUESTS) for span in steps)
    assert decoded == len(REQUESTS) * (OUTPUT_TOKENS - 1)
