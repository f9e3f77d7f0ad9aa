"""The tracing code of every SGLang version at hand, run as its fixture was made, is read alike by the analyzer."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_places import SOURCES_VARIABLE, sources_folder
from packaging.version import Version

from vtprof_analyzer.analyze import Options, analyze

CAPTURE = Path(__file__).parents[1] / "fixtures" / "sglang" / "capture_sglang.py"
OLDEST = Version("0.5.10")
"""Since then the stages are told through one module."""
SOURCES = {
    version: folder
    for folder in sorted(sources_folder().glob("sglang-[0-9]*"))
    if (version := Version(folder.name.partition("-")[2])) >= OLDEST
}
LATE_MS = 20
"""How late some spans of SGLang end on a busy machine: they take the clock's time, not the one they are told."""


def test_there_are_versions_to_run() -> None:
    assert SOURCES, f"no source of SGLang {OLDEST} or newer; name a folder in {SOURCES_VARIABLE}"


@pytest.mark.parametrize("version", SOURCES, ids=str)
def test_requests_and_phases_are_those_that_were_told(version: Version, tmp_path: Path) -> None:
    if find_spec("opentelemetry.exporter.otlp.proto.grpc") is None:
        pytest.skip("SGLang's tracing needs opentelemetry-exporter-otlp-proto-grpc")
    command = [
        sys.executable,
        str(CAPTURE),
        "--source",
        str(SOURCES[version] / "sglang"),
        "--version",
        str(version),
    ]
    subprocess.run([*command, "--output", str(tmp_path)], check=True, timeout=60)
    truth = json.loads((tmp_path / "ground_truth.json").read_text("utf-8"))
    at, sent = truth["stages_ms"], truth["requests"]
    report = analyze(Options([tmp_path / "traces.jsonl"]))
    summary = report.summary
    assert (summary.requests, summary.requests_aborted) == (
        len(sent),
        sum(r["reason"] == "abort" for r in sent),
    )
    assert summary.input_tokens == sum(r["prompt"] for r in sent)
    assert summary.output_tokens == sum(r["output"] for r in sent)
    assert summary.cached_tokens == sum(r["cached"] for r in sent)
    assert summary.ttft_ms.p50 == pytest.approx(at["first_token"], abs=0.01)
    assert summary.e2e_ms.p50 == pytest.approx(at["finished"], abs=0.01)
    phases = {row.phase: row.p50_ms for row in report.phases}
    assert phases.pop("decode") == pytest.approx(at["decoded_again"] - at["prefilled"], abs=LATE_MS)
    assert phases == pytest.approx(
        {
            "preprocess": at["tokenized"] + at["dispatched"] - at["dispatch"],
            "queue": at["scheduled"] - at["received"],
            "prefill": at["prefilled"] - at["scheduled"],
        },
        abs=0.01,
    )
