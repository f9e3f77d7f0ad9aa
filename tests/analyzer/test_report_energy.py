"""Energy in the report: each step's once, through the shares of its requests; checked by arithmetic on small runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from otlp_builder import BASE_NS, attributes, document, line, request, span, write

import vtprof_schemas
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import html, json_text, markdown, terminal
from vtprof_analyzer.report.energy_model import CounterCoverage, Energy
from vtprof_analyzer.report.energy_phrases import coverage, interval, label, lines, title, trust
from vtprof_analyzer.report.model import Report
from vtprof_schemas import names

S = 1_000_000_000
SCHEMA = json.loads((Path(vtprof_schemas.__file__).parent / "analyze_report.schema.json").read_text("utf-8"))
ENERGY = names.GPU_ENERGY_MJ


def joules(value: float, low: float, high: float, quality: str = names.QUALITY_ATTRIBUTED) -> dict[str, Any]:
    """Return the attributes of an energy, given in joules."""
    return {
        ENERGY: value * 1e3, f"{ENERGY}.low": low * 1e3, f"{ENERGY}.high": high * 1e3, f"{ENERGY}.quality": quality,
    }  # fmt: skip


def a_request(
    trace: int, output: int, **phases: tuple[float, float, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a request of 100 s; ``phases`` by name: begin [s], end [s], attributes. A name twice: ``decode_2``."""
    times = {key: (int(begin * S), int(end * S)) for key, (begin, end, _) in phases.items()}
    attrs = {names.OUTPUT_TOKENS: output, names.INPUT_TOKENS: 10, names.TTFT_NS: 20 * S}
    spans = request(0, 100 * S, attrs, trace=trace, **times)
    for made, (_, _, more) in zip(spans[1:], phases.values(), strict=True):
        made["attributes"] += attributes(more)
    return spans


def prefill(begin: float, end: float, more: Mapping[str, Any]) -> tuple[float, float, dict[str, Any]]:
    return begin, end, {names.PREFILL_CHUNKS: 1, names.PREFILL_TOKENS: 10, **more}


def decode(begin: float, end: float, more: Mapping[str, Any]) -> tuple[float, float, dict[str, Any]]:
    return begin, end, {names.DECODE_STEPS: 5, **more}


def taken(agent: str, *points: tuple[float, str, str, float], start: float | None = None) -> dict[str, Any]:
    """Return the running totals of an agent: second, GPU, phase, joules; ``start``: since when, if that is told."""
    since = {} if start is None else {"startTimeUnixNano": str(BASE_NS + int(start * S))}
    data = [
        {
            **since, "timeUnixNano": str(BASE_NS + int(at * S)), "asDouble": value * 1e3,
            "attributes": attributes({names.HW_ID: gpu, names.PHASE: phase}),
        }
        for at, gpu, phase, value in points
    ]  # fmt: skip
    metric = {
        "name": names.ATTRIBUTED[ENERGY],
        "sum": {"dataPoints": data, "aggregationTemporality": 2, "isMonotonic": True},
    }
    resource = {
        "attributes": attributes({names.SERVICE_NAME: "vtprof-agent", names.SERVICE_INSTANCE_ID: agent})
    }
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {}, "metrics": [metric]}]}]}


def reported(folder: Path, *spans: dict[str, Any], metrics: tuple[dict[str, Any], ...] = ()) -> Report:
    report = analyze(Options([write(folder / "t.jsonl", document(*spans), *metrics)]))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json_text.render(report)))
    return report


def energy_of(report: Report) -> Energy:
    assert report.energy is not None
    return report.energy


def two_requests() -> list[dict[str, Any]]:
    """One of 6 + 4 J and 5 tokens, one of 2 + (7 + 1) J and 3 tokens, and the steps and windows that hold it again."""
    one = a_request(
        1, 5,
        prefill=prefill(10, 20, joules(6, 5, 7, names.QUALITY_MEASURED)),
        decode=decode(20, 100, joules(4, 3, 6)),
    )  # fmt: skip
    two = a_request(
        2, 3,
        prefill=prefill(10, 20, joules(2, 2, 2)),
        decode=decode(20, 60, joules(7, 6, 8)),
        decode_2=decode(70, 100, joules(1, 0.5, 1.5, names.QUALITY_ESTIMATED)),
    )  # fmt: skip
    again = [
        span(
            names.SPAN_STEP,
            0,
            S,
            {names.STEP_COUNT: 1, names.STEP_PREFILL_TOKENS: 20, **joules(8, 7, 9)},
            trace=91,
        ),
        span(
            names.SPAN_WINDOW,
            0,
            S,
            {names.STEP_COUNT: 9, names.STEP_DECODE_REQUESTS: 9, **joules(12, 9, 15)},
            trace=92,
        ),
    ]
    return [*one, *two, *again]


