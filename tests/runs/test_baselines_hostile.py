"""Baseline files that are damaged, foreign, newer or built to break a reader: one line, or the good part and a count."""

import json
import math
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from baseline_runs import START_NS, a_run
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.runs import baseline_facts, baseline_file, baseline_show, baselines
from vtprof_schemas.errors import ConfigError, DataError, VtprofError

ROW: Mapping[str, str] = {
    "run": "1", "request_id": "'a'", "start_unix_nano": f"{START_NS}::BIGINT", "model": "'Qwen'", "ttft_ms": "10.0::DOUBLE",
    "weight": "1.0::DOUBLE",
}  # fmt: skip
RUN: Mapping[str, Any] = {"label": "traces", "requests": 1, "models": ["Qwen"]}
TOLD: Mapping[str, Any] = {"schema_version": 1, "runs": [RUN]}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file that says it is a baseline: rows as SQL expressions by column, and what it tells of itself."""

    def call(*rows: Mapping[str, str], told: Any = TOLD, source: str | None = None) -> Path:
        file = tmp_path / "x.parquet"
        selects = [", ".join(f"{value} AS {name}" for name, value in row.items()) for row in rows or (ROW,)]
        query = source or " UNION ALL BY NAME ".join(f"SELECT {one}" for one in selects)
        text = (told if isinstance(told, str) else json.dumps(told)).replace("'", "''")
        with duckdb.connect() as db:
            db.execute(
                f"COPY ({query}) TO '{file}' (FORMAT parquet, KV_METADATA {{'vtprof.baseline': '{text}'}})"
            )
        return file

    return call


def only(file: Path) -> Run:
    (run,) = baselines.load(file)
    everything(file)
    return run


def everything(file: Path) -> None:
    """Do all that is done with a baseline."""
    baseline, runs = baselines.read(file)
    baseline_show.show_text(baseline, runs)
    baseline_show.as_json(baseline_show.show_document(baseline, runs))
    baseline_show.list_text(file.parent, [baseline], [])


def line(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        baselines.load(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_the_file_that_the_others_are_variations_of_is_read(write: Write) -> None:
    run = only(write())
    assert (list(run.requests.ids), run.requests.models, run.requests.ttft_ms.tolist()) == (
        ["a"],
        ("Qwen",),
        [10.0],
    )
    assert (run.skipped, run.notes) == ({}, ())
    assert np.isnan(run.requests.encode_ms).all()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("ttft_ms", "-1.0::DOUBLE", "negative ttft_ms"),
        ("ttft_ms", "'inf'::DOUBLE", "infinite ttft_ms"),
        ("ttft_ms", "'-inf'::DOUBLE", "infinite ttft_ms"),
        ("ttft_ms", "1e12::DOUBLE", "impossible ttft_ms"),
        ("n_visual_tokens", "-3", "negative n_visual_tokens"),
        ("encoder_cache_hit", "1.5::DOUBLE", "impossible encoder_cache_hit"),
        ("weight", "0.0::DOUBLE", "weight not above 0"),
        ("weight", "NULL::DOUBLE", "weight not above 0"),
        ("start_unix_nano", "-1", "no start time"),
        ("start_unix_nano", "NULL::BIGINT", "no start time"),
        ("run", "2", "request of no run that the baseline tells of"),
        ("run", "0", "request of no run that the baseline tells of"),
        ("run", "NULL::INTEGER", "request of no run that the baseline tells of"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_is_left_out_and_counted(
    write: Write, column: str, value: str, reason: str
) -> None:
    good = {column: f"NULL::{'BIGINT' if column == 'n_visual_tokens' else 'DOUBLE'}", **ROW}
    run = only(write({**good, "request_id": "'bad'", column: value}, good))
    assert (list(run.requests.ids), run.skipped) == (["a"], {reason: 1})


def test_nan_and_null_are_not_known(write: Write) -> None:
    run = only(write({**ROW, "ttft_ms": "'nan'::DOUBLE"}, {**ROW, "ttft_ms": "NULL::DOUBLE"}))
    assert np.isnan(run.requests.ttft_ms).tolist() == [True, True]


@pytest.mark.parametrize("type_", ["VARCHAR", "BLOB", "DATE", "DOUBLE[]", "STRUCT(a INTEGER)"])
def test_a_column_of_a_wrong_type_is_unknown_and_said(write: Write, type_: str) -> None:
    run = only(write({**ROW, "ttft_ms": f"NULL::{type_}"}))
    assert np.isnan(run.requests.ttft_ms).all()
    assert any("column ttft_ms is" in note for note in run.notes)


@pytest.mark.parametrize("type_", ["TINYINT", "UBIGINT", "FLOAT", "DECIMAL(9, 3)", "HUGEINT"])
def test_numbers_of_any_type_are_numbers(write: Write, type_: str) -> None:
    assert only(write({**ROW, "ttft_ms": f"12::{type_}"})).requests.ttft_ms.tolist() == [12.0]


def test_ids_and_models_of_wrong_types_are_unknown_and_said(write: Write) -> None:
    run = only(write({**ROW, "request_id": "7", "model": "[1]"}, ROW | {"request_id": "8", "model": "[2]"}))
    assert list(run.requests.ids) == ["1", "2"]
    assert {run.requests.models[index] for index in run.requests.model} == {""}
    assert len([note for note in run.notes if "request_id" in note or "model" in note]) == 2


@pytest.mark.parametrize("column", ["request_id", "model", "ttft_ms", "weight"])
def test_a_missing_column_is_unknown(write: Write, column: str) -> None:
    run = only(write({name: value for name, value in ROW.items() if name != column}))
    assert (len(run.requests), run.requests.weight.tolist()) == (1, [1.0])


@pytest.mark.parametrize("column", ["run", "start_unix_nano"])
def test_without_runs_or_starts_there_is_no_baseline(write: Write, column: str) -> None:
    assert column in line(write({name: value for name, value in ROW.items() if name != column}))
    assert column in line(write({**ROW, column: "'x'"}))


def test_rows_in_any_order_come_in_order_of_run_and_start(write: Write) -> None:
    rows = [
        {**ROW, "run": str(run), "start_unix_nano": f"{START_NS + second}::BIGINT", "request_id": f"'{run}{second}'"}
        for run, second in ((2, 1), (1, 3), (2, 0), (1, 2))
    ]  # fmt: skip
    first, second = baselines.load(write(*rows, told={**TOLD, "runs": [RUN, RUN]}))
    assert (list(first.requests.ids), list(second.requests.ids)) == (["12", "13"], ["20", "21"])


def test_text_without_end_is_cut(write: Write) -> None:
    run = only(write({**ROW, "request_id": "repeat('x', 100000)", "model": "repeat('y', 100000)"}))
    assert len(run.requests.ids[0]) == 128
    assert max(map(len, run.requests.models)) == 500


def test_more_requests_than_a_baseline_holds_are_refused_unread(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ", ".join(f"{value} AS {name}" for name, value in ROW.items())
    file = write(source=f"SELECT {columns} FROM range(1001)")
    assert len(only(file).requests) == 1001
    monkeypatch.setattr(baseline_file, "MOST_REQUESTS", 1000)
    assert "more than 1,000 requests" in line(file)


def test_what_unpacks_to_more_than_any_baseline_is_refused_unread(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ", ".join(f"{value} AS {name}" for name, value in ROW.items() if name != "request_id")
    file = write(source=f"SELECT {columns}, repeat(i::VARCHAR, 10000) AS request_id FROM range(100) t(i)")
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(baseline_file, "_MOST_UNPACKED_BYTES", 1_000_000)
    assert "as more would take" in line(file)


def test_more_models_than_anyone_serves_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_file, "MOST_MODELS", 2)
    assert "more than 2 models" in line(write(*({**ROW, "model": f"'{n}'"} for n in range(3))))


def test_a_file_that_was_changed_is_said(write: Write) -> None:
    (note,) = only(write(ROW, {**ROW, "request_id": "'b'"})).notes
    assert "tells of 1 request and holds 2" in note


@pytest.mark.parametrize(
    "told",
    ["", "no JSON", "[]", "null", "{}", "[" * 100_000, {"schema_version": True, "runs": [RUN]}, {"schema_version": 0},
     {**TOLD, "runs": []}, {**TOLD, "runs": None}, {**TOLD, "runs": {"a": 1}}, {**TOLD, "runs": [RUN] * 1001}],
    ids=range(12),
)  # fmt: skip
def test_metadata_that_tell_nothing_are_one_line(write: Write, told: Any) -> None:
    file = write(told=told)
    line(file)
    assert baselines.listed(file.parent)[0] == []


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = (*(one for one in baseline_facts.RunFacts.__dataclass_fields__), "unknown")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, ODD)) | ODD)
@settings(max_examples=200)
def test_metadata_of_a_run_may_be_anything(told: Any) -> None:
    facts = baseline_facts.run_facts(told if isinstance(told, dict) else {})
    assert all(value is None or isinstance(value, str) for value in (facts.label, facts.engine, facts.device))
    assert all(isinstance(value, str) for value in (*facts.models, *facts.notes, *facts.skipped))
    assert all(type(value) is int and value >= 0 for value in (facts.requests, *facts.skipped.values()))


def test_absurd_metadata_leave_the_requests_usable(write: Write) -> None:
    absurd = {
        "label": {"a": 1}, "engine": ["vllm"], "device": 7, "settings": "s" * 10**6, "models": "Qwen", "skipped": [1],
        "notes": {"a": "b"}, "requests": -1, "begin_unix_nano": 10**400, "end_unix_nano": math.nan, "saved_unix_nano": 1e9,
    }  # fmt: skip
    told = {
        **TOLD,
        "saved_unix_nano": -1,
        "note": {"x": []},
        "vtprof_version": 3,
        "name": "../x",
        "runs": [absurd],
    }
    run = only(write(told=told))
    assert len(run.requests) == 1
    assert (run.engine, run.device, run.skipped, len(run.settings or "")) == (None, None, {}, 500)


def test_a_newer_file_is_neither_read_nor_replaced(write: Write) -> None:
    file = write(told={"schema_version": 2})
    assert "newer vtprof" in line(file)
    for given_ in ({"add": True}, {"force": True}):
        with pytest.raises(DataError, match="newer vtprof"):
            baselines.save("x", [a_run(0)], file.parent, **given_)
    assert baselines.is_baseline(file)
    baselines.remove("x", file.parent)
    assert not file.exists()


def test_a_damaged_baseline_is_replaced_by_force_and_not_added_to(write: Write) -> None:
    file = write(told="{}")
    with pytest.raises(DataError):
        baselines.save("x", [a_run(0)], file.parent, add=True)
    assert len(baselines.load(baselines.save("x", [a_run(0)], file.parent, force=True))) == 1


def test_files_of_other_kinds_are_one_line(tmp_path: Path) -> None:
    for content in (
        b"",
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1" + b"\xff" * 8 + b"PAR1",
        b"\x1f\x8b" * 50,
        os.urandom(100),
    ):
        file = tmp_path / "x.parquet"
        file.write_bytes(content)
        line(file)
    os.mkfifo(tmp_path / "pipe.parquet")
    line(tmp_path / "pipe.parquet")
    with pytest.raises(ConfigError):
        baselines.load(tmp_path / "nothing.parquet")
    with pytest.raises(VtprofError):
        baselines.load(tmp_path)


def test_a_file_that_was_cut_off_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = baselines.save("x", [a_run(0)], tmp_path).read_bytes()
    file = tmp_path / "cut.parquet"
    for size in range(0, len(whole), 199):
        file.write_bytes(whole[:size])
        line(file)


def test_a_file_with_broken_bytes_is_read_or_refused_and_breaks_nothing(tmp_path: Path) -> None:
    whole = baselines.save("x", [a_run(0), a_run(1)], tmp_path).read_bytes()
    file, chance, refused = tmp_path / "broken.parquet", random.Random(8), 0
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(3):
            broken[chance.randrange(4, len(whole) - 8)] = chance.choice((0, 0x7F, 0x80, 0xFF))
        file.write_bytes(broken)
        try:
            everything(file)
        except VtprofError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 0
