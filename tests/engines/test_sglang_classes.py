"""SGLang's own batch classes, imported without its kernels, are what the scheduler's hooks take them for."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from engine_places import ROOT
from test_hook_targets import SOURCES

from vtprof_probe.hooks.targets import version_key

NEWEST = "0.5.23"
"""The version whose imports the stand-ins of sglang_classes.py are made for."""


@pytest.mark.slow
def test_a_prompt_with_an_image_in_the_classes_of_sglang_itself(engine_venv: Path) -> None:
    wanted = version_key(NEWEST)
    folders = [s.folder for s in SOURCES if s.engine == "sglang" and version_key(s.version) == wanted]
    assert folders, f"no source of sglang {NEWEST} in reach; run `make test-engines`"
    places = [ROOT / "agent", ROOT / "schemas", ROOT / "tests" / "probe"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "SGLANG_USE_CPU_ENGINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    script = Path(__file__).with_name("sglang_classes.py")
    done = subprocess.run(
        [engine_venv / "bin" / "python", script, folders[0]],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["errors"] == 0
    rows = dict(said["rows"])
    kinds = [kind for kind, _ in said["rows"]]
    assert kinds == ["encode", "queue", "prefill", "first_token", "step", "step", "left"]
    # 16 x 10 patches at the positions 10..49 of 60; a query at position p sees p + 1 keys.
    assert (rows["encode"]["items"], rows["encode"]["patches"], rows["encode"]["attention_pairs"]) == (
        1,
        160,
        160**2,
    )
    prefill = rows["prefill"]
    assert (prefill["tokens"], prefill["visual_tokens"], prefill["last"]) == (60, 40, 1)
    assert prefill["visual_attention_pairs"] == sum(p + 1 for p in range(10, 50))
    last = rows["step"]
    assert (last["step"], last["decode_requests"], last["decode_context_tokens"]) == (2, 1, 60)
    assert (last["decode_visual_tokens"], last["kv_used_tokens"]) == (40, 60)
    assert (rows["left"]["step"], rows["left"]["output_tokens"]) == (2, 2)
