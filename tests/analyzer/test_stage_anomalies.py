"""Stage `slow_requests`: a dozen ordinary requests and one that is not, and what the report says of it."""

import re
from pathlib import Path
from typing import Any

import duckdb
from otlp_builder import BASE_NS, attributes, document, request, span, write
from stage_fixture import staged
from store_fixture import loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.report.build_anomalies import build_anomalies
from vtprof_analyzer.report.format import duration
from vtprof_analyzer.report.model_anomalies import Anomalies, SlowRequest
from vtprof_schemas import names

MS = 1_000_000
TEXT = {names.INPUT_TOKENS: 50, names.TOKENS_IMAGE: 0, names.OUTPUT_TOKENS: 11}


def step(start: int, end: int, trace: int, **more: float) -> dict[str, Any]:
    attrs: dict[str, Any] = {names.STEP_COUNT: 1}
    attrs |= {getattr(names, "STEP_" + key.upper()): value for key, value in more.items()}
    return span(names.SPAN_STEP, start * MS, end * MS, attrs, trace=trace)


def asked(trace: int, at: int, ttft: int, length: int, **phases: tuple[int, int]) -> list[dict[str, Any]]:
    """A request at a millisecond, with phases in milliseconds after its arrival."""
    spans = {name: ((at + begin) * MS, (at + end) * MS) for name, (begin, end) in phases.items()}
    return request(at * MS, (at + length) * MS, TEXT | {names.TTFT_NS: ttft * MS}, trace=trace, **spans)


def ordinary(count: int = 12) -> list[dict[str, Any]]:
    """Requests of 20 ms, 10 of them in the queue behind a step of decodes, then 10 tokens of 5 ms each."""
    spans = []
    for trace in range(1, count + 1):
        at = 1000 * trace
        spans += asked(trace, at, 20, 70, queue=(0, 10), prefill=(10, 20), decode=(20, 70))
        spans += [
            step(at, at + 10, 100 + trace, decode_requests=3),
            step(at + 10, at + 20, 200 + trace, prefill_tokens=50),
        ]
        spans.append(step(at + 20, at + 70, 300 + trace, decode_requests=10, count=10))
    return spans


def explained(folder: Path, *spans: dict[str, Any], **options: Any) -> Anomalies:
    with staged(folder, spans, **options) as db:
        found = build_anomalies(db)
    assert found is not None
    return found


def only(found: Anomalies) -> SlowRequest:
    (row,) = found.requests
    return row


def test_a_request_behind_an_image_is_explained_by_it_and_the_image_is_named(tmp_path: Path) -> None:
    #  500..700: a step with the encoder, 0..50, and 900 visual tokens of another request
    slow = asked(50, 510, 230, 280, queue=(0, 190), prefill=(190, 230), decode=(230, 280))
    image = request(
        400 * MS, 5000 * MS, {names.TOKENS_IMAGE: 900, names.REQUEST_ID: "the image", names.TTFT_NS: 300 * MS}, trace=51,
        encode=(500 * MS, 550 * MS), prefill=(550 * MS, 700 * MS),
    )  # fmt: skip
    steps = [
        step(500, 700, 60, prefill_tokens=900, prefill_visual_tokens=900, encode_ns=50 * MS, encode_patches=9)
    ]
    found = explained(tmp_path, *ordinary(), *slow, *image, *steps)
    row = only(found)
    assert (found.judged, found.slow, found.limit) == (13, 1, 20)
    assert (row.rank, row.request_id, row.phase, row.cause) == (1, "r50", "queue", "image_prefill")
    assert (row.phase_ms, row.normal_ms, row.excess_ms) == (190.0, 10.0, 210.0)
    assert row.evidence == (
        "queue took 190 ms, normally 10.0 ms; meanwhile 150 ms image prefill, 40.0 ms image encode;"
        " beside 1 prompt of others, 1 with visual tokens: the image (900 visual tokens)"
    )


