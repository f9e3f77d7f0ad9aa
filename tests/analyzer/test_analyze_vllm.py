"""Traces of a real vLLM server against what its client knew: mapped where they tell, unknown where they do not."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from store_fixture import fetch, loaded

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.pipeline import Settings
from vtprof_analyzer.pipeline import run as run_stages
from vtprof_analyzer.step_cost import STAGE, create_table

FOLDER = Path(__file__).parents[1] / "fixtures" / "vllm"
TRACES = FOLDER / "traces.jsonl"
TRUTH: dict[str, Any] = json.loads((FOLDER / "ground_truth.json").read_text("utf-8"))
SENT = [sent for sent in TRUTH["requests"] if sent["expected_spans"]]


def test_n_answers_to_one_request_are_one_request() -> None:
    found = analyze(Options([TRACES]))
    assert found.summary.requests == len(SENT) < sum(sent["expected_spans"] for sent in SENT)
    with loaded(TRACES) as db:
        ids = Counter(row[0] for row in fetch(db, "SELECT vllm_request_id FROM spans WHERE dialect = 'vllm'"))
    known = {sent["response_id"]: sent["expected_spans"] for sent in SENT if sent["response_id"]}
    assert {name: count for name, count in ids.items() if name in known} == known
    assert max(ids.values()) == 2


def test_tokens_are_those_the_server_answered() -> None:
    found = analyze(Options([TRACES])).summary
    prompts = sum(sent["prompt_tokens"] for sent in SENT if sent["prompt_tokens"])
    assert found.input_tokens == prompts
    assert found.output_tokens == sum(sent["completion_tokens"] for sent in SENT if sent["completion_tokens"])


def test_what_vllm_does_not_tell_is_unknown_and_said() -> None:
    found = analyze(Options([TRACES]))
    assert found.deployment.dialect == "vllm"
    assert found.deployment.engine == "vllm"
    summary = found.summary
    unknown = [
        summary.text_tokens,
        summary.visual_tokens,
        summary.image_items,
        summary.requests_with_visual,
        summary.cached_tokens,
    ]
    assert unknown == [None] * len(unknown)
    assert found.deployment.model is None
    assert {row.phase for row in found.phases} == {"queue", "prefill", "decode"}
    shares = (found.dominance.prompt_tokens, found.dominance.kv_token_seconds, found.dominance.prefill_flops)
    assert [share.share for share in shares] == [None] * 3
    assert found.dominance.ttft_without_visual_ms.p50 is None
    assert sum("prefill" in note for note in found.deployment.notes) >= 1


def test_model_and_device_beside_vllms_spans_promise_nothing_they_cannot_give(tmp_path: Path) -> None:
    from qwen_configs import QWEN2_5_VL_7B

    from vtprof_analyzer.report import terminal

    for dtype in ("bfloat16", None):
        config = {**QWEN2_5_VL_7B, "torch_dtype": dtype}
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = analyze(Options([TRACES], model=tmp_path, device="H200 SXM"))
        text = " ".join(terminal.render(found).split())
        assert text.split(" on ")[0].endswith("qwen2_5_vl")
        assert "None" not in text and "null" not in text
        assert "name it with --device" not in text and "or --model" not in text
        assert "vtprof.weights.dtype" not in text
        assert (found.kv.how == "derived from the model's config") == (dtype is not None)


def test_times_lie_within_what_the_client_measured_and_the_parts_add_up() -> None:
    received = {sent["response_id"]: sent for sent in SENT if sent["response_id"]}
    with loaded(TRACES) as db:
        run_stages(db, Settings(), {STAGE: create_table})
        rows = fetch(
            db,
            "SELECT request_id, start_unix_nano, e2e_ms, ttft_ms, queue_ms + prefill_ms"
            " + unexplained_ms, unexplained_ms FROM requests",
        )
    assert rows
    for request_id, start, e2e, ttft, parts, unexplained in rows:
        assert parts == pytest.approx(ttft)
        assert unexplained >= 0
        assert e2e >= ttft
        if sent := received.get(request_id):
            assert start >= sent["sent_unix_ns"]
            assert start + e2e * 1e6 <= sent["received_unix_ns"] + 1e6
