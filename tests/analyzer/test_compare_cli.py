"""`vtprof compare` as a user calls it: which runs are which side, formats, exit codes, one line for a mistake."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from comparisons import SAMPLES, no_change, regression
from test_compare_json import SCHEMA

from vtprof_analyzer.cli.compare import fails_on, sides, spread
from vtprof_analyzer.regress.comparison import Comparison
from vtprof_schemas.errors import ConfigError

Call = Callable[..., tuple[int, str, str]]


@dataclass
class StandIn:
    """In the place of reading and comparing: what was read and with which options, and the answer to give."""

    answer: Comparison
    read: list[str] = field(default_factory=list)
    compared: list[tuple[list[str], list[str], Any]] = field(default_factory=list)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """Read nothing: each of the files is a run, and the answer is a regression."""
    asked = StandIn(regression())
    for name in ("a", "b", "c", "d", "e", "f", "--base"):
        (tmp_path / name).touch()

    def read_runs(path: Path, progress: Callable[[int], None], *, cache: bool) -> list[str]:
        asked.read.append(str(path))
        return [str(path)]

    def compare(base: list[str], new: list[str], options: Any) -> Comparison:
        asked.compared.append((base, new, options))
        return asked.answer

    monkeypatch.setattr("vtprof_analyzer.runs.read.read_runs", read_runs)
    monkeypatch.setattr("vtprof_analyzer.regress.compare.compare", compare)
    return asked


# --- Sides ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "base", "new"),
    [
        (["a", "b"], ["a"], ["b"]),
        (["--base", "a", "b", "c", "--new", "d", "e"], ["a", "b", "c"], ["d", "e"]),
        (["--new", "d", "--base", "a", "b"], ["a", "b"], ["d"]),
        (["--base", "a", "--base", "b", "--new", "d"], ["a", "b"], ["d"]),
        (["--base", "a", "b", "--alpha", "0.05", "--new", "d"], ["a", "b"], ["d"]),
        (["--base=a", "--new=d", "--new", "e", "f"], ["a"], ["d", "e", "f"]),
        (["--format", "terminal", "a", "b"], ["a"], ["b"]),
        (["--", "a", "--base"], ["a"], ["--base"]),
    ],
)
def test_both_ways_to_give_several_runs_a_side(
    run: Call, stand_in: StandIn, words: list[str], base: list[str], new: list[str]
) -> None:
    run("compare", *words)
    assert stand_in.compared[0][:2] == (base, new)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no paths given; compare takes two, BASE and NEW"),
        (["a"], "1 path given; compare takes two"),
        (["a", "b", "c"], "3 paths given; compare takes two"),
        (["--base", "a", "b"], "--new is missing"),
        (["--new", "a", "b"], "--base is missing"),
        (["a", "b", "--new", "c"], "a: give BASE NEW, or --base"),
        (["a", "b", "--alpha", "0"], "'0' is no probability above 0 and up to 0.2"),
        (["a", "b", "--alpha", "0.21"], "'0.21' is no probability"),
        (["a", "b", "--alpha", "nan"], "'nan' is no probability"),
        (["a", "b", "--min-effect", "1"], "'1' is no relative change from 0 to below 1"),
        (["a", "b", "--min-effect", "x"], "'x' is no relative change"),
        (["a", "b", "--format", "pdf"], "unknown format 'pdf'"),
        (["a", "b", "--fail-on", "shifts"], "unknown outcome 'shifts'"),
        (["a", "b", "--fail-on", "never,shift"], "never stands alone"),
        (["a", "b", "--frobnicate"], "--frobnicate"),
        (["a", ""], "is empty"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_read(
    run: Call, stand_in: StandIn, words: list[str], said: str
) -> None:
    code, out, err = run("compare", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert stand_in.read == []


def test_words_behind_an_option_are_its_own_up_to_the_next() -> None:
    assert spread(["--base", "a", "b", "-o", "c", "d"]) == ["--base", "a", "--base", "b", "-o", "c", "d"]
    assert spread(["--base", "a", "--", "b"]) == ["--base", "a", "--", "b"]
    assert spread(["--base", "--new", "a"]) == ["--base", "--new", "a"]
    assert spread(["--base", "a", "-"]) == ["--base", "a", "--base", "-"]


def test_both_sides_or_none_are_options() -> None:
    one, two = Path("a"), Path("b")
    assert sides([one, two], [], []) == ([one], [two])
    assert sides([], [one, two], [two]) == ([one, two], [two])
    with pytest.raises(ConfigError):
        sides([one], [one], [two])


def test_a_name_that_is_no_path_is_a_baselines(
    run: Call, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "vtprof_analyzer.runs.baselines.find", lambda name: Path("kept.parquet") if name == "main" else None
    )
    run("compare", "main", "b")
    assert stand_in.read == ["kept.parquet", "b"]
    (tmp_path / "main").mkdir()
    run("compare", "main", "ru*")
    assert stand_in.read[2:] == ["main", "ru*"]


def test_what_is_neither_a_path_nor_a_baseline_is_one_line(run: Call, stand_in: StandIn) -> None:
    code, _, err = run("compare", "a", "mian")
    assert code == 2
    assert err == "vtprof: mian: no such file or folder, nor a baseline; see `vtprof baseline list`\n"
    assert stand_in.read == []


def test_options_reach_the_comparison(run: Call, stand_in: StandIn) -> None:
    run("compare", "a", "b", "--alpha", "0.05", "--min-effect", "0.1", "--expect-change")
    options = stand_in.compared[0][2]
    assert (options.alpha, options.min_effect, options.expect_change) == (0.05, 0.1, True)
    run("compare", "a", "b")
    options = stand_in.compared[1][2]
    assert (options.alpha, options.min_effect, options.expect_change) == (0.01, 0.02, False)


# --- Exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "words", "code"),
    [
        ("regression", [], 1),
        ("masked", [], 1),
        ("improvement", [], 0),
        ("no_change", [], 0),
        ("insufficient", [], 0),
        ("regression", ["--fail-on", "never"], 0),
        ("regression", ["--fail-on", "improvement"], 1),
        ("improvement", ["--fail-on", "improvement"], 1),
        ("no_change", ["--fail-on", "shift"], 1),
        ("improvement", ["--fail-on", "shift,insufficient"], 0),
        ("insufficient", ["--fail-on", "insufficient"], 1),
        ("insufficient", ["--fail-on", "shift", "--fail-on", "insufficient"], 1),
        ("insufficient", ["--fail-on", "regression"], 0),
    ],
)
def test_the_exit_code_is_one_for_a_regression_and_for_what_was_asked(
    run: Call, stand_in: StandIn, sample: str, words: list[str], code: int
) -> None:
    stand_in.answer = SAMPLES[sample]()
    assert run("compare", "a", "b", *words)[0] == code


def test_more_load_alone_is_a_shift_too(run: Call, stand_in: StandIn) -> None:
    stand_in.answer = replace(no_change(), workload_shift=False, load_increase=True)
    assert run("compare", "a", "b", "--fail-on", "shift")[0] == 1


def test_no_list_takes_the_regression_away_but_never() -> None:
    assert fails_on([]) == {"regression"}
    assert fails_on(["shift, improvement"]) == {"regression", "shift", "improvement"}
    assert fails_on(["never"]) == frozenset()


# --- Formats ----------------------------------------------------------------------------------------------------------


def test_by_default_the_terminal_alone(run: Call, stand_in: StandIn, tmp_path: Path) -> None:
    code, out, err = run("compare", "a", "b")
    assert out.startswith("vtprof compare\n")
    assert "REGRESSION:" in out
    assert (code, err, (tmp_path / "report").exists()) == (1, "", False)


def test_json_alone_goes_to_stdout(run: Call, stand_in: StandIn, tmp_path: Path) -> None:
    out = run("compare", "a", "b", "--format", "json")[1]
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(out))
    assert not (tmp_path / "report").exists()


def test_markdown_alone_goes_to_stdout_and_to_a_folder_that_is_named(
    run: Call, stand_in: StandIn, tmp_path: Path
) -> None:
    out = run("compare", "a", "b", "--format", "markdown", "-o", "here")[1]
    assert out.startswith("### vtprof compare: ")
    assert (tmp_path / "here" / "compare.md").read_text("utf-8") == out


def test_html_is_written_with_its_numbers_beside_it_and_said(
    run: Call, stand_in: StandIn, tmp_path: Path
) -> None:
    out = run("compare", "a", "b", "--format", "terminal,html")[1]
    assert out.rstrip().splitlines()[-1] == "Full report: report/index.html"
    assert (tmp_path / "report" / "index.html").read_text("utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "report" / "compare.json").read_text("utf-8"))["verdict"] == "regression"
    assert run("compare", "a", "b", "--format", "html", "-o", "there")[1] == "Report: there/index.html\n"


# --- The whole way ----------------------------------------------------------------------------------------------------

COLUMNS = (
    "request_id", "start_unix_nano", "model", "n_text_tokens", "n_visual_tokens", "queue_ms", "preprocess_ms", "encode_ms",
    "prefill_ms", "ttft_ms", "tpot_ms", "n_output_tokens", "kv_bytes",
)  # fmt: skip


def table(path: Path, encoder: float, requests: int = 600) -> Path:
    """Write a request table: 0.1 ms a visual token in the encoder, by a factor, and a jitter of some percent."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for n in range(requests):
            jitter = 1 + ((n * 7_919) % 101 - 50) / 1_000
            text, visual = 50 + n % 200, 200 + (n * 37) % 900
            encode, prefill = 0.1 * visual * encoder * jitter, 0.02 * (text + visual) * jitter
            ttft = 5 + 2 + encode + prefill
            rows.writerow([
                n, 1_795_269_720_000_000_000 + n * 500_000_000, "m", text, visual, 2, 5 * jitter, encode, prefill,
                ttft + 5 * (jitter - 1), 10 * jitter, 100, (text + visual + 99) * 57_344,
            ])  # fmt: skip
    return path


