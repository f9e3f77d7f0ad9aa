"""Objectives by group of requests, what a good request cost, and what more machines brought: by hand arithmetic."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, request, write
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.cli.app import run
from vtprof_analyzer.cost import metrics
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError

S = 1_000_000_000
Row = tuple[Any, ...]


def asked(
    second: int,
    ttft_s: float = 1,
    *,
    trace: int,
    tpot_s: float = 1,
    energy_mj: float | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """A request of three tokens: its end follows from TTFT and TPOT; its energy is on its prefill."""
    end = second * S + int((ttft_s + 2 * tpot_s) * S)
    given = {names.TTFT_NS: int(ttft_s * S), names.OUTPUT_TOKENS: 3, **(attrs or {})}
    spans = request(second * S, end, given, trace=trace, prefill=(second * S, second * S + int(ttft_s * S)))
    if energy_mj is not None:
        spans[1]["attributes"] += [
            {"key": names.GPU_ENERGY_MJ, "value": {"doubleValue": energy_mj}},
            {"key": names.GPU_TIME_NS, "value": {"intValue": str(int(ttft_s * S))}},
        ]
    return spans


def slo(
    folder: Path,
    processes: Sequence[tuple[str | None, Sequence[list[dict[str, Any]]]]],
    *queries: str,
    **settings: Any,
) -> list[list[Row]]:
    """Run queries over processes: each a machine's name and its requests."""
    lines = []
    for number, (host, requests) in enumerate(processes):
        resource = {names.SERVICE_INSTANCE_ID: f"p{number}"} | ({names.HOST_NAME: host} if host else {})
        lines.append(document(*[span for spans in requests for span in spans], resource=resource))
    with loaded(write(folder / "t.jsonl", *lines)) as db:
        pipeline.run(db, pipeline.Settings(**settings), {step_cost.STAGE: step_cost.create_table})
        return [fetch(db, query) for query in queries]


ALL = """
SELECT objective, requests, attainment, goodput_share, goodput_per_s FROM slo WHERE scope = 'all' ORDER BY objective
"""


def test_failed_requests_missed_every_objective_and_good_ones_meet_all(tmp_path: Path) -> None:
    requests = [
        asked(0, 1, trace=1, tpot_s=1),
        asked(0, 2, trace=2, tpot_s=1),  # exactly the limit of TTFT
        asked(0, 3, trace=3, tpot_s=1),  # too late
        asked(0, 1, trace=4, tpot_s=4.5),  # too slow: ends at 10
        asked(0, 1, trace=5, attrs={names.REQUEST_STATUS: names.STATUS_ABORTED}),
    ]
    (rows,) = slo(tmp_path, [("a", requests)], ALL, slo_ttft_ms=2000.0, slo_tpot_ms=1000.0)
    assert rows == [
        ("completed", 5, 4 / 5, 2 / 5, 0.2),
        ("tpot", 5, 3 / 5, 2 / 5, 0.2),
        ("ttft", 5, 3 / 5, 2 / 5, 0.2),
    ]
    # The same by the functions of the cost model: a failed request has no TTFT.
    met = metrics.meets_slo([1, 2, 3, 1, math.nan], [1, 1, 1, 4.5, 1], ttft_limit=2, tpot_limit=1)
    assert rows[0][3] == metrics.slo_attainment(met)
    assert rows[0][4] == metrics.goodput(met, 10)


def test_without_an_objective_or_a_request_nothing_is_made_up(tmp_path: Path) -> None:
    query = "SELECT objective, attainment, goodput_share, goodput_per_s, usd_per_ok_request FROM slo WHERE scope = 'all'"
    assert slo(tmp_path, [("a", [asked(0, trace=1)])], query) == [[("completed", 1, None, None, None)]]
    nobody = slo(tmp_path, [], query, "FROM scaling", "FROM judged_requests", slo_ttft_ms=1.0)
    assert nobody == [[("ttft", None, None, None, None), ("completed", None, None, None, None)], [], []]


def test_a_request_without_an_end_is_judged_by_its_first_token_and_misses_a_tpot(tmp_path: Path) -> None:
    spans = request(0, None, {names.TTFT_NS: S, names.OUTPUT_TOKENS: 3}, prefill=(0, S))
    query = "SELECT ttft_kept, tpot_kept, kept FROM judged_requests"
    assert slo(tmp_path, [("a", [spans])], query, slo_ttft_ms=1000.0, slo_tpot_ms=9.0) == [
        [(True, False, False)]
    ]


