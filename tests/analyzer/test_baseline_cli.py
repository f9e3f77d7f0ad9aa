"""`vtprof baseline` as a user runs it: save, list, show and remove, valid documents, one line for a mistake."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vtprof_analyzer.runs import baselines

SCHEMA = json.loads(resources.files("vtprof_schemas").joinpath("baseline.schema.json").read_text("utf-8"))
Vtprof = Callable[..., tuple[int, str, str]]
HEAD = (
    "request_id,start_unix_nano,model,n_text_tokens,n_visual_tokens,n_output_tokens,kv_bytes,queue_ms,preprocess_ms,"
    "encode_ms,prefill_ms,ttft_ms,tpot_ms"
)
START = 1_763_800_000_000_000_000


def table(
    path: Path, requests: int = 5, model: str = "Qwen2.5-VL-7B", hours: int = 0, slower: int = 1
) -> Path:
    """Write a request table: TTFT 10, 20, 30 ... ms times ``slower``, 100 visual tokens each."""
    rows = [
        f"r{number},{START + hours * 3_600_000_000_000 + number * 1_000_000_000},{model},20,100,9,1000,"
        f"{number * slower},{number * slower},{4 * number * slower},{4 * number * slower},{10 * number * slower},5"
        for number in range(1, requests + 1)
    ]
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


@pytest.fixture(autouse=True)
def no_folder_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(baselines.ENVIRONMENT, raising=False)


def document(run: Vtprof, *words: object) -> Any:
    code, out, err = run("baseline", *words, "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    return found


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_what_is_saved_is_listed_and_shown(run: Vtprof, tmp_path: Path) -> None:
    code, out, err = run("baseline", "save", "main", table(tmp_path / "a.csv"), "--note", "of the release")
    assert (code, err) == (0, "")
    assert out.startswith("baseline main: 1 run, 5 requests, ")
    assert out.rstrip().endswith("main.parquet")
    assert (tmp_path / ".vtprof" / "baselines" / "main.parquet").is_file()
    (listed,) = document(run, "list")["baselines"]
    assert (listed["name"], listed["note"], len(listed["runs"])) == ("main", "of the release", 1)
    (shown,) = document(run, "show", "main")["baseline"]["runs"]
    assert (shown["requests"], shown["models"]) == (5, ["Qwen2.5-VL-7B"])
    # 10 to 50 ms: the median is 30, and 95 % of the way from the first to the last of five is 48.
    assert (shown["ttft_ms_p50"], shown["ttft_ms_p95"]) == (30, pytest.approx(48))
    assert (shown["tpot_ms_p50"], shown["visual_tokens_mean"]) == (5, 100)
    assert (shown["begin_unix_nano"], shown["end_unix_nano"]) == (START + 10**9, START + 5 * 10**9)


def test_the_terminal_shows_runs_and_what_they_tell_of_noise_within_80_columns(
    run: Vtprof, tmp_path: Path
) -> None:
    run("baseline", "save", "main", table(tmp_path / "a.csv"), "--note", "of the release, " * 9)
    code, out, _ = run("baseline", "show", "main")
    assert code == 0
    assert "30.0 ms" in out
    assert "One run: noise from run to run of 0.75 % is assumed" in out
    assert "`vtprof baseline save main PATH --add`" in " ".join(out.split())
    listed = run("baseline", "list")[1]
    assert "main" in listed
    assert "Qwen2.5-VL-7B" in listed
    assert max(map(len, (out + listed).splitlines())) <= 80


def test_three_runs_tell_the_spread_of_their_medians(run: Vtprof, tmp_path: Path) -> None:
    tables = [table(tmp_path / f"{slower}.csv", hours=slower, slower=slower) for slower in (1, 2, 3)]
    assert run("baseline", "save", "main", *tables[:2])[0] == 0
    assert document(run, "show", "main")["median_spread_ratio"] == {}
    assert run("baseline", "save", "main", tables[2], "--add")[0] == 0
    spreads = document(run, "show", "main")["median_spread_ratio"]
    # Medians of 30, 60 and 90 ms: a standard deviation of 30 around 60. TPOT is the same in all.
    assert (spreads["ttft_ms"], spreads["encode_ms"], spreads["tpot_ms"]) == (0.5, 0.5, 0)
    out = run("baseline", "show", "main")[1]
    assert "medians of 3 runs" in out
    assert "50 %" in out


def test_the_folder_is_that_of_the_environment_unless_one_is_given(
    run: Vtprof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_table = table(tmp_path / "a.csv")
    monkeypatch.setenv(baselines.ENVIRONMENT, str(tmp_path / "ours"))
    assert run("baseline", "save", "main", run_table)[0] == 0
    assert run("baseline", "save", "other", run_table, "--dir", tmp_path / "theirs")[0] == 0
    assert [p.name for p in (tmp_path / "ours").iterdir()] == ["main.parquet"]
    assert [p.name for p in (tmp_path / "theirs").iterdir()] == ["other.parquet"]
    assert [one["name"] for one in document(run, "list")["baselines"]] == ["main"]


def test_without_baselines_the_list_says_how_to_make_one(run: Vtprof) -> None:
    code, out, err = run("baseline", "list")
    assert (code, err) == (0, "")
    assert "vtprof baseline save NAME PATH" in out
    assert document(run, "list")["baselines"] == []


def test_a_name_that_is_taken_needs_add_or_force(run: Vtprof, tmp_path: Path) -> None:
    first, second = table(tmp_path / "a.csv"), table(tmp_path / "b.csv", requests=7, hours=2)
    run("baseline", "save", "main", first)
    code, _, err = run("baseline", "save", "main", second)
    assert (code, err.count("\n")) == (2, 1)
    assert "--add" in err
    assert "--force" in err
    assert run("baseline", "save", "main", second, "--force")[0] == 0
    assert [one["requests"] for one in document(run, "show", "main")["baseline"]["runs"]] == [7]


def test_a_name_that_is_taken_is_refused_before_anything_is_read(run: Vtprof, tmp_path: Path) -> None:
    run("baseline", "save", "main", table(tmp_path / "a.csv"))
    err = run("baseline", "save", "main", tmp_path / "not_there")[2]
    assert "exists" in err
    assert "not_there" not in err


def test_a_run_of_another_model_is_refused_and_taken_with_force(run: Vtprof, tmp_path: Path) -> None:
    run("baseline", "save", "main", table(tmp_path / "a.csv"))
    other = table(tmp_path / "b.csv", model="InternVL3-8B", hours=2)
    code, _, err = run("baseline", "save", "main", other, "--add")
    assert (code, err.count("\n")) == (2, 1)
    assert "Qwen2.5-VL-7B there, InternVL3-8B here" in err
    assert run("baseline", "save", "main", other, "--add", "--force")[0] == 0
    assert "run 1: Qwen2.5-VL-7B; run 2: InternVL3-8B" in run("baseline", "show", "main")[1]


def test_what_was_left_out_is_said(run: Vtprof, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    with path.open("a") as file:
        file.write(f"bad,{START + 9_000_000_000},Qwen2.5-VL-7B,20,100,9,1000,1,1,4,4,-10,5\n")
    code, out, err = run("baseline", "save", "main", path)
    assert code == 0
    assert "5 requests" in out
    assert "1 left out" in err
    assert "ttft_ms" in err
    assert "ttft_ms 1" in run("baseline", "show", "main")[1]


def test_a_file_that_is_none_is_listed_beside_the_others(run: Vtprof, tmp_path: Path) -> None:
    run("baseline", "save", "main", table(tmp_path / "a.csv"))
    foreign = tmp_path / ".vtprof" / "baselines" / "odd.parquet"
    foreign.write_text("odd")
    found = document(run, "list")
    assert [one["name"] for one in found["baselines"]] == ["main"]
    assert [Path(one["file"]).name for one in found["unreadable"]] == ["odd.parquet"]
    code, out, _ = run("baseline", "list")
    assert code == 0
    assert "odd.parquet" in out


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", ".hidden", "-x", "", "a b", "x.parquet", "é", "a" * 101]
)
def test_a_name_that_is_none_is_one_line(run: Vtprof, tmp_path: Path, name: str) -> None:
    for words in (
        ("save", "--", name, table(tmp_path / "a.csv")),
        ("show", "--", name),
        ("remove", "--", name),
    ):
        code, out, err = run("baseline", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "no name for a baseline" in err
    assert not (tmp_path / ".vtprof").exists()


def test_a_name_that_nobody_saved_is_one_line(run: Vtprof) -> None:
    for command in ("show", "remove"):
        code, out, err = run("baseline", command, "main")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "no baseline 'main'" in err


def test_remove_takes_the_file_away(run: Vtprof, tmp_path: Path) -> None:
    run("baseline", "save", "main", table(tmp_path / "a.csv"))
    assert run("baseline", "remove", "main")[0] == 0
    assert list((tmp_path / ".vtprof" / "baselines").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(run: Vtprof, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in ("file", "file/below"):
        code, _, err = run("baseline", "save", "main", table(tmp_path / "a.csv"), "--dir", tmp_path / where)
        assert (code, err.count("\n")) == (2, 1)
        assert "--dir" in err


def test_text_of_a_file_styles_no_terminal(run: Vtprof, tmp_path: Path) -> None:
    run(
        "baseline",
        "save",
        "main",
        table(tmp_path / "a.csv", model="\x1b[31mred"),
        "--note",
        "\x1b]0;title\x07",
    )
    for words in (("list",), ("show", "main")):
        code, out, _ = run("baseline", *words)
        assert code == 0
        assert "\x1b" not in out
    document(run, "show", "main")
