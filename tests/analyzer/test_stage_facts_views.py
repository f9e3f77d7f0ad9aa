"""The facts views: every name of the rules' vocabulary with its type, and rows that say what a run of their own would."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from facts_fixture import MS, facts
from otlp_builder import request
from stage_fixture import staged
from synthetic.day import make_day
from synthetic.scenarios import TWO_ENGINES

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.facts import read_facts
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACT_VIEWS, FACTS
from vtprof_schemas import names

OF_THE_WHOLE_RUN = {"missing_spans_share"}
"""What was lost names no model and no process."""


def _types(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    return {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {view}").fetchall()}


def test_every_fact_and_evidence_column_of_the_vocabulary_exists_with_its_type(tmp_path: Path) -> None:
    with staged(tmp_path, request(0, 900, {names.TTFT_NS: 500}, queue=(0, 100))) as db:
        for view in FACT_VIEWS:
            found = _types(db, view)
            assert {name: found.get(name) for name in FACTS} == {
                name: fact.type for name, fact in FACTS.items()
            }, view
            assert found["subject"] == "VARCHAR"
        for table, columns in EVIDENCE_COLUMNS.items():
            found = _types(db, f"evidence.{table}")
            assert {name: found.get(name) for name in columns} == {
                name: c.type for name, c in columns.items()
            }, table


def test_a_run_without_requests_knows_nothing_and_fails_nowhere(tmp_path: Path) -> None:
    with staged(tmp_path, []) as db:
        rows = read_facts(db)
        assert [row.subject for row in rows["model_facts"]] == [None]
        assert rows["instance_facts"] == rows["phase_facts"] == []
        known = {name for name, value in rows["deployment_facts"][0].values.items() if value is not None}
        # Counts alone are told: of nothing, none.
        assert known == {"n_requests", "models", "instances"}


def test_one_model_in_one_process_says_the_same_in_every_view(tmp_path: Path) -> None:
    spans = [
        span
        for trace in (1, 2)
        for span in request(
            0,
            9 * MS,
            {names.TTFT_NS: trace * 4 * MS, names.REQUEST_MODEL: "m"},
            trace=trace,
            prefill=(0, 3 * MS),
        )
    ]
    with staged(tmp_path, spans, resource={names.SERVICE_INSTANCE_ID: "a"}) as db:
        rows = read_facts(db)
        (whole,), (model,), (process,) = (
            rows[f"{view}_facts"] for view in ("deployment", "model", "instance")
        )
        assert (whole.subject, model.subject, process.subject) == (None, "m", "a")
        assert whole.values == model.values == process.values
        assert whole.values["prefill_ms_p50"] == 3.0 and whole.values["ttft_ms_p50"] == 6.0
        assert {row.subject for row in rows["phase_facts"]} == {"prefill"}


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Analyze a day of two engines with a model each, and the traces of each engine alone: the databases."""
    folder = tmp_path_factory.mktemp("two")
    day = make_day(replace(TWO_ENGINES, seconds=20.0), 3, interference=False)
    paths = day.write(folder / "both")
    found = {}
    for name, kept in {"both": paths, "alpha": paths[0::2], "beta": paths[1::2]}.items():
        if name != "both":
            (folder / name).mkdir()
            for path in kept:
                shutil.copy(path, folder / name)
        found[name] = folder / f"{name}.duckdb"
        analyze(
            Options([folder / name], database=found[name], slo_ttft_ms=60.0, slo_tpot_ms=5.0, cache=False)
        )
    yield found
    shutil.rmtree(folder)


@pytest.mark.parametrize(("engine", "process"), [("alpha", "alpha-4000-1"), ("beta", "beta-4001-1")])
def test_a_process_and_its_model_have_the_facts_of_a_run_of_their_own(
    two_engines: dict[str, Path], engine: str, process: str
) -> None:
    with duckdb.connect(str(two_engines[engine]), read_only=True) as alone:
        expected = _told(facts(alone))
        ((model,),) = alone.execute("SELECT subject FROM model_facts").fetchall()
    with duckdb.connect(str(two_engines["both"]), read_only=True) as both:
        for view, subject in (("instance_facts", process), ("model_facts", model)):
            found = _told(facts(both, view, subject))
            assert {name for name in found if found[name] is None} == {
                n for n in expected if expected[n] is None
            }
            for name, value in expected.items():
                assert found[name] == (
                    pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
                ), name
        assert facts(both)["instances"] == facts(both)["models"] == 2


def _told(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in FACTS if name not in OF_THE_WHOLE_RUN}
