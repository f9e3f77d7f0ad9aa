"""Faults in the spans and clocks that differ: counted by kind, and put right where that can be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import BASE_NS, document, metric_document, request, span, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import trust_phrases
from vtprof_schemas import SCHEMA_VERSION, names
from vtprof_schemas.errors import DataError

MS = 1_000_000
Row = tuple[Any, ...]


def faults(folder: Path, spans: Sequence[dict[str, Any]], **more: Any) -> dict[str, tuple[int, float | None]]:
    """Return the faults of a few spans: kind, count and share of the time, to two figures."""
    with staged(folder, spans, **more) as db:
        found = fetch(db, "SELECT kind, count, round(time_share, 2) FROM span_faults")
    return {kind: (count, share) for kind, count, share in found}


def two_hosts(folder: Path, *requests: list[dict[str, Any]], ask: Sequence[str]) -> list[list[Row]]:
    """Run queries where the first machine took the requests in and the second one ran their phases."""
    path = write(
        folder / "t.jsonl",
        document(
            *[spans[0] for spans in requests],
            resource={names.HOST_NAME: "front", names.SERVICE_INSTANCE_ID: "a"},
        ),
        document(
            *[phase for spans in requests for phase in spans[1:]],
            resource={names.HOST_NAME: "gpu", names.SERVICE_INSTANCE_ID: "b"},
        ),
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        return [fetch(db, query) for query in ask]


CLOCKS = "SELECT host_name, against, offset_ns, low_ns, high_ns, pairs FROM clock_offsets"


def test_a_clean_request_has_no_fault(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 6, names.OUTPUT_TOKENS: 2}
    assert faults(tmp_path, request(0, 10, attrs, queue=(0, 2), prefill=(2, 5), decode=(5, 10))) == {}
    assert faults(tmp_path, []) == {}


def test_a_clock_is_put_right_where_phases_would_lie_outside_their_request(tmp_path: Path) -> None:
    # Of 100 ms the phases fill 10 to 90; the clock is 20 ms behind: at -10 to 70.
    early = request(
        0, 100 * MS, {names.TTFT_NS: 50 * MS}, prefill=(-10 * MS, 30 * MS), decode=(30 * MS, 70 * MS)
    )
    moved = f"SELECT phase, start_ns - {BASE_NS}, end_ns - {BASE_NS}, outside_ns FROM phase_intervals ORDER BY ALL"
    budget = "SELECT prefill_ns, unexplained_ns FROM request_budget"
    clocks, phases, parts, found = two_hosts(tmp_path, early, ask=[CLOCKS, moved, budget, "FROM span_faults"])
    # begin - begin: -10 and 30, end - end: -70 and -30, in ms.
    assert clocks == [("gpu", "front", -20 * MS, -30 * MS, -10 * MS, 2)]
    assert phases == [("decode", 50 * MS, 90 * MS, 0), ("prefill", 10 * MS, 50 * MS, 0)]
    # The budget sees all of prefill: 40 of the 50 ms; uncorrected it would be 30.
    assert parts == [(40 * MS, 10 * MS)]
    assert found == []
    report = analyze(Options([tmp_path / "t.jsonl"]))
    assert report.integrity.clock_offset_ms == pytest.approx(20)
    assert report.clock_offsets[0].offset_ms == pytest.approx(-20)


def test_both_directions_bound_a_clock_and_many_requests_bound_it_closer(tmp_path: Path) -> None:
    # Ahead by 20: each request gives begin - begin >= 20 >= end - end.
    first = request(0, 100 * MS, trace=1, decode=(21 * MS, 60 * MS))
    second = request(0, 100 * MS, trace=2, decode=(80 * MS, 119 * MS))
    assert two_hosts(tmp_path, first, second, ask=[CLOCKS]) == [
        [("gpu", "front", 20 * MS, 19 * MS, 21 * MS, 2)]
    ]


def test_a_caller_on_another_machine_bounds_from_above_alone(tmp_path: Path) -> None:
    caller = span("GET", 0, 10 * MS, trace=1, span_id=9)
    served = span(names.SPAN_REQUEST, -5 * MS, 300 * MS, trace=1, span_id=1, parent=9)
    path = write(
        tmp_path / "t.jsonl",
        document(caller, resource={names.HOST_NAME: "gateway"}),
        document(served, resource={names.HOST_NAME: "gpu"}),
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        # It need not have waited for the answer; but nobody answers before he is asked.
        assert fetch(db, CLOCKS) == [("gpu", "gateway", -5 * MS, None, -5 * MS, 1)]


def test_clocks_that_may_agree_are_left_alone(tmp_path: Path) -> None:
    fine = request(0, 100 * MS, queue=(0, 10 * MS), decode=(10 * MS, 100 * MS))
    assert two_hosts(tmp_path, fine, ask=[CLOCKS]) == [[("gpu", "front", 0, 0, 0, 2)]]
    assert analyze(Options([tmp_path / "t.jsonl"])).integrity.clock_offset_ms == 0


def test_bounds_that_contradict_refuse_a_correction(tmp_path: Path) -> None:
    behind = request(0, 100 * MS, trace=1, decode=(-20 * MS, 50 * MS))  # at most -20 ms
    ahead = request(0, 100 * MS, trace=2, decode=(10 * MS, 130 * MS))  # at least 30 ms
    states = "SELECT state, factor FROM trust WHERE area = 'clock'"
    skewed = "SELECT count FROM span_faults WHERE kind = 'skewed'"
    clocks, trusted, outside = two_hosts(tmp_path, behind, ahead, ask=[CLOCKS, states, skewed])
    assert clocks == [("gpu", "front", None, 30 * MS, -20 * MS, 2)]
    assert trusted == [("refused", 0.0)]
    assert outside == [(2,)], "nothing was moved"
    assert analyze(Options([tmp_path / "t.jsonl"])).integrity.clock_offset_ms is None


def test_bounds_that_drift_apart_by_less_than_the_slack_still_correct(tmp_path: Path) -> None:
    first = request(0, 100 * MS, trace=1, decode=(20 * MS, 120 * MS))
    later = request(0, 100 * MS, trace=2, decode=(20 * MS + 400_000, 120 * MS + 400_000))
    assert two_hosts(tmp_path, first, later, ask=["SELECT offset_ns FROM clock_offsets"]) == [
        [(20 * MS + 200_000,)]
    ]


def test_one_clock_cannot_show_an_offset_but_its_faults_are_counted(tmp_path: Path) -> None:
    spans = request(0, 100 * MS, queue=(-20 * MS, 30 * MS), decode=(50 * MS, 100 * MS))
    # 20 of 50 + 50 ms lie before the arrival.
    assert faults(tmp_path, spans) == {"skewed": (1, 0.2)}
    assert analyze(Options([tmp_path / "t.jsonl"])).integrity.clock_offset_ms is None


def test_overlapping_stretches_of_one_phase_are_counted_and_their_time_counts_once(tmp_path: Path) -> None:
    with staged(tmp_path, request(0, 100, decode=(0, 60), decode_2=(40, 100), prefill=(0, 60))) as db:
        found = fetch(db, "SELECT phase, duration_ns, overlapping, overlap_ns FROM phases ORDER BY phase")
        # 20 twice, of 60 + 60 + 60; another phase may overlap.
        assert fetch(db, "SELECT kind, count, time_share FROM span_faults") == [("overlap", 1, 20 / 180)]
    assert found == [("decode", 100, 1, 20), ("prefill", 60, 0, 0)]


def test_a_stretch_without_an_end_overlaps_nothing(tmp_path: Path) -> None:
    assert "overlap" not in faults(tmp_path, request(0, 100, decode=(0, 60), decode_2=(60, None)))


def test_own_parents_and_rings_of_parents_are_counted_and_end(tmp_path: Path) -> None:
    phase = names.PHASE_SPANS[names.QUEUE]
    spans = [
        *request(0, 10, trace=1, queue=(0, 10)),
        span(phase, 0, 5, trace=2, span_id=2, parent=2),
        *[span(phase, 0, 5, trace=3, span_id=n, parent=n % 3 + 1) for n in (1, 2, 3)],
        # A request whose parent is its own phase.
        span(names.SPAN_REQUEST, 0, 9, trace=4, span_id=1, parent=2),
        span(phase, 0, 9, trace=4, span_id=2, parent=1),
    ]
    found = faults(tmp_path, spans)
    assert (found["own_parent"][0], found["cycle"][0]) == (1, 3 + 2)
    # Of each trace apart from the first the parents that are no requests: 1 + 3.
    assert found["absent_request"][0] == 4


def test_a_chain_of_parents_is_no_ring(tmp_path: Path) -> None:
    chain = [span("other", 0, 9, trace=1, span_id=n, parent=n - 1 or None) for n in range(1, 30)]
    assert faults(tmp_path, chain) == {}


def test_requests_that_the_recording_cut_are_told_apart(tmp_path: Path) -> None:
    spans = [
        *request(0, 50, trace=1, prefill=(0, 20), decode=(20, 50)),
        *request(0, 50, trace=2, decode=(20, 50)),
        *request(0, None, trace=3, prefill=(0, 25), decode=(25, 50)),
        *request(0, 50, trace=4, prefill=(0, 50))[1:],
    ]
    # Each request lasts 50; the absent one's phase 50, of 50 + 30 + 50 + 50 of phases.
    assert faults(tmp_path, spans) == {
        "cut_begin": (1, 0.33), "cut_end": (1, 0.33), "absent_request": (1, 0.28),
    }  # fmt: skip


def step(index: int, count: int, start: int, **attrs: int) -> dict[str, Any]:
    given = {names.STEP_INDEX: index, names.STEP_COUNT: count, names.STEP_DECODE_REQUESTS: count, **attrs}
    return span(names.SPAN_WINDOW, start, start + 10, given, trace=100 + start, span_id=start + 1)


def test_missing_iterations_are_counted_between_the_first_and_the_last(tmp_path: Path) -> None:
    # 7 to 9, 10, 15 to 16: 11 to 14 are missing, of the ten from 7 to 16.
    assert faults(tmp_path, [step(10, 1, 30), step(7, 3, 0), step(15, 2, 60)]) == {"step_gap": (4, 0.4)}
    continued = step(16, 0, 60)  # further links of the last one
    assert faults(tmp_path, [step(7, 3, 0), step(10, 1, 30), step(11, 6, 60), continued]) == {}


def test_each_process_counts_its_own_iterations(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        document(step(0, 1, 0), step(1, 1, 20), resource={names.SERVICE_INSTANCE_ID: "a"}),
        document(step(900, 1, 40), resource={names.SERVICE_INSTANCE_ID: "b"}),
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert fetch(db, "FROM span_faults") == []


def test_sums_of_tokens_that_cannot_be_are_counted(tmp_path: Path) -> None:
    cached = {names.INPUT_TOKENS: 10, names.TOKENS_CACHED: 11}
    summed = {names.INPUT_TOKENS: 10, names.TOKENS_TEXT: 6, names.TOKENS_IMAGE: 5}
    fine = {names.INPUT_TOKENS: 10, names.TOKENS_TEXT: 5, names.TOKENS_IMAGE: 5, names.TOKENS_CACHED: 10}
    spans = [
        s for n, attrs in enumerate((cached, summed, fine, {}), 1) for s in request(0, 10, attrs, trace=n)
    ]
    assert faults(tmp_path, spans) == {"token_sum": (2, 0.5)}
    visual = request(0, 10, {names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 11})
    # The reader takes this one as unknown already; it shows as such.
    assert "out_of_range" in faults(tmp_path, visual)


def test_a_step_that_holds_more_than_the_cache_is_counted(tmp_path: Path) -> None:
    spans = [
        step(0, 1, 0, **{names.STEP_KV_USED_TOKENS: 90}),
        step(1, 1, 10, **{names.STEP_KV_USED_TOKENS: 101}),
    ]
    assert faults(tmp_path, spans, resource={names.KV_CAPACITY_TOKENS: 100}) == {"kv_over_capacity": (1, 0.5)}


def test_ids_that_two_different_spans_share_are_the_readers_count(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", document(*request(0, 10, queue=(0, 10))))
    with loaded(path) as db:
        db.execute("UPDATE ingest_counts SET conflicting_ids = 3")
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert fetch(db, "SELECT kind, count FROM span_faults") == [("conflicting_id", 3)]


def test_what_agents_count_about_themselves_is_summed_over_agents(tmp_path: Path) -> None:
    def told(agent: str, name: str, *values: float) -> dict[str, Any]:
        points = [(at, reading) for at, reading in enumerate(values)]
        return metric_document(name, points, {names.SERVICE_INSTANCE_ID: agent})

    path = write(
        tmp_path / "t.jsonl",
        document(*request(0, 10, queue=(0, 10))),
        told("a", names.AGENT_RECORDS_LOST, 1, 3),
        told("b", names.AGENT_RECORDS_LOST, 2),
        told("a", names.AGENT_SPANS_DROPPED, 7),
        told("a", names.AGENT_REQUESTS_SAMPLED_OUT, 0),
    )
    report = analyze(Options([path]))
    assert {row.kind: row.count for row in report.span_faults} == {"records_lost": 5, "spans_dropped": 7}
    assert report.integrity.records_lost == 5
    assert report.integrity.hook_errors is None


def versioned(folder: Path, *versions: int) -> Path:
    lines = [
        document(
            *request(0, 10, trace=version + 1, queue=(0, 10)),
            resource={names.RESOURCE_SCHEMA_VERSION: version},
        )
        for version in versions
    ]
    return write(folder / "t.jsonl", *lines)


def test_an_older_version_is_read_and_a_mix_is_told(tmp_path: Path) -> None:
    report = analyze(Options([versioned(tmp_path, SCHEMA_VERSION, SCHEMA_VERSION - 1)]))
    assert report.summary.requests == 2
    assert {row.kind: row.count for row in report.span_faults} == {"older_schema": 2}


def test_a_newer_version_alone_is_refused_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        analyze(Options([versioned(tmp_path, 99)]))
    text = str(caught.value)
    assert "t.jsonl: recorded in version 99 of the vocabulary" in text
    assert f"up to {SCHEMA_VERSION}; upgrade vtprof" in text
    assert "\n" not in text


@pytest.mark.parametrize("form", ["read", "kept", "written"])
def test_what_a_newer_version_recorded_is_left_out_and_counted_and_the_rest_is_used(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three requests with a phase each, one is newer; also when it comes from the cache, or goes to a file."""
    monkeypatch.setattr("vtprof_analyzer.ingest.cache_key.MIN_BYTES", 0)
    path = versioned(tmp_path, SCHEMA_VERSION, 99, SCHEMA_VERSION - 1)
    options = Options([path], database=tmp_path / "x.db" if form == "written" else None)
    report = analyze(options)
    if form == "kept":
        report = analyze(options)
    assert report.summary.requests == 2
    left_out = "2 spans recorded in version 99 of the vocabulary left out: this vtprof reads up to"
    assert [note.what for note in report.integrity.notes] == [f"{left_out} {SCHEMA_VERSION}; upgrade it"]


