"""Attach to a transformers program whose model is loaded and generating: it is recorded, exported, and left as it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from agent_process import spans, wait_for
from attach_programs import running

from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.outcome import ATTACHED, DETACHED
from vtprof_agent.attach.processes import read_process
from vtprof_agent.attach.rings import open_rings
from vtprof_agent.rings_report import look
from vtprof_schemas import names

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

NEW_TOKENS = 3
HOOKS = [
    f"transformers.{name}"
    for name in (
        "image_load", "processor", "model", "encode_image", "encode_video", "generate", "forward",
    )
]  # fmt: skip
"""Of a process with a Qwen2.5-VL, which takes images and video."""
PROGRAM = f"""
import io, sys, threading
import torch
from PIL import Image
from vtprof_analyzer.demo import tiny_model
torch.set_num_threads(1)
model, processor = tiny_model.build_model(), tiny_model.build_processor()
text = ("<|im_start|>user\\n<|vision_start|><|image_pad|><|vision_end|>what?<|im_end|>\\n<|im_start|>assistant\\n")
counts = dict(turns=0, failed=0)
def names():
    return [(kind, name) for kind in type(model).__mro__ for name in ("forward", "generate") if name in vars(kind)]
originals = {{key: vars(key[0])[key[1]] for key in names()}}
def turn():
    picture = Image.new("RGB", (112, 112), (40, 90, 200))
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens={NEW_TOKENS}, min_new_tokens={NEW_TOKENS}, do_sample=False)
    counts["failed"] += out.shape[1] - inputs["input_ids"].shape[1] != {NEW_TOKENS}
    counts["turns"] += 1
turn()
def serve():
    while True:
        try:
            turn()
        except BaseException:
            counts["failed"] += 1
threading.Thread(target=serve, daemon=True).start()
def same():
    return [vars(key[0])[key[1]] is value for key, value in originals.items()]
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


def ask(process: "subprocess.Popen[str]", expression: str) -> str:
    assert process.stdin and process.stdout
    process.stdin.write(expression + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_loaded_model_is_recorded_and_left_as_it_was(tmp_path: Path) -> None:
    options = Options(tmp_path / "rings", timeout_s=60.0)
    with running(PROGRAM) as process:
        for _ in range(2):
            assert "False" not in ask(process, "same()")
            assert [outcome.result for outcome in attach(process.pid, options)] == [ATTACHED]
            assert "False" in ask(process, "same()")
            wait_for(lambda: bool(open_rings(read_process(process.pid), options.ring_dir)), 60.0)
            turns = int(ask(process, "counts['turns']"))
            wait_for(lambda: int(ask(process, "counts['turns']")) > turns + 1, 60.0)  # noqa: B023
            assert (hooked := look(options.ring_dir)[0][0]).hooks == dict.fromkeys(HOOKS, "set")
            assert f"  {len(HOOKS)} of {len(HOOKS)} hooks set; " in hooked.text()
            assert [outcome.result for outcome in detach(process.pid, options)] == [DETACHED]
            assert open_rings(read_process(process.pid), options.ring_dir) == []
        assert "False" not in ask(process, "same()")
        assert ask(process, "counts['failed']") == "0"
    assert len(list((tmp_path / "rings").glob("*.ring"))) == 2


def test_follow_exports_until_it_is_told_to_end_and_detaches(tmp_path: Path) -> None:
    out, rings = tmp_path / "out", tmp_path / "rings"
    with running(PROGRAM) as process:
        command = ["attach", str(process.pid), "--out", str(out), "--ring-dir", str(rings)]
        agent = subprocess.Popen(
            [sys.executable, "-m", "vtprof_agent", *command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
        )  # fmt: skip
        try:
            wait_for(lambda: (out.exists() and len(_requests(out)) >= 2) or agent.poll() is not None, 120.0)
            agent.send_signal(signal.SIGINT)
            _, errors = agent.communicate(timeout=60)
        finally:
            agent.kill()
        assert agent.returncode == 0, errors
        assert list(rings.glob("*.ring")) == []  # it was read to the end
        assert "False" not in ask(process, "same()")
        assert ask(process, "counts['failed']") == "0"
    values = [{a["key"]: a["value"] for a in span["attributes"]} for span in _requests(out)]
    finished = [value for value in values if value[names.REQUEST_STATUS]["stringValue"] == names.STATUS_OK]
    assert len(finished) >= 2
    # 112 x 112 pixels: 8 x 8 patches of 14, merged two by two.
    assert {int(value[names.TOKENS_IMAGE]["intValue"]) for value in finished} == {16}
    assert {int(value[names.OUTPUT_TOKENS]["intValue"]) for value in finished} == {NEW_TOKENS}


def _requests(out: Path) -> list[dict[str, object]]:
    return [span for span in spans(out) if span["name"] == names.SPAN_REQUEST]