def test_a_slower_encoder_in_a_request_table_is_found_and_named(run: Call, tmp_path: Path) -> None:
    base, new = table(tmp_path / "base.csv", 1.0), table(tmp_path / "new.csv", 1.4)
    code, out, _ = run("compare", base, new, "--format", "json")
    document = json.loads(out)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert (code, document["verdict"]) == (1, "regression")
    assert document["causes"][0]["phase"] == "encode"
    assert document["causes"][0]["effect_ratio"] == pytest.approx(0.4, abs=0.02)


def test_text_and_json_load_neither_charts_nor_a_data_frame_library(tmp_path: Path) -> None:
    base, new = table(tmp_path / "base.csv", 1.0, 200), table(tmp_path / "new.csv", 1.0, 200)
    show = (
        "import json, sys\nsys.argv = ['vtprof', *sys.argv[1:]]\nfrom vtprof_analyzer.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED ' + json.dumps(sorted(sys.modules)))"
    )
    for name in ("terminal", "json"):
        words = [sys.executable, "-c", show, "compare", str(base), str(new), "--format", name]
        out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        loaded = set(json.loads(out.rpartition("LOADED ")[2]))
        assert (
            loaded & {"altair", "vl_convert", "polars", "scipy", "jsonschema", "vtprof_analyzer.report.model"}
            == set()
        )
