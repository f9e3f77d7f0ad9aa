"""Judging rules on a run: outcomes, order, advice, and what the sandbox does not let happen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rule_helpers import read_rule, same_everywhere

from vtprof_rules import evaluate as evaluation
from vtprof_rules import sandbox
from vtprof_rules.evaluate import evaluate
from vtprof_rules.load import load_packs
from vtprof_rules.outcome import Outcome, severity_of_share
from vtprof_rules.rule import Expression
from vtprof_rules.sandbox import Sandbox
from vtprof_rules.vocabulary import FACTS as VOCABULARY

CORE = load_packs()

# A run in which encoding is 60 of 100 ms, at half the peak; 12 of 40 requests have an image.
FACTS: dict[str, Any] = {
    "engine": "transformers",
    "engine_version": "5.23.0",
    "n_requests": 40,
    "ttft_ms_p50": 100.0,
    "ttft_ms_mean": 100.0,
    "encode_ms_p50": 60.0,
    "encode_ms_mean": 60.0,
    "prefill_ms_mean": 20.0,
    "encode_share_of_ttft_p50": 0.6,
    "encode_mfu": 0.5,
    "encode_floor_ratio": 0.5,
    "encode_ideal_ms": 30.0,
    "prefill_ms_p50": 20.0,
    "prefill_share_of_ttft_p50": 0.2,
    "unexplained_requests_share": 0.0,
    "visual_tokens_per_image_p95": 1024.0,
}


@pytest.fixture
def source() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            """
            CREATE VIEW requests AS
            SELECT printf('%02d', i) AS trace_id, 'r' || i AS request_id, 100.0 + i AS ttft_ms,
                   CASE WHEN i < 12 THEN 60.0 + i ELSE 0 END AS encode_ms, 0.0 AS unexplained_ms
            FROM range(40) AS numbers (i)
            """
        )
        yield connection


def judged(facts: dict[str, Any], source: duckdb.DuckDBPyConnection) -> dict[str, Outcome]:
    outcomes = evaluate(CORE, same_everywhere(facts), source)
    assert len(outcomes) == len(CORE)
    return {outcome.rule: outcome for outcome in outcomes}


def one_row() -> Sandbox:
    return Sandbox(same_everywhere({}), {"model_facts": []})


def test_a_fired_rule_says_how_many_what_and_what_to_do(source: duckdb.DuckDBPyConnection) -> None:
    outcome = judged(FACTS, source)["ENC001"]
    assert outcome.status == "fired"
    assert outcome.summary == (
        "12 of 40 requests; mean TTFT 100 ms, mean encode time 60 ms, median encode share of TTFT 60 %,"
        " encoder's share of peak compute 50 %"
    )
    assert [row["trace_id"] for row in outcome.evidence] == [f"{i:02d}" for i in range(11, 1, -1)]
    assert outcome.evidence[0]["encode_ms"] == 71.0
    assert outcome.evidence[0]["n_images"] is None, "the view has no such column: not known, and not an error"
    saving = outcome.saving
    assert saving is not None
    assert (saving.low, saving.high, saving.low_share) == pytest.approx((9.0, 30.0, 0.09))
    assert outcome.severity == "medium"
    assert [advice.engine for advice in outcome.advice] == ["transformers"]
    assert all(reference.url.startswith("https://") for reference in outcome.references)


def test_fired_rules_come_first(source: duckdb.DuckDBPyConnection) -> None:
    some = [rule for rule in CORE if rule.id in ("DAT001", "DEC003", "ENC001", "MM001", "PRE001")]
    outcomes = evaluate(some, same_everywhere(FACTS), source)
    assert [o.rule for o in outcomes] == ["ENC001", "DAT001", "DEC003", "MM001", "PRE001"]
    assert [o.status for o in outcomes] == ["fired", "passed", "not_applicable", "passed", "not_applicable"]


def test_the_reason_names_what_was_not_recorded(source: duckdb.DuckDBPyConnection) -> None:
    outcomes = judged(FACTS | {"encode_mfu": None}, source)
    assert outcomes["ENC001"].reason == "not judged: encode_mfu not recorded"
    assert outcomes["PRE001"].reason == "not judged: preprocess_ms_p50 not recorded"


def test_a_short_trace_is_insufficient_and_no_facts_at_all_are_no_crash(
    source: duckdb.DuckDBPyConnection,
) -> None:
    short = judged(FACTS | {"n_requests": 8}, source)["ENC001"]
    assert (short.status, short.reason) == ("insufficient_data", "8 requests, needs 20")
    assert {o.status for o in judged({}, source).values()} <= {"not_applicable", "insufficient_data"}


def test_shares_are_not_judged_once_the_phases_do_not_add_up(source: duckdb.DuckDBPyConnection) -> None:
    outcomes = judged(FACTS | {"unexplained_requests_share": 0.5}, source)
    assert outcomes["DAT001"].status == "fired"
    assert outcomes["ENC001"].status == "not_applicable"
    assert outcomes["ENC001"].reason == (
        "not judged: encode_share_of_ttft_p50 cannot be trusted after DAT001"
    )


def test_an_empty_table_of_requests_gives_no_evidence(source: duckdb.DuckDBPyConnection) -> None:
    source.execute("CREATE TEMP TABLE requests (trace_id VARCHAR, encode_ms DOUBLE, ttft_ms DOUBLE)")
    outcome = judged(FACTS, source)["ENC001"]
    assert (outcome.status, outcome.evidence) == ("fired", [])


def test_a_fact_outside_the_vocabulary_is_the_callers_slip(source: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(ValueError, match="encode_msp50"):
        evaluate(CORE, same_everywhere({"encode_msp50": 1.0}), source)


@pytest.mark.parametrize(
    ("share", "severity"),
    [
        (None, "medium"),
        (0.2, "high"),
        (0.199, "medium"),
        (0.08, "medium"),
        (0.079, "low"),
        (0.02, "low"),
        (0.019, "info"),
    ],
)
def test_severity_follows_from_the_lower_end_of_the_saving(share: float | None, severity: str) -> None:
    assert severity_of_share(share, "medium", None) == severity


def test_a_minimum_lifts_a_severity_and_never_lowers_one() -> None:
    assert severity_of_share(0.0, "medium", "low") == "low"
    assert severity_of_share(0.5, "medium", "low") == "high"


def rule_for(tmp_path: Path, applies: str = "", when: str = "n_requests > 0") -> Any:
    path = tmp_path / "XAB001_mine.toml"
    path.write_text(
        f"""
        vtprof_rule = 1
        id = "XAB001"
        title = "A rule of a user's own pack"
        phase = "encode"
        severity = "low"
        description = "Long enough a description of the mechanism behind this rule."
        facts = "deployment_facts"
        when = "{when}"
        evidence = {{ from = "requests", where = "true", order_by = "trace_id", columns = ["trace_id"], limit = 1 }}
        references = [{{ title = "A page", url = "https://example.org/" }}]
        [[recommend]]
        action = "for old ones"
        engine = "vllm"
        versions = "<0.10"
        [[recommend]]
        action = "for new ones"
        engine = "vllm"
        versions = ">=0.10"
        [[recommend]]
        action = "for all"
        {applies}
        """,
        encoding="utf-8",
    )
    rule, faults = read_rule(path)
    assert faults == []
    return rule


@pytest.mark.parametrize(
    ("engine", "version", "status", "reason"),
    [
        ("vllm", "0.11.2", "fired", ""),
        ("vllm", "0.12.0rc1+cu130", "fired", ""),
        ("vllm", "0.10.2", "not_applicable", "for vllm >=0.11, this is 0.10.2"),
        ("vllm", "main-3f2", "not_applicable", "not judged: engine_version not recorded"),
        ("sglang", "0.5", "not_applicable", "for vllm, not sglang"),
        (None, None, "not_applicable", "not judged: engine not recorded"),
    ],
)
def test_a_rule_for_an_engine_is_judged_on_its_versions_alone(
    tmp_path: Path,
    source: duckdb.DuckDBPyConnection,
    engine: str | None,
    version: str | None,
    status: str,
    reason: str,
) -> None:
    rule = rule_for(tmp_path, 'applies = {}\n[applies.engine]\nvllm = ">=0.11"'.replace("applies = {}\n", ""))
    (outcome,) = evaluate(
        [rule], same_everywhere({"engine": engine, "engine_version": version, "n_requests": 5}), source
    )
    assert (outcome.status, outcome.reason) == (status, reason)


def test_advice_is_for_the_version_at_hand(tmp_path: Path, source: duckdb.DuckDBPyConnection) -> None:
    rule = rule_for(tmp_path)
    for facts, expected in (
        ({"engine": "vllm", "engine_version": "0.32.0"}, ["for new ones", "for all"]),
        ({"engine": "transformers", "engine_version": "5.23.0"}, ["for all"]),
        ({}, ["for old ones", "for new ones", "for all"]),
    ):
        (outcome,) = evaluate([rule], same_everywhere({"n_requests": 5, **facts}), source)
        assert [advice.action for advice in outcome.advice] == expected


def test_an_expression_that_fails_on_the_data_is_an_error_and_spoils_no_other_rule(
    tmp_path: Path, source: duckdb.DuckDBPyConnection
) -> None:
    rule = rule_for(tmp_path, when="CAST(engine AS INTEGER) > 0")
    outcomes = {o.rule: o for o in evaluate([rule, *CORE], same_everywhere(FACTS), source)}
    assert outcomes["XAB001"].status == "error"
    assert "transformers" in outcomes["XAB001"].reason
    assert outcomes["ENC001"].status == "fired"


def test_an_expression_that_would_not_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TIMEOUT_S", 0.05)
    endless = (
        "(SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range % 7 = b.range % 5)"
    )
    with one_row() as box, pytest.raises(duckdb.InterruptException):
        box.values("model_facts", Expression(endless, endless, frozenset(), frozenset()), {})


def test_an_interrupted_rule_is_an_error_that_says_so(
    tmp_path: Path, source: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: Any) -> None:
        raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")

    monkeypatch.setattr(Sandbox, "values", interrupted)
    (outcome,) = evaluate([rule_for(tmp_path)], same_everywhere({"n_requests": 5}), source)
    assert (outcome.status, outcome.reason) == ("error", "stopped: it took too long")


@pytest.mark.parametrize(
    "hostile",
    [
        "(SELECT content FROM read_text('/etc/hostname'))",
        "(SELECT count(*) FROM read_csv('/etc/passwd'))",
        "(SELECT count(*) FROM glob('/*'))",
        "getenv('HOME')",
    ],
)
def test_the_second_wall_holds_without_the_first(hostile: str) -> None:
    unchecked = Expression(hostile, hostile, frozenset(), frozenset())
    with one_row() as box, pytest.raises(duckdb.Error):
        box.values("model_facts", unchecked, {})


@pytest.mark.parametrize(
    "statement", ["SET threads = 4", "RESET enable_external_access", "ATTACH '/tmp/x.db'", "INSTALL httpfs"]
)
def test_the_sandbox_cannot_be_unlocked(statement: str) -> None:
    with one_row() as box, pytest.raises(duckdb.Error):
        box._connection.execute(statement)


def test_the_source_is_only_read(source: duckdb.DuckDBPyConnection) -> None:
    before = source.execute("SELECT * FROM requests").fetchall()
    evaluate(CORE, same_everywhere(FACTS), source)
    assert source.execute("SELECT * FROM requests").fetchall() == before
    assert source.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)


def test_a_division_by_zero_is_not_known_and_never_fires(
    tmp_path: Path, source: duckdb.DuckDBPyConnection
) -> None:
    for when in ("n_requests / 0 > 1", "0 / 0 = 0 / 0", "ttft_ms_p50 / (n_requests - 5) >= 1"):
        rule = rule_for(tmp_path, when=when)
        (outcome,) = evaluate([rule], same_everywhere({"n_requests": 5, "ttft_ms_p50": 1.0}), source)
        assert outcome.status == "not_applicable", when


def test_no_rule_saves_more_than_there_is(source: duckdb.DuckDBPyConnection) -> None:
    encode = next(rule for rule in CORE if rule.id == "ENC001")
    assert encode.saving is not None
    absurd = replace(encode.saving, high=Expression("1e308", "1e308", frozenset(), frozenset()))
    facts = same_everywhere(FACTS)
    (outcome,) = evaluate([replace(encode, saving=absurd)], facts, source)
    assert outcome.saving is not None
    assert (outcome.saving.high, outcome.saving.high_share) == (100.0, 1.0)


def test_rules_that_take_too_long_together_leave_the_rest_unjudged(
    source: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "TOTAL_S", -1.0)
    outcomes = evaluate(CORE, same_everywhere(FACTS), source)
    assert {outcome.status for outcome in outcomes} == {"error"}
    assert "took over" in outcomes[0].reason


def test_a_rule_cannot_make_counts_and_settings_unknown(
    tmp_path: Path, source: duckdb.DuckDBPyConnection
) -> None:
    rule = replace(rule_for(tmp_path), invalidates=("*",))
    outcomes = {o.rule: o for o in evaluate([rule, *CORE], same_everywhere(FACTS), source)}
    assert outcomes["XAB001"].status == "fired"
    assert outcomes["ENC001"].status == "not_applicable"
    assert outcomes["ENC001"].reason.endswith("cannot be trusted after XAB001")
    assert outcomes["ENC001"].missing == (), "recording more would not help"
    assert not [o.rule for o in outcomes.values() if o.reason.startswith("0 requests")]


def test_no_shipped_rule_stumbles_over_facts_that_are_zero(source: duckdb.DuckDBPyConnection) -> None:
    zeros: dict[str, Any] = {
        name: {"DOUBLE": 0.0, "BIGINT": 0, "BOOLEAN": False, "VARCHAR": ""}[column.type]
        for name, column in VOCABULARY.items()
    }
    outcomes = evaluate(CORE, same_everywhere(zeros | {"n_requests": 1000}), source)
    assert [(o.rule, o.reason) for o in outcomes if o.status == "error"] == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT content FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "COPY requests TO '/tmp/vtprof-out.parquet'",
        "ATTACH '/tmp/x.db'",
        "SET allowed_paths = ['/etc/hostname']",
        "RESET allowed_paths",
    ],
)
def test_beside_copied_evidence_nothing_can_be_read_or_written(
    statement: str, source: duckdb.DuckDBPyConnection
) -> None:
    with Sandbox.of_evidence(source, {"requests": ["trace_id"]}) as box:
        assert box._connection.execute("SELECT count(*) FROM requests").fetchall() == [(40,)]
        with pytest.raises(duckdb.Error):
            box._connection.execute(statement)


def test_only_evidence_of_the_subject_is_copied(source: duckdb.DuckDBPyConnection) -> None:
    only = {"requests": ("trace_id", {"03", "it's"})}
    with Sandbox.of_evidence(source, {"requests": ["trace_id", "encode_ms"]}, only) as box:
        assert box._connection.execute("SELECT trace_id, encode_ms FROM requests").fetchall() == [
            ("03", 63.0)
        ]
