"""What is known for a part of the run is not shown as if it were of all: counters, work, devices, models."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from analyze_run import MS, RESOURCE, Run, one_request
from otlp_builder import attributes, document, request, span, write
from report_samples import gpu_run

import vtprof_schemas
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import html, json_text, markdown, phrases, terminal, trust_phrases
from vtprof_analyzer.report.energy_model import CounterCoverage
from vtprof_analyzer.report.model import Deployment, DeviceKind, PhaseRow, Report
from vtprof_analyzer.report.model_trust import TrustRow
from vtprof_schemas import names

S = 1_000_000_000
SCHEMA = json.loads((Path(vtprof_schemas.__file__).parent / "analyze_report.schema.json").read_text("utf-8"))
DRAM, TENSOR = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_TENSOR_ACTIVE_RATIO
UNRECORDED = {
    key: value
    for key, value in RESOURCE.items()
    if key not in (names.MODEL_CONFIG, names.WEIGHTS_DTYPE, names.KV_DTYPE, names.HW_NAME)
}


def counted(
    key: str, value: float, quality: str, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    """Return the attributes of one counter."""
    ends = {"low": low, "high": high}
    return {key: value, f"{key}.quality": quality} | {
        f"{key}.{end}": at for end, at in ends.items() if at is not None
    }


def decoding(trace: int, seconds: float, more: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a request whose decoding takes so long and has these counters."""
    given = {names.OUTPUT_TOKENS: 5, names.INPUT_TOKENS: 10, names.TTFT_NS: S}
    spans = request(0, 200 * S, given, trace=trace, decode=(S, S + int(seconds * S)))
    spans[1]["attributes"] += attributes({names.DECODE_STEPS: 5, **more})
    return spans


def reported(folder: Path, *documents: dict[str, Any]) -> Report:
    report = analyze(Options([write(folder / "t.jsonl", *documents)]))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json_text.render(report)))
    return report


def row_of(report: Report, phase: str) -> PhaseRow:
    return next(row for row in report.phases if row.phase == phase)


def coverage_of(report: Report, counter: str) -> CounterCoverage:
    return next(row for row in report.counters if (row.phase, row.counter) == (names.DECODE, counter))


def told(report: Report) -> str:
    """Return the report for a terminal in one line, without the ends of its lines."""
    return " ".join(terminal.render(report).split())


def test_a_counter_of_less_than_half_of_the_time_has_no_figure(tmp_path: Path) -> None:
    known = counted(DRAM, 0.001, "attributed")
    # 1 of 100 s: a dash, and why; 60 of 110 s: the value.
    little = reported(tmp_path, document(*decoding(1, 1, known), *decoding(2, 99, {})))
    assert row_of(little, names.DECODE).dram_bw_ratio is None
    assert coverage_of(little, "dram").known_share == pytest.approx(0.01)
    assert not coverage_of(little, "dram").tells
    assert "too little to show: DRAM of decode (known for 1 % of its time)" in told(little)
    enough = reported(tmp_path, document(*decoding(1, 60, known), *decoding(2, 50, {})))
    assert row_of(enough, names.DECODE).dram_bw_ratio == pytest.approx(0.001)
    assert coverage_of(enough, "dram").tells
    assert "too little to show" not in told(enough)


def test_an_estimate_over_most_of_the_scale_has_no_figure(tmp_path: Path) -> None:
    vague, narrow = (
        counted(TENSOR, 0.14, "estimated", 0.0, 1.0),
        counted(TENSOR, 0.14, "estimated", 0.1, 0.2),
    )
    report = reported(tmp_path, document(*decoding(1, 30, vague), *decoding(2, 10, narrow)))
    # (30 x 0 + 10 x 0.1) / 40 to (30 x 1 + 10 x 0.2) / 40.
    assert (coverage_of(report, "tensor").low, coverage_of(report, "tensor").high) == (
        pytest.approx(0.025),
        pytest.approx(0.8),
    )
    assert row_of(report, names.DECODE).tensor_ratio is None
    assert "tensor of decode (estimated, from 2 % to 80 %)" in told(report)
    surer = reported(tmp_path, document(*decoding(1, 10, vague), *decoding(2, 30, narrow)))
    assert row_of(surer, names.DECODE).tensor_ratio == pytest.approx(0.14)
    attributed = reported(tmp_path, document(*decoding(1, 10, counted(TENSOR, 0.14, "attributed", 0.0, 1.0))))
    assert row_of(attributed, names.DECODE).tensor_ratio == pytest.approx(0.14)
    # What has no interval is its own.
    plain = reported(tmp_path, document(*decoding(1, 10, counted(TENSOR, 0.14, "estimated"))))
    assert coverage_of(plain, "tensor").high == pytest.approx(0.14)


