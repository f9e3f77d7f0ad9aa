"""Whose energy a report tells, on which GPUs, and where it can tell none; by hand arithmetic on small runs."""

import json
from pathlib import Path

import pytest
from otlp_builder import document, write
from test_report_energy import a_request, decode, energy_of, joules, prefill, reported, taken, two_requests

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import html, json_text, markdown, terminal
from vtprof_analyzer.report.energy_phrases import lines, vague
from vtprof_analyzer.report.model import Report
from vtprof_schemas import names


def said(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").replace("\\", "").split())


def everywhere(report: Report) -> list[str]:
    return [
        said(text)
        for text in (terminal.render(report, width=110), markdown.render(report), html.render(report))
    ]


def watched(joules_taken: float, gpu: str = "GPU-a", until: float = 101) -> dict[str, object]:
    return taken("agent-1", (0, gpu, "decode", 0), (until, gpu, "decode", joules_taken / 4), (0, gpu, "unattributed", 0),
                 (until, gpu, "unattributed", joules_taken * 3 / 4))  # fmt: skip


def test_phases_shares_and_a_request_are_over_the_same_requests(tmp_path: Path) -> None:
    spans = [
        *a_request(1, 11, prefill=prefill(0, 20, joules(6, 5, 7)), decode=decode(20, 85, joules(24, 20, 28))),
        *a_request(2, 11, decode=decode(20, 85, joules(10, 9, 11))),  # its prompt was cached
        *a_request(3, 11, prefill=prefill(0, 20, {}), decode=decode(20, 85, joules(50, 40, 60))),  # in part
    ]  # fmt: skip
    report = reported(tmp_path, *spans)
    energy = energy_of(report)
    assert (energy.requests, energy.requests_in_part, energy.in_part_j) == (2, 1, pytest.approx(50))
    assert [(row.phase, row.requests, row.energy_j) for row in energy.phases] == [
        ("prefill", 1, pytest.approx(6)), ("decode", 2, pytest.approx(34)),
    ]  # fmt: skip
    assert [row.share for row in energy.phases] == [pytest.approx(6 / 40), pytest.approx(34 / 40)]
    assert [row.per_request_j for row in energy.phases] == [pytest.approx(6 / 2), pytest.approx(34 / 2)]
    assert energy.per_request_j == pytest.approx(40 / 2), "the sum of the phases'"
    assert {row.phase: row.energy_j for row in report.phases}["decode"] == pytest.approx(34), (
        "and in the other table"
    )
    for text in everywhere(report):
        assert "1 request known in part (50 J), in none of these figures" in text


def test_no_sum_ends_above_what_the_gpus_took(tmp_path: Path) -> None:
    spans = [
        *a_request(1, 5, prefill=prefill(0, 20, joules(6, 5, 30)), decode=decode(20, 100, joules(4, 3, 60))),
        *a_request(2, 5, decode=decode(20, 100, joules(10, 9, 11))),
    ]
    free = energy_of(reported(tmp_path, *spans))
    assert (free.high_j, free.per_request_high_j) == (pytest.approx(101), pytest.approx(101 / 2))
    energy = energy_of(reported(tmp_path, *spans, metrics=(watched(50),)))
    assert energy.high_j == pytest.approx(50)
    assert energy.per_request_high_j == pytest.approx(50 / 2)
    assert energy.per_output_token_high_j == pytest.approx(50 / 10)
    assert {row.phase: row.high_j for row in energy.phases} == {
        "prefill": pytest.approx(30),
        "decode": pytest.approx(50),
    }
    assert energy.low_j == pytest.approx(17), "the lower ends stay"


def test_gpus_that_were_watched_for_a_part_of_the_work_bound_nothing(tmp_path: Path) -> None:
    spans = a_request(1, 5, decode=decode(0, 100, joules(10, 9, 101)))
    half = energy_of(reported(tmp_path, *spans, metrics=(watched(50, until=50),)))
    assert half.high_j == pytest.approx(101)
    most = energy_of(reported(tmp_path, *spans, metrics=(watched(57, until=95),)))
    assert most.high_j == pytest.approx(57 / 0.95), "for the rest at the same power"
    less = energy_of(reported(tmp_path, *spans, metrics=(watched(4),)))
    assert less.high_j == pytest.approx(101), (
        "a total below the requests' own lacks something: it bounds nothing"
    )


def test_an_end_that_a_second_gpu_may_have_given_is_not_bounded_by_the_first(tmp_path: Path) -> None:
    spans = document(
        *a_request(1, 5, decode=decode(0, 100, joules(10, 9, 101))), resource={names.HW_ID: "GPU-a,GPU-b"}
    )
    path = write(tmp_path / "t.jsonl", spans, watched(50))
    assert energy_of(analyze(Options([path]))).high_j == pytest.approx(101), "nobody watched GPU-b"


def test_an_interval_of_more_than_a_factor_of_ten_is_printed_instead_of_a_number(tmp_path: Path) -> None:
    spans = [
        *a_request(1, 4, prefill=prefill(0, 20, joules(5, 4, 6)),
                   decode=decode(20, 100, joules(12.3, 0.2, 36, names.QUALITY_ESTIMATED))),
    ]  # fmt: skip
    report = reported(tmp_path, *spans)
    terminal_text, markdown_text, html_text = everywhere(report)
    for text in (terminal_text, markdown_text, html_text):
        assert "not determined" in text
        assert "0.2 to 36 J" in text
        assert "12.3 J" not in text
        assert "decode alone" not in text
        assert "Per request 17.3 J (4.2 to 42 J)" in text, "4 + 0.2 to 6 + 36 is within a factor of ten"
    assert json.loads(json_text.render(report))["energy"]["phases"][1]["energy_j"] == pytest.approx(12.3)


def test_a_request_whose_energy_is_not_determined_has_no_digits_either(tmp_path: Path) -> None:
    report = reported(
        tmp_path, *a_request(1, 4, decode=decode(20, 100, joules(12.3, 0, 36, names.QUALITY_ESTIMATED)))
    )
    for text in everywhere(report):
        assert "Per request not determined (0 to 36 J); per output token not determined (0 to 9 J)" in text
        assert "12.3 J" not in text
        assert "p50 12" not in text
    assert energy_of(report).per_request_j == pytest.approx(12.3)


def test_ten_times_is_the_limit() -> None:
    assert not vague(1.0, 10.0)
    assert vague(1.0, 10.1)
    assert vague(0.0, 0.1)
    assert not vague(0.0, 0.0)
    assert not vague(None, 5.0)


def of_servers(folder: Path, hw_id: str, *metrics: dict[str, object]) -> Report:
    resource = {names.HW_ID: hw_id, names.SERVICE_INSTANCE_ID: "server-1"}
    return analyze(
        Options([write(folder / "t.jsonl", document(*two_requests(), resource=resource), *metrics)])
    )


def test_gpus_that_no_server_names_are_told_apart(tmp_path: Path) -> None:
    totals = taken(
        "agent-1",
        (0, "GPU-a", "decode", 0), (10, "GPU-a", "decode", 30),
        (0, "GPU-a", "unattributed", 0), (10, "GPU-a", "unattributed", 10),
        (0, "GPU-b", "unattributed", 0), (10, "GPU-b", "unattributed", 20),
        (0, "GPU-c", "unattributed", 0), (10, "GPU-c", "unattributed", 500),
        (0, "GPU-d", "unattributed", 0), (10, "GPU-d", "unattributed", 60),
    )  # fmt: skip
    report = of_servers(tmp_path, "GPU-a,GPU-b", totals)
    energy = energy_of(report)
    assert (energy.gpus, energy.gpu_energy_j) == (2, pytest.approx(60))
    assert energy.unattributed_share == pytest.approx(1 - 30 / 60), "with the others it would be 95 %"
    assert [(gpu.hw_id, gpu.energy_j) for gpu in energy.other_gpus or []] == [
        ("GPU-c", 500.0),
        ("GPU-d", 60.0),
    ]
    for text in everywhere(report):
        assert "2 GPUs took 60 J in 10.0 s; 50 % of that belongs to no phase" in text
        assert "Not counted, as no server of these requests names them: GPU-c 500 J, GPU-d 60 J" in text


def test_where_no_server_names_its_gpus_that_is_said(tmp_path: Path) -> None:
    report = reported(tmp_path, *two_requests(), metrics=(watched(50),))
    assert energy_of(report).other_gpus is None
    assert any("Which GPUs the servers used is not recorded" in text for text in lines(energy_of(report), []))
    named = of_servers(tmp_path, "GPU-a", watched(50))
    assert energy_of(named).other_gpus == []
    assert not any(
        "GPUs the servers used" in text or "Not counted" in text for text in lines(energy_of(named), [])
    )
    foreign = energy_of(of_servers(tmp_path, "GPU-z", watched(50)))
    assert (foreign.gpus, foreign.gpu_energy_j, foreign.unattributed_share) == (0, None, None)
    assert any("What the GPUs of these servers took is not recorded" in text for text in lines(foreign, []))


def test_kept_requests_are_not_set_against_what_the_gpus_took_for_all(tmp_path: Path) -> None:
    spans = two_requests()
    spans[0]["attributes"].append({"key": names.SAMPLING_RATIO, "value": {"doubleValue": 0.1}})
    report = reported(tmp_path, *spans, metrics=(watched(400),))
    energy = energy_of(report)
    assert (energy.sampled, energy.unattributed_share, energy.gpu_energy_j) == (
        True,
        None,
        pytest.approx(400),
    )
    assert energy.per_request_j == pytest.approx((10 + 10) / 2), "of the two kept"
    for text in everywhere(report):
        assert "Energy of 2 requests kept" in text
        assert "Per request kept 10 J" in text
        assert "per output token of these" in text
        assert "1 GPU took 400 J in 101 s for all requests, also those left out by sampling" in text
        assert "belongs to no phase" not in text
