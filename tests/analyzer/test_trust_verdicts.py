"""What faults of a run do to its areas and to verdicts: told in words with counts, weak, or refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_builder import document, metric_document, request, span, write
from stage_fixture import staged
from store_fixture import fetch, loaded
from test_report_energy import a_request, decode, joules, reported, taken

from vtprof_analyzer import pipeline, step_cost, trust
from vtprof_analyzer import verdict as v
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import trust_phrases
from vtprof_analyzer.report.build_phases import felt
from vtprof_analyzer.trust import Trust, concerning, lowered
from vtprof_analyzer.verdict import Verdict
from vtprof_schemas import names

SURE = Verdict(v.MEMORY_BOUND, v.HIGH, "decode is memory-bound", intensity=1.9)
Row = tuple[Any, ...]
S = 1_000_000_000


def areas(folder: Path, spans: list[dict[str, Any]], area: str, **more: Any) -> list[Row]:
    with staged(folder, spans, **more) as db:
        return fetch(
            db, f"SELECT state, reason, round(factor, 2) FROM trust WHERE area = '{area}' ORDER BY factor"
        )


def test_a_clean_run_has_one_row_for_each_area_and_nothing_amiss(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10}
    with staged(tmp_path, request(0, 10, attrs, queue=(0, 2), prefill=(2, 5), decode=(5, 10))) as db:
        rows = fetch(db, "SELECT area, state, factor, reason FROM trust")
    expected = ["tokens", "phases", "steps", "counters", "kv", "clock", "sampling"]
    assert rows == [(area, "ok", 1.0, "nothing found amiss") for area in expected]
    with staged(tmp_path, []) as db:
        assert fetch(db, "SELECT DISTINCT state FROM trust") == [("ok",)]


@pytest.mark.parametrize(
    ("stretches", "state", "twice"),
    [
        ([(0, 96), (92, 96)], "ok", 4),
        ([(0, 90), (80, 90)], "weak", 10),
        ([(0, 40), (0, 40), (20, 40)], "refused", 60),
    ],
)
def test_how_much_is_spoilt_decides_between_ok_weak_and_refused(
    tmp_path: Path, stretches: list[tuple[int, int]], state: str, twice: int
) -> None:
    phases: dict[str, Any] = {f"prefill_{number}": stretch for number, stretch in enumerate(stretches)}
    (row,) = areas(tmp_path, request(0, 300, {names.INPUT_TOKENS: 1}, **phases), "phases")
    # All together are 100 ns long.
    assert (row[0], row[2]) == (state, 1 - twice / 100)
    assert row[1].startswith("stretches that overlap an earlier one of their request and phase: ")


def test_requests_without_tokens_or_phases_are_told_with_their_number(tmp_path: Path) -> None:
    spans = request(0, 10, {names.INPUT_TOKENS: 10}, trace=1, queue=(0, 5))
    spans += [s for trace in (2, 3, 4) for s in request(0, 10, trace=trace)]
    assert areas(tmp_path, spans, "tokens") == [
        ("refused", "requests that did not record their tokens: 3 of 4", 0.25)
    ]
    assert areas(tmp_path, spans, "phases") == [("refused", "requests without phases: 3 of 4", 0.25)]


def told(name: str, value: float) -> dict[str, Any]:
    return metric_document(name, [(0, value)], {names.SERVICE_INSTANCE_ID: "agent"})


def measured(folder: Path, *metrics: dict[str, Any], spans: list[dict[str, Any]], area: str) -> list[Row]:
    with loaded(write(folder / "t.jsonl", document(*spans), *metrics)) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        return fetch(
            db, f"SELECT state, reason, round(factor, 2) FROM trust WHERE area = '{area}' ORDER BY factor"
        )


ONE = request(0, 10, {names.INPUT_TOKENS: 10}, queue=(0, 10))


def test_lost_records_weaken_phases_and_steps_by_their_part(tmp_path: Path) -> None:
    lost = [told(names.AGENT_RECORDS_READ, 900), told(names.AGENT_RECORDS_LOST, 100)]
    reason = "records of the probe that were lost before the agent read them: 100 of 1,000"
    assert measured(tmp_path, *lost, spans=ONE, area="phases") == [("weak", reason, 0.9)]
    assert measured(tmp_path, *lost, spans=ONE, area="steps") == [("weak", reason, 0.9)]
    few = [told(names.AGENT_RECORDS_READ, 9999), told(names.AGENT_RECORDS_LOST, 1)]
    assert measured(tmp_path, *few, spans=ONE, area="steps")[0][0] == "ok", "told, and no reason to doubt"


def test_hook_errors_and_dropped_spans_are_told(tmp_path: Path) -> None:
    metrics = [told(names.AGENT_HOOK_ERRORS, 1), told(names.AGENT_SPANS_DROPPED, 2)]
    (phases,) = measured(tmp_path, *metrics, spans=ONE, area="phases")
    assert phases == ("weak", "faults of the probe's hooks: 1; a request may be missing for each", 0.5)
    (steps,) = measured(tmp_path, *metrics, spans=ONE, area="steps")
    assert steps == ("weak", "spans that a destination did not take: 2", 0.5)


def test_spans_left_out_weaken_phases_by_their_part(tmp_path: Path) -> None:
    # Of ten spans one has no id.
    spans = [
        s
        for trace in range(1, 6)
        for s in request(0, 10, {names.INPUT_TOKENS: 1}, trace=trace, queue=(0, 10))
    ]
    spans[9]["spanId"] = ""
    assert areas(tmp_path, spans, "phases")[1:] == [
        ("weak", "spans left out, without a valid id, name or time, or of a newer version: 1 of 10", 0.9)
    ]


@pytest.mark.parametrize(("ratio", "state"), [(0.1, "ok"), (1.0, "refused")])
def test_weights_must_stand_for_what_the_agents_left_out(tmp_path: Path, ratio: float, state: str) -> None:
    kept = [
        s for trace in range(1, 11)
        for s in request(0, 10, {names.INPUT_TOKENS: 1, names.SAMPLING_RATIO: ratio}, trace=trace, queue=(0, 10))
    ]  # fmt: skip
    rows = measured(tmp_path, told(names.AGENT_REQUESTS_SAMPLED_OUT, 90), spans=kept, area="sampling")
    assert rows[0][0] == state
    words = (
        "which stand for 100"
        if state == "ok"
        else "90, beside 10 kept ones that stand for 10: the weights do not add up"
    )
    assert words in rows[0][1]


def test_missing_iterations_weaken_steps(tmp_path: Path) -> None:
    attrs = {names.STEP_COUNT: 1, names.STEP_DECODE_REQUESTS: 1}
    steps = [
        span(names.SPAN_WINDOW, index, index + 1, {**attrs, names.STEP_INDEX: index}, trace=index + 2)
        for index in (0, 1, 2, 3, 4, 5, 6, 9)
    ]
    assert areas(tmp_path, steps, "steps") == [
        ("weak", "iterations missing between the first and the last of a process: 2", 0.8)
    ]


def sampled(times: range) -> dict[str, Any]:
    """Readings of one GPU's DRAM activity at these seconds, on its points its id as an agent gives it."""
    found = metric_document(names.GPU_DRAM_BANDWIDTH_RATIO, [(at * S, 0.7) for at in times])
    (metric,) = found["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    for point in metric["gauge"]["dataPoints"]:
        point["attributes"] = [{"key": names.HW_ID, "value": {"stringValue": "GPU-a"}}]
    return found


@pytest.mark.parametrize(
    ("times", "on_the_phase", "state"),
    [
        (range(101), False, "ok"),  # one a second: the means of a window of 100 s
        (range(200, 301), False, "weak"),  # of another time
        (range(200, 301), True, "ok"),  # a phase has its own
        (range(0), False, "ok"),  # nobody watched
    ],
)
def test_samples_of_which_nothing_comes_to_any_step_or_phase_are_told(
    tmp_path: Path, times: range, on_the_phase: bool, state: str
) -> None:
    given = {names.GPU_DRAM_BANDWIDTH_RATIO: 0.7, names.GPU_DRAM_BANDWIDTH_RATIO + ".quality": "attributed"}
    spans = request(0, 100 * S, {names.INPUT_TOKENS: 10}, decode=(0, 100 * S))
    spans[1] = span(
        spans[1]["name"], 0, 100 * S, {names.PHASE: names.DECODE, **(given if on_the_phase else {})},
        span_id=2, parent=1,
    )  # fmt: skip
    steps = {
        names.STEP_INDEX: 0,
        names.STEP_COUNT: 9,
        names.STEP_DECODE_REQUESTS: 9,
        names.STEP_PREFILL_TOKENS: 0,
    }
    spans.append(span(names.SPAN_WINDOW, 0, 100 * S, steps, trace=9))
    files = [document(*spans, resource={names.SERVICE_INSTANCE_ID: "i", names.HW_ID: "GPU-a"})]
    files += [sampled(times)] if times else []
    with loaded(write(tmp_path / "t.jsonl", *files)) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        rows = fetch(db, "SELECT state, reason FROM trust WHERE area = 'counters'")
    assert [row[0] for row in rows] == [state]
    assert (state == "weak") is (
        rows[0][1]
        == "GPU counters: for no phase, nor for half of the time of its steps, though samples were read (101): too coarse,"
        " or of another time or device"
    )


def test_a_verdict_without_counters_is_not_less_sure_for_want_of_them() -> None:
    """Of one witness it is medium already; with counters their faults lower it."""
    doubts = [Trust("counters", trust.WEAK, "none", 0.0), Trust("steps", trust.WEAK, "gaps", 0.9)]
    assert felt(SURE, doubts) == doubts[1:]
    assert felt(replace(SURE, dram_bw_ratio=0.7), doubts) == doubts
    assert felt(replace(SURE, tensor_ratio=0.0), doubts) == doubts


def test_energies_that_do_not_add_up_are_told_after_an_agent_was_killed(tmp_path: Path) -> None:
    spans = a_request(1, 5, decode=decode(0, 100, joules(10, 9, 101)))
    report = reported(
        tmp_path, *spans, metrics=(taken("agent-1", (0, "GPU-a", "decode", 0), (95, "GPU-a", "decode", 4)),)
    )
    (row,) = [row for row in report.trust if row.area == "counters" and row.state != "ok"]
    assert row.state == "weak"
    assert row.factor == pytest.approx(4 / 10)
    assert row.reason.startswith("energies do not add up: the requests took 10.0 J, their GPUs 4.0 J in all")
    assert row.reason.endswith("the GPUs' total lacks what was not exported")
    assert "counters weak: energies do not add up" in trust_phrases.trust(report)


def test_energies_that_add_up_are_no_doubt(tmp_path: Path) -> None:
    spans = a_request(1, 5, decode=decode(0, 100, joules(10, 9, 11)))
    report = reported(
        tmp_path, *spans, metrics=(taken("agent-1", (0, "GPU-a", "decode", 0), (101, "GPU-a", "decode", 10)),)
    )
    assert [row.reason for row in report.trust if "add up" in row.reason] == []


def test_without_doubt_a_verdict_stays_as_it_is() -> None:
    assert lowered(SURE, []) == SURE
    assert lowered(SURE, [Trust("steps", trust.OK, "iterations missing: 1", 0.99)]) == SURE


@pytest.mark.parametrize(
    ("state", "factor", "confidence"),
    [(trust.WEAK, 0.9, v.MEDIUM), (trust.WEAK, 0.75, v.MEDIUM), (trust.WEAK, 0.7, v.LOW)],
)
def test_a_weak_area_takes_confidence_and_says_why(state: str, factor: float, confidence: str) -> None:
    found = lowered(SURE, [Trust("steps", state, "iterations missing: 9", factor)])
    assert (found.bound, found.confidence) == (SURE.bound, confidence)
    assert found.explanation == "decode is memory-bound; less sure: iterations missing: 9"


def test_a_refused_area_takes_the_verdict_but_a_clock_only_the_confidence() -> None:
    refused = lowered(SURE, [Trust("steps", trust.REFUSED, "iterations missing: 90 of 100", 0.1)])
    assert (refused.bound, refused.confidence) == (v.INSUFFICIENT_DATA, v.LOW)
    assert refused.explanation == "not judged: iterations missing: 90 of 100"
    assert refused.intensity == SURE.intensity, "numbers stay"
    clock = lowered(SURE, [Trust("clock", trust.REFUSED, "clocks contradict", 0.0)])
    assert (clock.bound, clock.confidence) == (SURE.bound, v.LOW)


def test_the_worst_two_reasons_are_told() -> None:
    rows = [Trust("steps", trust.WEAK, f"reason {factor}", factor) for factor in (0.9, 0.8, 0.85)]
    assert lowered(SURE, rows).explanation.endswith("less sure: reason 0.8; reason 0.85")


def test_what_is_not_judged_anyway_keeps_its_own_reason() -> None:
    unknown = v.not_judged("decode", "no model")
    assert lowered(unknown, [Trust("steps", trust.REFUSED, "x", 0.0)]) == unknown


def test_a_verdict_stands_on_the_areas_of_its_phase_alone() -> None:
    rows = [
        Trust(area, trust.WEAK, area, 0.5)
        for area in ("tokens", "phases", "steps", "kv", "clock", "sampling")
    ]
    assert [row.area for row in concerning(names.DECODE, rows)] == ["tokens", "steps", "kv"]
    assert [row.area for row in concerning(names.QUEUE, rows)] == ["phases", "kv", "clock"]
    assert concerning("unexplained", rows) == []


ROWS = st.lists(
    st.builds(
        Trust,
        st.sampled_from(["tokens", "phases", "steps", "counters", "kv", "clock", "sampling"]),
        st.sampled_from([trust.OK, trust.WEAK, trust.REFUSED]),
        st.text(max_size=5),
        st.floats(0, 1),
    ),
    max_size=5,
)


@given(ROWS, st.sampled_from([v.LOW, v.MEDIUM, v.HIGH]))
def test_trust_never_raises_confidence_and_order_does_not_matter(rows: list[Trust], confidence: str) -> None:
    levels = [v.LOW, v.MEDIUM, v.HIGH]
    given_verdict = Verdict(v.HYBRID, confidence, "x")
    found = lowered(given_verdict, rows)
    assert levels.index(found.confidence) <= levels.index(confidence)
    assert lowered(given_verdict, rows[::-1]) == found


def test_the_report_tells_the_doubts_in_words(tmp_path: Path) -> None:
    spans = request(0, 100, {names.INPUT_TOKENS: 1}, decode=(0, 60), decode_2=(40, 100), prefill=(0, 1))
    report = analyze(Options([write(tmp_path / "t.jsonl", document(*spans))]))
    assert (
        "phases weak: stretches that overlap an earlier one of their request and phase: 1"
        in trust_phrases.trust(report)
    )


def test_a_verdict_of_the_report_is_less_sure_when_records_were_lost(tmp_path: Path) -> None:
    spans = request(0, 100, {names.TTFT_NS: 90, names.INPUT_TOKENS: 1}, preprocess=(0, 80), prefill=(80, 90))
    spans[1]["attributes"].append({"key": names.PREPROCESS_CPU_NS, "value": {"intValue": "79"}})

    def judged(*metrics: dict[str, Any]) -> tuple[str, str, str]:
        report = analyze(Options([write(tmp_path / "t.jsonl", document(*spans), *metrics)]))
        (row,) = [row for row in report.phases if row.phase == names.PREPROCESS]
        return row.bound, row.confidence, row.explanation

    sure = judged()
    assert (sure[0], sure[1] in (v.MEDIUM, v.HIGH)) == (v.HOST_BOUND, True)
    lost = judged(told(names.AGENT_RECORDS_READ, 60), told(names.AGENT_RECORDS_LOST, 40))
    assert lost[:2] == (v.HOST_BOUND, v.LOW)
    assert lost[2].endswith(
        "less sure: records of the probe that were lost before the agent read them: 40 of 100"
    )
    most = judged(told(names.AGENT_RECORDS_READ, 40), told(names.AGENT_RECORDS_LOST, 60))
    assert most[:2] == (v.INSUFFICIENT_DATA, v.LOW)
