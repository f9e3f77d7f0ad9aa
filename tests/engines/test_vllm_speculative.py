"""Speculative decoding on a real vLLM: steps tell the tokens that were computed, requests those that were accepted."""

import json
import subprocess
from pathlib import Path

import trace_files
from engine_server import agent_command, engine_environment

from vtprof_schemas import names

PROGRAM = Path(__file__).with_name("speculative_program.py")
OUTPUT_TOKENS = 40
REQUESTS = 2


def test_steps_tell_the_drafts_that_were_verified(
    engine_venv: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *agent_command("exec", "--out", str(tmp_path / "out"), "--"),
            *(str(engine_venv / "bin" / "python"), str(PROGRAM), str(tiny_model_folder)),
        ],
        env=engine_environment(engine_venv / "cache", {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    steps = [
        json.loads(line.removeprefix("SCHEDULED "))
        for line in done.stdout.splitlines()
        if line.startswith("SCHEDULED ")
    ]
    decodes = [(tokens, drafts) for step in steps for tokens, drafts, prompt in step.values() if not prompt]
    computed, drafted = (sum(counts) for counts in zip(*decodes, strict=True))
    assert drafted > 0, "nothing was drafted"
    assert computed == len(decodes) + drafted

    spans = trace_files.read(tmp_path / "out")
    told = [span for span in spans if span.name in (names.SPAN_STEP, names.SPAN_WINDOW)]
    assert sum(span.count(names.STEP_DECODE_REQUESTS) for span in told) == len(decodes)
    assert sum(span.count(names.STEP_DECODE_TOKENS) for span in told) == computed
    outputs = [r.root.attributes[names.OUTPUT_TOKENS] for r in trace_files.requests(spans).values()]
    assert outputs == [OUTPUT_TOKENS] * REQUESTS, "tokens out are those that were accepted"