def test_a_slow_decode_is_explained_by_its_preemption_else_by_what_ran_more_than_normally(
    tmp_path: Path,
) -> None:
    slow = asked(50, 500, 20, 320, queue=(0, 10), prefill=(10, 20), decode=(20, 320))
    steps = [step(520, 820, 60, prefill_tokens=80, decode_requests=20)]
    row = only(explained(tmp_path, *ordinary(), *slow, *steps))
    # 10 tokens in 300 ms instead of 50; 4/5 of the step's time went to prompts, normally none
    assert (row.phase, row.phase_ms, row.normal_ms, row.cause) == ("decode", 300.0, 50.0, "text_prefill")
    assert "240 ms text prefill, 60.0 ms decode batch" in row.evidence
    slow[-1]["attributes"] += attributes({names.DECODE_PREEMPTIONS: 2})
    row = only(explained(tmp_path, *ordinary(), *slow, *steps))
    assert row.cause == "preemption"
    assert "preempted twice while it decoded" in row.evidence


def test_lowered_clocks_explain_work_that_took_long(tmp_path: Path) -> None:
    slow = asked(50, 500, 120, 170, queue=(0, 10), prefill=(10, 120), decode=(120, 170))
    resource = {names.HW_ID: "GPU-1", names.SERVICE_INSTANCE_ID: "p"}
    metrics: list[dict[str, Any]] = []
    for gpu, total in (("GPU-1", 80 * MS), ("GPU-2", 0)):  # of the other GPU nobody here cares
        points = [
            {
                "timeUnixNano": str(BASE_NS + at * MS),
                "asDouble": float(value),
                "attributes": attributes({"hw.id": gpu}),
            }
            for at, value in ((500, 0), (600, total), (700, total))
        ]
        metrics.append({"name": names.GPU_THROTTLE_POWER_NS, "sum": {"dataPoints": points}})
    line = {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"scope": {}, "metrics": metrics}]}]}
    path = write(
        tmp_path / "t.jsonl",
        document(*ordinary(), *slow, step(510, 620, 60, prefill_tokens=50), resource=resource),
        line,
    )
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        found = build_anomalies(db)
    assert found is not None
    # From the reading before the phase, 500, to the first one after it, 700: 80 of 200 ms are less than half.
    assert only(found).cause != "throttled_power"
    assert "GPU clocks lowered 40 % of the time (power)" in only(found).evidence
    line_text = path.read_text().replace('"asDouble":80000000.0', '"asDouble":150000000.0')
    path.write_text(line_text)
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        found = build_anomalies(db)
    assert found is not None and only(found).cause == "throttled_power"


def test_a_large_prompt_explains_itself_and_a_slow_download_too(tmp_path: Path) -> None:
    large = asked(50, 500, 200, 250, prefill=(0, 200), decode=(200, 250))
    large[0]["attributes"] += attributes({})
    for entry in large[0]["attributes"]:
        if entry["key"] == names.INPUT_TOKENS:
            entry["value"] = {"intValue": "800"}
    fetched = asked(51, 900, 100, 150, prefill=(90, 100), decode=(100, 150))
    about = {
        names.PHASE: names.PREPROCESS,
        names.PREPROCESS_FETCH_NS: 70 * MS,
        names.PREPROCESS_CPU_NS: 5 * MS,
    }
    child = span(names.PHASE_SPANS["preprocess"], 900 * MS, 990 * MS, about, trace=51, span_id=9, parent=1)
    steps = [step(500, 700, 60, prefill_tokens=800), step(990, 1000, 61, prefill_tokens=50)]
    found = explained(tmp_path, *ordinary(), *large, *fetched, child, *steps)
    assert [(row.request_id, row.phase, row.cause) for row in found.requests] == [
        ("r50", "prefill", "own_size"),
        ("r51", "preprocess", "fetch"),
    ]
    assert "its prompt has 800 tokens, normally 50" in found.requests[0].evidence


def test_a_large_prompt_does_not_explain_what_others_took(tmp_path: Path) -> None:
    """Of 200 ms of prefill 150 were another's encode: 50 ms of its own are the lesser part of what is over 10."""
    slow = asked(50, 500, 200, 250, prefill=(0, 200), decode=(200, 250))
    for entry in slow[0]["attributes"]:
        if entry["key"] == names.INPUT_TOKENS:
            entry["value"] = {"intValue": "800"}
    image = request(
        400 * MS, 5000 * MS, {names.TOKENS_IMAGE: 900, names.TTFT_NS: 300 * MS}, trace=51,
        encode=(500 * MS, 650 * MS), prefill=(700 * MS, 710 * MS),
    )  # fmt: skip
    steps = [step(500, 700, 60, prefill_tokens=800, encode_ns=150 * MS, encode_patches=9)]
    row = only(explained(tmp_path, *ordinary(), *slow, *image, *steps))
    assert (row.phase, row.cause) == ("prefill", "image_encode")
    assert "its prompt has 800 tokens, normally 50" in row.evidence