def test_sampled_requests_count_as_often_as_they_stand_for_others(tmp_path: Path) -> None:
    requests = [asked(0, 1, trace=1, attrs={names.SAMPLING_RATIO: 0.1}), asked(0, 3, trace=2, tpot_s=3.5)]
    (rows,) = slo(tmp_path, [("a", requests)], ALL, slo_ttft_ms=2000.0)
    # Ten good ones and a slow one within 10 s.
    assert rows == [("completed", 11, 1, 10 / 11, 1.0), ("ttft", 11, 10 / 11, 10 / 11, 1.0)]


def test_groups_are_judged_apart_and_their_goodput_adds_up(tmp_path: Path) -> None:
    requests = [
        asked(0, 1, trace=1, tpot_s=4.5, attrs={names.REQUEST_MODEL: "m", names.TOKENS_IMAGE: 0}),
        asked(
            0, 3, trace=2, attrs={names.REQUEST_MODEL: "m", names.TOKENS_IMAGE: 300, names.INPUT_TOKENS: 400}
        ),
    ]
    other = [asked(0, 1, trace=3, attrs={names.REQUEST_MODEL: "n", names.TOKENS_IMAGE: 0})]
    query = "SELECT scope, name, attainment, goodput_per_s FROM slo WHERE objective = 'ttft' AND scope <> 'all' ORDER BY ALL"
    (rows,) = slo(tmp_path, [("a", requests), ("b", other)], query, slo_ttft_ms=2000.0)
    assert rows == [
        ("model", "m", 0.5, 0.1), ("model", "n", 1, 0.1), ("node", "a", 0.5, 0.1), ("node", "b", 1, 0.1),
        ("visual_stratum", "0", 1, 0.2), ("visual_stratum", "1k", 0, 0),
    ]  # fmt: skip


def test_the_price_of_all_machines_is_borne_by_the_requests_that_met_the_objectives(tmp_path: Path) -> None:
    first = [asked(0, 1, trace=1, tpot_s=4.5), asked(0, 5, trace=2)]
    second = [asked(0, 1, trace=3), asked(0, 1, trace=4)]
    query = """
        SELECT scope, usd_per_ok_request FROM slo
        WHERE objective = 'ttft' AND scope <> 'visual_stratum' ORDER BY scope, name
    """
    (rows,) = slo(tmp_path, [("a", first), ("b", second)], query, slo_ttft_ms=2000.0, usd_per_node_hour=360.0)
    # 10 s at 0.1 USD/s a machine: 2 USD for three good ones; of a's dollar one had to bear all.
    assert rows == [("all", pytest.approx(2 / 3)), ("node", 1.0), ("node", 0.5)]
    assert rows[0][1] == pytest.approx(metrics.cost_per_successful_request(1.0, 0.3, 10, nodes=2))
    (paid,) = slo(
        tmp_path, [("a", first), ("b", second)], query, slo_ttft_ms=2000.0, usd_per_node_hour=360.0, nodes=6
    )
    assert paid[0][1] == pytest.approx(6 / 3), "six are paid, whoever served"


def test_nobody_pays_for_a_request_that_no_one_kept(tmp_path: Path) -> None:
    query = "SELECT DISTINCT usd_per_ok_request, j_per_ok_request FROM slo"
    rows = slo(
        tmp_path, [("a", [asked(0, 5, trace=1, energy_mj=9)])], query, slo_ttft_ms=1.0, usd_per_node_hour=1.0
    )
    assert rows == [[(None, None)]]


def test_models_bear_the_price_by_their_part_of_gpu_time(tmp_path: Path) -> None:
    requests = [
        asked(0, 1, trace=1, tpot_s=4.5, energy_mj=1, attrs={names.REQUEST_MODEL: "m"}),
        asked(0, 3, trace=2, energy_mj=1, attrs={names.REQUEST_MODEL: "n"}),
    ]
    query = "SELECT name, usd_per_ok_request FROM slo WHERE scope = 'model' ORDER BY name"
    # 10 s are a dollar; 1 of 4 s of GPU time.
    assert slo(tmp_path, [("a", requests)], query, usd_per_node_hour=360.0) == [[("m", 0.25), ("n", 0.75)]]