def test_each_joule_counts_once_though_steps_and_windows_hold_it_too(tmp_path: Path) -> None:
    energy = energy_of(reported(tmp_path, *two_requests()))
    assert energy.energy_j == pytest.approx(6 + 4 + 2 + 7 + 1)
    assert (energy.low_j, energy.high_j) == (
        pytest.approx(5 + 3 + 2 + 6 + 0.5),
        pytest.approx(7 + 6 + 2 + 8 + 1.5),
    )
    by_phase = {row.phase: row for row in energy.phases}
    assert list(by_phase) == ["prefill", "decode"]
    assert (by_phase["prefill"].energy_j, by_phase["decode"].energy_j) == (
        pytest.approx(8),
        pytest.approx(12),
    )
    assert [row.share for row in energy.phases] == [pytest.approx(0.4), pytest.approx(0.6)]
    assert by_phase["decode"].per_request_j == pytest.approx(12 / 2)
    assert (by_phase["decode"].low_j, by_phase["decode"].high_j) == (pytest.approx(9.5), pytest.approx(15.5))


def test_a_request_and_a_token_cost_their_sums_over_their_numbers(tmp_path: Path) -> None:
    energy = energy_of(reported(tmp_path, *two_requests()))
    assert (energy.requests, energy.requests_in_part) == (2, 0)
    assert energy.per_request_j == pytest.approx((10 + 10) / 2)
    assert energy.per_request_low_j == pytest.approx((8 + 8.5) / 2)
    assert energy.per_request_high_j == pytest.approx((13 + 11.5) / 2)
    assert energy.per_output_token_j == pytest.approx(20 / 8)
    assert energy.per_output_token_low_j == pytest.approx(16.5 / 8)
    assert energy.decode_per_token_j == pytest.approx(12 / (4 + 2)), "tokens after the first of each"


def test_the_label_is_the_weakest_and_says_how_much_it_is_of(tmp_path: Path) -> None:
    energy = energy_of(reported(tmp_path, *two_requests()))
    assert (energy.quality, energy.estimated_share) == ("estimated", pytest.approx(1 / 20))
    by_phase = {row.phase: (row.quality, row.estimated_share) for row in energy.phases}
    assert by_phase == {"prefill": ("attributed", 0.0), "decode": ("estimated", pytest.approx(1 / 12))}
    assert label("estimated", 1 / 12) == "8 % estimated"
    assert title(energy) == "Energy of 2 requests (5 % of it estimated)"
    assert (label("estimated", 1.0), label("measured", 0.0), label(None, None)) == (
        "estimated",
        "measured",
        "–",
    )


def test_percentiles_are_of_whole_requests(tmp_path: Path) -> None:
    spans = [
        part
        for number, amount in enumerate((1, 2, 3, 10), start=1)
        for part in a_request(number, 2, decode=decode(20, 100, joules(amount, amount, amount)))
    ]
    energy = energy_of(reported(tmp_path, *spans))
    assert energy.per_request_p50_j == pytest.approx(2.5)
    assert energy.per_request_p95_j == pytest.approx(3 + 0.85 * 7), "linear: rank 0.95 x 3 = 2.85"


