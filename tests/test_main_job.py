"""The main job, end to end: `vtprof demo` with the real model, probe, agent and analyzer, against the client's books."""

import itertools
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vtprof_analyzer.analyze import Options, analyze
from vtprof_schemas import names

pytestmark = [pytest.mark.torch, pytest.mark.slow]
VTPROF = str(Path(sys.executable).with_name("vtprof"))


@dataclass(frozen=True)
class Demo:
    """What one demo left behind."""

    folder: Path
    stdout: str
    report: dict[str, Any]
    truth: dict[str, Any]
    requests: list[dict[str, Any]]  # root spans in the order of arrival, attributes by key
    phases: dict[str, list[dict[str, Any]]]  # by span id of the request


def value(holder: dict[str, Any]) -> Any:
    ((kind, held),) = holder.items()
    return int(held) if kind == "intValue" else held


def read_spans(folder: Path) -> list[dict[str, Any]]:
    spans = {}
    for path in sorted(folder.glob("*.traces.jsonl")):
        for line in path.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        attributes = {a["key"]: value(a["value"]) for a in span.get("attributes", [])}
                        begin, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
                        spans[span["spanId"]] = {**span, "at": attributes, "begin": begin, "end": end}
    return list(spans.values())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("demo")
    result = subprocess.run([VTPROF, "demo"], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    spans = read_spans(folder / "traces")
    roots = [span for span in spans if span["name"] == names.SPAN_REQUEST]
    phases = defaultdict(list)
    for span in spans:
        if span["name"] in names.PHASE_SPANS.values():
            phases[span["parentSpanId"]].append(span)
    return Demo(
        folder=folder,
        stdout=result.stdout,
        report=json.loads((folder / "report" / "report.json").read_text()),
        truth=json.loads((folder / "report" / "ground_truth.json").read_text()),
        requests=sorted(roots, key=lambda span: (span["begin"], span["at"][names.INPUT_TOKENS])),
        phases=dict(phases),
    )


def in_order_sent(demo: Demo) -> list[dict[str, Any]]:
    """Return the client's rows in the order of the spans: the rows of a batch arrive together."""
    return sorted(demo.truth["requests"], key=lambda row: (row["sent_monotonic_ns"], row["input_tokens"]))


def test_totals_of_the_report_are_what_the_client_sent(demo: Demo) -> None:
    summary, totals = demo.report["summary"], demo.truth["totals"]
    assert summary["requests"] == totals["requests"] >= 36
    assert summary["input_tokens"] == totals["input_tokens"]
    assert summary["text_tokens"] == totals["text_tokens"]
    assert summary["visual_tokens"] == totals["visual_tokens"]
    assert summary["output_tokens"] == totals["output_tokens"]
    assert summary["image_items"] == totals["images"]
    assert demo.report["kv"]["bytes_total"] == totals["kv_bytes"]
    per_token = demo.truth["kv_bytes_per_token"]
    assert demo.report["kv"]["bytes_per_token"] == per_token
    assert demo.report["kv"]["visual_bytes_total"] == totals["visual_tokens"] * per_token


def test_every_request_has_the_clients_tokens_and_kv_bytes(demo: Demo) -> None:
    rows = in_order_sent(demo)
    assert len(rows) == len(demo.requests)
    for row, span in zip(rows, demo.requests, strict=True):
        at = span["at"]
        assert at[names.INPUT_TOKENS] == row["input_tokens"]
        assert at[names.TOKENS_TEXT] == row["text_tokens"]
        assert at[names.TOKENS_IMAGE] == row["visual_tokens"]
        assert at[names.ITEMS_IMAGE] == row["images"]
        assert at[names.OUTPUT_TOKENS] == row["output_tokens"]
        assert at[names.KV_BYTES] == row["kv_bytes"]
        pixels = sum(phase["at"].get(names.PREPROCESS_PIXELS, 0) for phase in demo.phases[span["spanId"]])
        # The processor is called once for a batch: pixels of a batch stand on the call, not on the row.
        if row["batch"] == 1:
            assert pixels == row["pixels"]


def test_phases_and_unexplained_make_up_the_clients_own_end_to_end_time(demo: Demo) -> None:
    shares = []
    for row, span in zip(in_order_sent(demo), demo.requests, strict=True):
        # One machine, one CLOCK_MONOTONIC: the client's interval holds the server's.
        end_to_end = row["received_monotonic_ns"] - row["sent_monotonic_ns"]
        explained = sum(phase["end"] - phase["begin"] for phase in demo.phases[span["spanId"]])
        unexplained = end_to_end - explained
        assert unexplained >= 0
        assert span["end"] - span["begin"] <= end_to_end
        shares.append(unexplained / end_to_end)
    assert statistics.median(shares) <= 0.05


def test_no_time_is_counted_twice(demo: Demo) -> None:
    for span in demo.requests:
        phases = sorted(demo.phases[span["spanId"]], key=lambda phase: phase["begin"])
        assert phases[0]["begin"] >= span["begin"] and phases[-1]["end"] <= span["end"]
        for before, after in itertools.pairwise(phases):
            assert before["end"] <= after["begin"]


def test_the_ttft_budget_closes(demo: Demo) -> None:
    rows = demo.report["ttft_budget"]["phases"]
    assert rows[-1]["phase"] == names.UNEXPLAINED
    assert sum(row["share"] for row in rows) == pytest.approx(1.0, abs=1e-9)
    assert all(row["share"] >= 0 for row in rows)


def test_phases_are_judged_against_the_roofline_of_this_machine(demo: Demo) -> None:
    roof = demo.report["deployment"]["roof"]
    assert roof["kind"] == "attainable"
    verdicts = {row["phase"]: row for row in demo.report["phases"]}
    for phase in (names.ENCODE, names.PREFILL, names.DECODE):
        assert verdicts[phase]["bound"] != "insufficient_data"
        assert verdicts[phase]["intensity"] > 0
    # One encode or prefill reads the weights once for many tokens, a decode step for one to four.
    assert verdicts[names.DECODE]["intensity"] < verdicts[names.PREFILL]["intensity"]


def test_nothing_was_lost_or_repaired(demo: Demo) -> None:
    integrity = demo.report["integrity"]
    for count in (
        "malformed_lines",
        "truncated_lines",
        "duplicates",
        "orphans",
        "end_missing",
        "negative_duration",
    ):
        assert integrity[count] == 0, count
    assert integrity["records_lost"] == 0
    assert integrity["requests_without_tokens"] == 0
    assert integrity["requests_without_phases"] == 0


def test_the_terminal_report_says_where_the_page_is(demo: Demo) -> None:
    assert "Where TTFT goes" in demo.stdout
    assert demo.stdout.rstrip().splitlines()[-1] == "Full report: report/index.html"
    assert "<svg" in (demo.folder / "report" / "index.html").read_text()


def test_analyze_of_the_same_folder_gives_the_same_report(demo: Demo) -> None:
    command = [VTPROF, "analyze", "traces", "--format", "json"]
    result = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == demo.report


def test_the_last_digit_is_the_same_in_every_run(demo: Demo) -> None:
    # DuckDB adds doubles in whatever order its threads deliver them, unless it is told one.
    runs = [analyze(Options(paths=[demo.folder / "traces"]), lambda _: None).roofline for _ in range(8)]
    assert all(run == runs[0] for run in runs)


def test_a_second_demo_replaces_its_own_traces_and_refuses_other_peoples(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "mine.jsonl").write_text("{}\n")
    result = subprocess.run([VTPROF, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].endswith("give another folder with --out")
    assert (tmp_path / "traces" / "mine.jsonl").exists()