def test_a_request_that_is_large_by_its_images_is_told_so(tmp_path: Path) -> None:
    """210 visual tokens beside 100 are twice as many; 410 tokens in all beside 300 are not."""
    spans = [*ordinary(), *asked(50, 500, 200, 250, prefill=(0, 200), decode=(200, 250))]
    for entry in (one for at in spans for one in at["attributes"]):
        if entry["key"] in (names.INPUT_TOKENS, names.TOKENS_IMAGE):
            entry["value"] = {"intValue": "300" if entry["key"] == names.INPUT_TOKENS else "100"}
    for entry in spans[-3]["attributes"]:
        if entry["key"] in (names.INPUT_TOKENS, names.TOKENS_IMAGE):
            entry["value"] = {"intValue": "410" if entry["key"] == names.INPUT_TOKENS else "210"}
    row = only(explained(tmp_path, *spans, step(500, 700, 60, prefill_tokens=410, prefill_visual_tokens=210)))
    assert row.cause == "own_size"
    assert "its prompt has 210 visual tokens, normally 100" in row.evidence


def test_what_ran_meanwhile_adds_up_to_the_phase(tmp_path: Path) -> None:
    """A queue of 400 ms: 300 of a text prefill, 10 of a decode (too little to name), 90 of nothing: the rest is 100."""
    slow = asked(50, 500, 410, 460, queue=(0, 400), prefill=(400, 410), decode=(410, 460))
    other = request(400 * MS, 5000 * MS, {names.TTFT_NS: 300 * MS}, trace=51, prefill=(500 * MS, 800 * MS))
    steps = [step(500, 800, 60, prefill_tokens=900), step(800, 810, 61, decode_requests=3)]
    row = only(explained(tmp_path, *ordinary(), *slow, *other, *steps))
    assert row.evidence.startswith("queue took 400 ms, normally 10.0 ms; meanwhile 300 ms text prefill, ")
    told = row.evidence.split("meanwhile ")[1].split(";")[0]
    assert sum(float(number) for number in re.findall(r"([0-9.]+) ms", told)) == 400.0


TIMES_MS = [
    0.0, 3e-9, 0.9994e-6, 0.9996e-6, 2e-6, 0.000339, 0.00099949, 0.0009996,
    0.0123, 0.85, 0.9994, 0.9995, 1.0, 9.995, 9.996, 14.2, 99.96, 999.4, 999.5, 2310.0, 7945.6,
    119_499.0, 119_500.0, 744_000.0, 7_169_000.0, 7_170_000.0, 11_520_000.0, -14.2, -7945.6,
]  # fmt: skip


def test_durations_are_spelled_as_the_report_spells_them() -> None:
    with duckdb.connect() as db:
        pipeline.run_sql_stage(db, "06_spelled_duration.sql")
        spelled = db.execute("SELECT spelled_duration(unnest(?::DOUBLE[]))", [TIMES_MS]).fetchall()
    assert [text for (text,) in spelled] == [duration(ms) for ms in TIMES_MS]


def test_the_list_is_limited_and_says_how_many_were_slow(tmp_path: Path) -> None:
    slow = [spans for n in range(3) for spans in asked(50 + n, 500, 40 + n, 100 + n)]
    settings = pipeline.Settings(slow_requests=2)
    found = explained(tmp_path, *ordinary(), *slow, settings=settings)
    assert (found.slow, found.limit, [row.request_id for row in found.requests]) == (3, 2, ["r52", "r51"])
    assert {row.cause for row in found.requests} == {"unexplained"}
    assert found.requests[0].evidence.startswith(
        "unexplained took 42.0 ms, normally 0 ms; what ran meanwhile is not"
    )


def test_too_few_requests_tell_no_normal_and_a_normal_run_has_no_slow_ones(tmp_path: Path) -> None:
    with staged(tmp_path, ordinary(9)) as db:
        assert build_anomalies(db) is None
    found = explained(tmp_path, *ordinary())
    assert (found.judged, found.slow, found.requests) == (12, 0, [])