def test_energy_known_for_a_part_of_the_work_is_said_and_kept_out_of_what_is_per_request(
    tmp_path: Path,
) -> None:
    spans = [
        *a_request(1, 11, prefill=prefill(0, 20, joules(6, 5, 7)), decode=decode(20, 85, joules(20, 18, 22))),
        *a_request(2, 11, prefill=prefill(0, 20, joules(4, 3, 5)), decode=decode(20, 38, joules(5, 4, 6)),
                   decode_2=decode(50, 67, {})),
        *a_request(3, 11, prefill=prefill(0, 20, {})),
    ]  # fmt: skip
    report = reported(tmp_path, *spans)
    energy = energy_of(report)
    assert (energy.requests, energy.requests_in_part) == (1, 1)
    assert energy.energy_j == pytest.approx(6 + 20), "of the one that is known in full"
    assert energy.in_part_j == pytest.approx(4 + 5)
    assert energy.per_request_j == pytest.approx(26), "of the one that is known in full"
    assert energy.per_output_token_j == pytest.approx(26 / 11)
    known = {(row.phase, row.counter): row.known_share for row in report.counters}
    assert known == {
        ("prefill", "energy"): pytest.approx(40 / 60),
        ("decode", "energy"): pytest.approx(83 / 100),
    }
    for text in (
        terminal.render(report),
        markdown.render(report),
        html.render(report).replace("\u00a0", " "),
    ):
        assert "energy known for 83 % of decode time" in " ".join(text.split()).replace("\\", "")


def test_a_fragment_without_counts_and_an_encoder_that_only_met_its_cache_are_no_gaps(tmp_path: Path) -> None:
    hits = {names.ENCODE_ITEMS: 0, names.ENCODE_CACHE_HITS: 3}
    spans = a_request(
        1, 11, encode=(0, 1, hits), prefill=prefill(1, 20, joules(6, 5, 7)), decode=decode(20, 40, joules(4, 3, 5)),
        decode_2=(60, 100, {}),
    )  # fmt: skip
    report = reported(tmp_path, *spans)
    assert energy_of(report).per_request_j == pytest.approx(10)
    assert {row.phase: row.known_share for row in report.counters} == {"prefill": 1.0, "decode": 1.0}
    assert trust(report.counters) == "GPU counters for all of prefill and decode"


def test_counters_known_for_a_like_part_are_named_together() -> None:
    rows = [
        CounterCoverage("encode", "energy", 0.5), CounterCoverage("prefill", "energy", 0.5),
        CounterCoverage("decode", "energy", 1.0), CounterCoverage("decode", "tensor", 0.25),
    ]  # fmt: skip
    assert (
        coverage(rows)
        == "energy known for 50 % of encode and prefill time, tensor activity known for 25 % of decode time"
    )


def test_other_counters_are_accounted_for_too(tmp_path: Path) -> None:
    ratios = {names.GPU_DRAM_BANDWIDTH_RATIO: 0.5, names.GPU_TENSOR_ACTIVE_RATIO: 0.1}
    spans = [
        *a_request(1, 11, prefill=prefill(0, 20, ratios), decode=decode(20, 80, ratios)),
        *a_request(2, 11, decode=decode(20, 60, {names.GPU_TENSOR_ACTIVE_RATIO: 0.1})),
    ]
    report = reported(tmp_path, *spans)
    assert report.energy is None
    assert coverage(report.counters) == "DRAM bandwidth known for 60 % of decode time"
    assert "DRAM bandwidth known for 60 % of decode time" in " ".join(terminal.render(report).split())


def test_without_energy_nothing_is_said_of_it(tmp_path: Path) -> None:
    report = reported(tmp_path, *a_request(1, 11, prefill=prefill(0, 20, {}), decode=decode(20, 100, {})))
    assert (report.energy, report.counters) == (None, [])
    assert "Energy" not in terminal.render(report)
    assert "Energy" not in markdown.render(report)
    assert 'id="energy"' not in html.render(report)
    assert json.loads(json_text.render(report))["energy"] is None


def test_what_no_phase_explains_is_the_rest_of_what_the_gpus_took(tmp_path: Path) -> None:
    totals = taken(
        "agent-1",
        (0, "GPU-a", "decode", 100), (0, "GPU-a", "unattributed", 50),
        (10, "GPU-a", "decode", 130), (10, "GPU-a", "encode", 20), (10, "GPU-a", "unattributed", 100),
        (0, "GPU-b", "unattributed", 0), (10, "GPU-b", "unattributed", 60),
    )  # fmt: skip
    report = reported(tmp_path, *two_requests(), metrics=(totals, totals))  # sent twice, as after an outage
    energy = energy_of(report)
    assert energy.gpus == 2
    assert energy.gpu_energy_j == pytest.approx((30 + 20 + 50) + 60), (
        "what grew; a phase met later began at zero"
    )
    assert energy.unattributed_share == pytest.approx((50 + 60) / 160)
    assert energy.gpu_observed_s == pytest.approx(10)
    said = lines(energy, report.counters)
    assert any(
        text.startswith("2 GPUs took 160 J in 10.0 s; 69 % of that belongs to no phase") for text in said
    )


