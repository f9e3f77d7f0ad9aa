"""``vtprof tokens``: counts in the order given, by folder, file or name; one line and exit 2 for what cannot be counted."""

import importlib.resources
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from qwen_configs import QWEN2_5_VL_7B

PROCESSOR = {
    "processor_class": "Qwen2_5_VLProcessor", "min_pixels": 3136, "max_pixels": 12_845_056,
    "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip


def vtprof(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "from vtprof_analyzer.cli import main; main()", *words],
                          capture_output=True, text=True, check=False)  # fmt: skip


def document(*words: str) -> dict[str, Any]:
    done = vtprof("tokens", *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    schema = importlib.resources.files("vtprof_schemas").joinpath("tokens.schema.json").read_text("utf-8")
    jsonschema.validate(found, json.loads(schema))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN2_5_VL_7B))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path


def test_items_come_in_the_order_given_across_kinds(folder: Path) -> None:
    found = document(
        str(folder), "--image", "1024x1024", "--video", "4x512x512", "--image=512x512", "--video=2x280x280"
    )
    # Cells of 28 pixels: 37^2; two pairs of 18^2; 18^2; one pair of 10^2. Without a config of its own a video processor
    # takes the image processor's limits, as transformers does.
    assert [(item["kind"], item["tokens"]) for item in found["items"]] == [
        ("image", 1369), ("video", 2 * 324), ("image", 324), ("video", 100),
    ]  # fmt: skip
    assert found["items"][1] | {"tokens": 0, "extra_tokens": 0} == {
        "kind": "video", "height": 512, "width": 512, "frames": 4, "seconds": None, "tokens": 0, "extra_tokens": 0,
    }  # fmt: skip
    assert found["total_tokens"] == 1369 + 648 + 324 + 100


def test_processor_configs_alone_decide_the_count(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert document(str(folder), "--image", "1024x1024")["total_tokens"] == 1369


def test_a_missing_processor_config_is_said_and_strict_refuses_it(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    found = document(str(folder / "config.json"), "--image", "1024x1024", "--image", "2048x2048")
    # The released models' limit of 16,384 cells, not the 1,280 of the library's class: 37^2 and 73^2 (G179, G181).
    assert [item["tokens"] for item in found["items"]] == [1369, 5329]
    assert any("Qwen2.5-VL-7B stands in" in note for note in found["notes"])
    refused = vtprof("tokens", str(folder), "--image", "512x512", "--strict")
    assert refused.returncode == 2
    assert "--strict" in refused.stderr


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B", "qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_a_bundled_name_needs_no_download(name: str) -> None:
    assert document(name, "--image", "1024x1024")["total_tokens"] == 1369


def test_the_terminal_shows_a_line_for_each_item_and_their_sum(folder: Path) -> None:
    shown = vtprof("tokens", str(folder), "--image", "1024x1024", "--image", "512x512").stdout
    assert [line.split() for line in shown.splitlines()] == [
        [str(folder)],
        ["tokens", "+", "tags"],
        ["image", "1024x1024", "1,369", "2"],
        ["image", "512x512", "324", "2"],
        ["all", "1,693", "4"],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image", "0x100"), "both sides must be at least 1"),
        (("--image", "-5x100"), "both sides must be at least 1"),
        (("--image", "10000000x100"), "no side may be over"),
        (("--image", "100000x100000"), "pixels in all"),
        (("--image", "100"), "height x width"),
        (("--image", "1e3x20"), "height x width"),
        (("--image", "1x1000"), "200"),
        (("--video", "0x100x100"), "at least one is needed"),
        (("--video", "100x100"), "frames x height x width"),
        (("--audio", "3"), "takes no audio"),
        (("--audio", "-1"), "must be over 0"),
        (("--audio", "nan"), "must be over 0"),
        (("--audio", "long"), "no duration"),
        ((), "nothing to count"),
    ],
)
def test_what_cannot_be_counted_is_one_line_and_exit_2(
    folder: Path, words: tuple[str, ...], said: str
) -> None:
    done = vtprof("tokens", str(folder), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama", "hidden_size": 64}, "text-only"),
        ({"hidden_size": 64}, "model_type"),
        ({"model_type": "unheard_of"}, "unheard_of"),
    ],
)
def test_a_model_without_media_is_one_line_and_exit_2(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = vtprof("tokens", str(tmp_path), "--image", "100x100")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_that_is_nothing_gets_a_suggestion(tmp_path: Path) -> None:
    done = vtprof("tokens", "Qwen2.5-VL-7", "--image", "100x100")
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    assert "Qwen2.5-VL-7B" in done.stderr
    assert vtprof("tokens", str(tmp_path), "--image", "9x9").returncode == 2


def test_list_models_says_where_the_numbers_come_from() -> None:
    lines = vtprof("tokens", "--list-models").stdout.splitlines()
    assert len(lines) >= 60
    assert any(
        line.startswith("Qwen2.5-VL-7B ") and "8.29 B" in line and "config.json" in line for line in lines
    )


def test_a_clip_that_the_processor_cuts_is_said() -> None:
    whole, cut = (document("Qwen2-Audio-7B", "--audio", seconds) for seconds in ("30", "60"))
    assert whole["total_tokens"] == cut["total_tokens"] == 750
    assert not any("cuts" in note for note in whole["notes"])
    assert any("60 s: the processor cuts it at 30 s" in note for note in cut["notes"])


@pytest.mark.parametrize("model", ["Gemma-4-E4B", "Gemma-3n-E2B"])
def test_gemma_says_that_it_cuts_a_clip(model: str) -> None:
    assert any("cuts it at 30 s" in note for note in document(model, "--audio", "100")["notes"])


def test_a_size_of_a_family_without_an_audio_tower_hears_nothing() -> None:
    done = vtprof("tokens", "Gemma-4-31B", "--audio", "10")
    assert done.returncode == 2
    assert "takes no audio" in done.stderr


def test_omni_hears_five_minutes() -> None:
    # 25 tokens a second: of 33.3 s, 3,330 frames of 10 ms, halved twice.
    assert document("Qwen2.5-Omni-7B", "--audio", "33.3")["total_tokens"] == 832


@pytest.mark.parametrize("model", ["DeepSeek-OCR", "Pixtral-12B", "Qwen3-VL-8B", "InternVL3-8B"])
def test_a_bundled_model_assumes_nothing(model: str) -> None:
    assert document(model, "--image", "448x448")["notes"] == []