def test_energy_of_failed_requests_is_borne_by_the_good_ones(tmp_path: Path) -> None:
    requests = [
        asked(0, 1, trace=1, energy_mj=3000),
        asked(0, 5, trace=2, energy_mj=4000),
        asked(0, 1, trace=3, energy_mj=5000, attrs={names.REQUEST_STATUS: names.STATUS_ERROR}),
        asked(0, 1, trace=4, energy_mj=1000),
        asked(0, 1, trace=5),  # in part: in no sum
    ]
    query = "SELECT j_per_ok_request FROM slo WHERE scope = 'all' AND objective = 'ttft'"
    assert slo(tmp_path, [("a", requests)], query, slo_ttft_ms=2000.0) == [[(pytest.approx(13 / 2),)]]


SCALING = "SELECT nodes, seconds, rate, attainment, goodput_per_s, efficiency FROM scaling ORDER BY nodes"


def test_one_number_of_machines_has_no_efficiency(tmp_path: Path) -> None:
    (rows,) = slo(tmp_path, [("a", [asked(0, 1, trace=1, tpot_s=4.5), asked(5, 1, trace=2)])], SCALING)
    assert rows == [(1, 10.0, 0.2, 1.0, 0.2, None)]


def test_efficiency_is_the_goodput_of_a_machine_against_the_fewest(tmp_path: Path) -> None:
    # One machine for 100 s: 10 requests, all good; then both for 100 s: 20 requests, 15 good.
    alone = [asked(10 * n, 1, trace=n + 1) for n in range(10)]
    late = [asked(100 + 10 * n, 5 if n < 5 else 1, trace=20 + n) for n in range(10)]
    other = [asked(100 + 10 * n, 1, trace=40 + n) for n in range(10)]
    until = [asked(197, 1, trace=70)]  # both end with the 200th second
    processes = [("a", [*alone, *late, asked(196, 1, trace=60, tpot_s=1.5)]), ("b", [*other, *until])]
    (rows,) = slo(tmp_path, processes, SCALING, slo_ttft_ms=2000.0)
    assert rows == [
        (1, 100.0, 0.1, 1.0, 0.1, 1.0),
        (2, 100.0, 0.22, 17 / 22, 0.17, pytest.approx(metrics.goodput_scaling(0.17, 0.1, 2))),
    ]


def test_processes_of_one_machine_and_machines_that_start_a_little_later_are_no_scaling(
    tmp_path: Path,
) -> None:
    def served(first_trace: int) -> list[tuple[str | None, list[list[dict[str, Any]]]]]:
        """Two processes: from 0 and from 2 to 100 s."""
        whole = asked(0, 1, trace=first_trace, tpot_s=49.5)
        later = asked(2, 1, trace=first_trace + 1, tpot_s=48.5)
        return [("a", [whole]), ("a", [later])]

    unnamed = [(None, requests) for _, requests in served(3)]
    (rows,) = slo(tmp_path, [*served(1), *unnamed], SCALING)
    assert [row[0] for row in rows] == [2], "the machine without a name counts once"
    (_, whole), (_, later) = served(1)
    (rows,) = slo(tmp_path, [("a", whole), ("b", later)], SCALING)
    assert [row[0] for row in rows] == [2], "alone for 2 of 100 s"


def test_two_recordings_far_apart_are_compared_without_the_time_between(tmp_path: Path) -> None:
    before = [asked(0, 1, trace=1, tpot_s=4.5)]
    after = [asked(1000, 1, trace=2, tpot_s=4.5)]
    processes = [("a", before), ("a", after), ("b", [asked(1000, 1, trace=3, tpot_s=4.5)])]
    (rows,) = slo(tmp_path, processes, SCALING)
    assert [row[:3] for row in rows] == [(1, 10.0, 0.1), (2, 10.0, 0.2)]
    assert rows[1][5] == 1.0


def test_the_report_holds_the_same_rows_and_the_whole_run_first(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", document(*asked(0, 1, trace=1, tpot_s=4.5)))
    report = analyze(Options([path], slo_ttft_ms=2000.0, usd_per_node_hour=360.0))
    assert (report.slo.ttft_attainment, report.slo.goodput_share, report.slo.goodput_per_s) == (1, 1, 0.1)
    assert [(row.scope, row.objective, row.usd_per_ok_request) for row in report.slo_rows[:2]] == [
        ("all", "ttft", 1.0), ("all", "completed", 1.0),
    ]  # fmt: skip
    assert [(row.nodes, row.seconds) for row in report.scaling] == [(1, 10)]


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [("--price-per-hour", "-1", "price"), ("--price-per-hour", "nan", "price"), ("--nodes", "0", "range")],
)
def test_an_impossible_price_or_number_of_machines_is_refused(flag: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(["analyze", ".", flag, value])
    assert flag in str(caught.value)
    assert said in str(caught.value)