def test_a_gpu_that_two_agents_watch_takes_its_energy_once(tmp_path: Path) -> None:
    one = taken("agent-1", (0, "GPU-a", "unattributed", 0), (10, "GPU-a", "unattributed", 60),
                (0, "GPU-a", "decode", 0), (10, "GPU-a", "decode", 40))  # fmt: skip
    two = taken("agent-2", (5, "GPU-a", "unattributed", 0), (15, "GPU-a", "unattributed", 70),
                (5, "GPU-a", "decode", 0), (15, "GPU-a", "decode", 30))  # fmt: skip
    energy = energy_of(reported(tmp_path, *two_requests(), metrics=(one, two)))
    assert energy.gpu_energy_j == pytest.approx(100 + 100 / 2), "of the second watch the half that is new"
    assert energy.gpu_observed_s == pytest.approx(15)
    assert energy.unattributed_share == pytest.approx(1 - (40 + 30) / 150)


def test_an_agent_that_was_started_again_counts_from_zero_again(tmp_path: Path) -> None:
    first = taken("agent-1", (0, "GPU-a", "unattributed", 900), (10, "GPU-a", "unattributed", 1000))
    second = taken("agent-2", (20, "GPU-a", "unattributed", 0), (30, "GPU-a", "unattributed", 25))
    energy = energy_of(reported(tmp_path, *a_request(1, 2), metrics=(first, second)))
    assert (energy.gpu_energy_j, energy.unattributed_share) == (pytest.approx(125), 1.0)
    assert energy.energy_j is None
    assert energy.phases == []
    assert energy.requests == 0


@pytest.mark.parametrize(
    ("start", "joules_taken", "watched_s"), [(-1, 30 + 90, 21), (-61, 20 + 50, 10), (None, 20 + 50, 10)]
)
def test_totals_count_from_the_agents_start_unless_that_was_long_before_the_requests(
    tmp_path: Path, start: float | None, joules_taken: float, watched_s: float
) -> None:
    """It tells its totals every ten seconds: a short run would lose much of what it saw before the first time."""
    totals = taken("agent-1", (10, "GPU-a", "decode", 10), (20, "GPU-a", "decode", 30),
                   (10, "GPU-a", "unattributed", 40), (20, "GPU-a", "unattributed", 90), start=start)  # fmt: skip
    for damaged in ((), ("{broken",)):  # read fast, and with care
        path = write(tmp_path / "t.jsonl", document(*two_requests()), *damaged, line(totals))
        energy = energy_of(analyze(Options([path])))
        assert energy.gpu_energy_j == pytest.approx(joules_taken)
        assert energy.gpu_observed_s == pytest.approx(watched_s)


def test_one_reading_tells_nothing(tmp_path: Path) -> None:
    report = reported(tmp_path, *a_request(1, 2), metrics=(taken("a", (0, "GPU-a", "decode", 5)),))
    assert report.energy is None


def test_a_damaged_line_beside_costs_no_metric_its_phase(tmp_path: Path) -> None:
    totals = taken("agent-1", (0, "GPU-a", "decode", 0), (10, "GPU-a", "decode", 30), (0, "GPU-a", "unattributed", 0),
                   (10, "GPU-a", "unattributed", 10))  # fmt: skip
    path = write(tmp_path / "t.jsonl", document(*two_requests()), "{broken", line(totals))
    energy = energy_of(analyze(Options([path])))
    assert (energy.gpu_energy_j, energy.unattributed_share) == (pytest.approx(40), pytest.approx(0.25))


def test_an_interval_names_its_unit_once_where_both_ends_have_one() -> None:
    assert interval(83_100, 92_900) == "83,100 to 92,900 J"
    assert interval(3.5e6, 3.6e6) == "3,500,000 J to 1 kWh"
    assert interval(None, 3.0) == ""