def two_servers(unknown: Mapping[str, Any], *, requests: int = 3) -> list[dict[str, Any]]:
    """Return one request of a server with a config, and several of another without one, which differs as given."""
    known_spans = one_request(1)
    others = [item for trace in range(2, 2 + requests) for item in one_request(trace)]
    for spans, model in ((known_spans, "small"), (others, "other/large")):
        for item in spans:
            if item["name"] == names.SPAN_REQUEST:
                item["attributes"] += attributes({names.REQUEST_MODEL: model})
    other = {**UNRECORDED, names.SERVICE_INSTANCE_ID: "ring-2", **unknown}
    return [document(*known_spans, resource=RESOURCE), document(*others, resource=other)]


def test_the_config_of_one_model_is_not_that_of_another(tmp_path: Path) -> None:
    report = reported(tmp_path, *two_servers({}))
    decode = row_of(report, names.DECODE)
    # One window of 10 iterations of four has a known cost.
    assert (decode.steps, decode.work_share) == (40, pytest.approx(0.25))
    assert (decode.intensity, decode.flops_per_s, decode.floor_ratio) == (None, None, None)
    assert report.dominance.prefill_flops.share is None
    assert report.dominance.decode_bytes.share is None
    assert report.dominance.context_window is None
    text = told(report)
    assert "other/large: 33 steps without cost: its model is not recorded" in text
    assert "of prefill FLOPs" not in text
    assert "the work of too few steps is known (25 % of" in text


def test_a_worker_of_the_same_model_and_engine_shares_the_config(tmp_path: Path) -> None:
    one, other = two_servers({})
    other = json.loads(json.dumps(other).replace("other/large", "small"))
    decode = row_of(reported(tmp_path, one, other), names.DECODE)
    assert decode.work_share == 1.0
    assert decode.intensity is not None


def test_work_known_of_most_steps_is_marked(tmp_path: Path) -> None:
    # Three of four requests' steps have a known cost.
    known = [item for trace in (1, 2, 3) for item in one_request(trace)]
    other = {**UNRECORDED, names.SERVICE_INSTANCE_ID: "ring-2", names.ENGINE_NAME: "vllm"}
    report = reported(
        tmp_path, document(*known, resource=RESOURCE), document(*one_request(4), resource=other)
    )
    decode = row_of(report, names.DECODE)
    assert (decode.steps, decode.work_share) == (40, pytest.approx(0.75))
    assert decode.intensity is not None
    assert report.dominance.prefill_flops.share is not None
    assert (
        "FLOP/B: of the steps whose work is known, 75 % of encode, 75 % of prefill, 75 % of decode"
        in told(report)
    )


def test_the_heading_is_of_the_engine_that_did_most_steps(tmp_path: Path) -> None:
    gpu = {names.HW_ID: "GPU-7", names.ENGINE_NAME: "vllm", names.ENGINE_VERSION: "0.33"}
    report = reported(tmp_path, *two_servers(gpu))
    shown = report.deployment
    assert (shown.device, shown.device_count, shown.devices_unnamed) == (None, 2, 1)
    assert (shown.engine, shown.weights_dtype) == ("vllm", None)
    heading = "2 models (large, small) on 1 device without a recorded name, 1 × NVIDIA H200 (vllm 0.33)"
    assert heading in told(report)
    assert "2 models (large, small)" in html.render(report)


def deployment(**more: Any) -> Deployment:
    return replace(gpu_run().deployment, **more)


def test_devices_without_a_name_stand_first_where_most_ran_on_them() -> None:
    cpu = [DeviceKind("a CPU", 1)]
    unnamed = deployment(model="m", models=["m"], device=None, devices=[], devices_unnamed=2)
    assert phrases.subject(unnamed) == "m on 2 devices without a recorded name"
    assert phrases.subject(replace(unnamed, devices=cpu)) == (
        "m on 2 devices without a recorded name, 1 × a CPU"
    )
    assert phrases.subject(replace(unnamed, devices=cpu, device="a CPU")) == (
        "m on 1 × a CPU, 2 devices without a recorded name"
    )
    # The device that the user named is that of all.
    assert phrases.subject(replace(unnamed, device="H200", device_count=2)) == "m on 2 × H200"


def test_the_first_models_are_named() -> None:
    named = deployment(models=["org/a", "b", "c", "d", "e"], devices=[])
    assert phrases.subject(named).startswith("5 models (a, b, c and 2 more) on ")