def test_phases_without_their_request_are_not_complete_and_each_span_counts_once(tmp_path: Path) -> None:
    orphan = span(names.PHASE_SPANS[names.QUEUE], 0, 5, trace=2, span_id=2, parent=1)
    endless_orphan = span(names.PHASE_SPANS[names.PREFILL], 5, None, trace=2, span_id=3, parent=1)
    early_token = request(0, 9, {names.TTFT_NS: 20}, trace=3)
    endless = request(0, None, trace=4)
    spans = [*request(0, 10, queue=(0, 5)), orphan, endless_orphan, *early_token, *endless]
    with staged(tmp_path, spans) as db:
        counted = (
            "SELECT used_spans, orphans, end_missing, negative_duration, incomplete_spans FROM integrity"
        )
        assert fetch(db, counted) == [(6, 2, 2, 1, 4)]
    found = analyze(Options([tmp_path])).integrity
    assert (found.orphans, found.complete_spans_share) == (2, pytest.approx(2 / 6))


def test_ids_that_different_spans_share_are_told_in_the_report(tmp_path: Path) -> None:
    others = [s for trace in range(2, 42) for s in request(0, 10, trace=trace, queue=(0, 10))]
    write(
        tmp_path / "t.jsonl", document(*request(0, 10), span(names.PHASE_SPANS[names.QUEUE], 0, 10), *others)
    )
    found = analyze(Options([tmp_path]))
    # One in 82 spans: too few to doubt the area.
    assert {row.state for row in found.trust if row.area == "phases"} == {"ok"}
    assert found.integrity.conflicting_ids == 1
    assert "ids that different spans share: 1, all of them kept" in trust_phrases.trust(found)