def test_counters_that_are_recorded_but_no_witness_are_not_called_absent(tmp_path: Path) -> None:
    resource = {key: value for key, value in RESOURCE.items() if key != names.HW_NAME}
    spans = one_request(1)
    estimates = attributes(counted(DRAM, 0.7, "estimated", 0.68, 0.72))
    for item in spans:
        if item["name"] == names.PHASE_SPANS[names.DECODE]:
            item["attributes"] += attributes({names.DECODE_STEPS: 10}) + estimates
    decode = row_of(reported(tmp_path, document(*spans, resource=resource)), names.DECODE)
    assert decode.dram_bw_ratio == pytest.approx(0.7)
    assert "no GPU counters" not in decode.explanation
    assert "its GPU counters are no witness: all or some of them are estimated" in decode.explanation
    bare = row_of(reported(tmp_path, document(*one_request(1), resource=resource)), names.DECODE)
    assert "no GPU counters were recorded" in bare.explanation


def test_a_verdict_by_counters_is_explained_by_them_where_the_config_is_not_known(tmp_path: Path) -> None:
    window = {
        names.STEP_COUNT: 10, names.STEP_DECODE_REQUESTS: 10, **counted(DRAM, 0.7, "measured"),
        **counted(TENSOR, 0.1, "measured"),
    }  # fmt: skip
    spans = [*decoding(1, 100, {})]
    spans += [span(names.SPAN_WINDOW, at * S, (at + 1) * S, window, trace=100 + at) for at in range(1, 11)]
    decode = row_of(reported(tmp_path, document(*spans, resource=UNRECORDED)), names.DECODE)
    assert decode.bound == "memory_bound"
    assert decode.explanation.startswith("decode is memory-bound: by counters alone, 70 % of DRAM bandwidth")


def test_times_and_energy_are_told_by_model(tmp_path: Path) -> None:
    def asked(trace: int, model: str, ttft_ms: int, energy_j: float) -> list[dict[str, Any]]:
        given = {
            names.OUTPUT_TOKENS: 11, names.INPUT_TOKENS: 10, names.TTFT_NS: ttft_ms * MS, names.REQUEST_MODEL: model,
        }  # fmt: skip
        end = (ttft_ms + 100) * MS
        spans = request(0, end, given, trace=trace, decode=(ttft_ms * MS, end))
        key = names.GPU_ENERGY_MJ
        spans[1]["attributes"] += attributes({
            names.DECODE_STEPS: 10, key: energy_j * 1e3, f"{key}.low": energy_j * 500, f"{key}.high": energy_j * 2e3,
            f"{key}.quality": "attributed",
        })  # fmt: skip
        return spans

    spans = [*asked(1, "o/a", 10, 4.0), *asked(2, "o/a", 30, 6.0), *asked(3, "b", 500, 80.0)]
    report = reported(tmp_path, document(*spans))
    first, second = report.by_model
    # The middle of 10 and 30 ms; 100 ms over ten tokens; 4 + 6 J.
    assert (first.model, first.requests, first.ttft_ms_p50) == ("o/a", 2, pytest.approx(20))
    assert (first.tpot_ms_p50, first.energy_requests, first.energy_j) == (
        pytest.approx(10), 2, pytest.approx(10),
    )  # fmt: skip
    assert (first.energy_low_j, first.energy_high_j) == (pytest.approx(5), pytest.approx(20))
    assert (second.ttft_ms_p95, second.energy_j) == (pytest.approx(500), pytest.approx(80))
    text = told(report)
    assert "By model" in text
    assert "o/a 2 20.0 ms 29.0 ms 10.0 ms 10.0 ms 5 J" in text
    for shown in (html.render(report), markdown.render(report)):
        assert "By model" in shown
        assert "o/a" in shown
    assert max(len(line) for line in terminal.render(report).splitlines()) <= 80
    assert reported(tmp_path, document(*spans[:4])).by_model == []


def test_counters_of_part_of_the_time_are_said_once() -> None:
    said = "energy is known for 83 % of the time of encode"
    report = replace(
        gpu_run(),
        counters=[CounterCoverage("encode", "energy", 0.83), CounterCoverage("decode", "energy", 0.9)],
        trust=[
            TrustRow("counters", "weak", said, 0.83, "energy"),
            TrustRow("counters", "weak", "energies do not add up", 0.5),
        ],
    )
    text = trust_phrases.trust(report)
    assert said not in text
    assert "counters weak: energies do not add up" in text
    assert "counters weak: energy known for 83 % of encode time, energy known for 90 % of decode time" in text
    assert text.count("83 %") == 1


def test_report_is_another_name_of_out(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "t.jsonl", document(*one_request(1), resource=RESOURCE))
    code, _, _ = run("analyze", path, "--report", tmp_path / "there", "--format", "terminal,html")
    assert code == 0
    assert (tmp_path / "there" / "index.html").exists()
