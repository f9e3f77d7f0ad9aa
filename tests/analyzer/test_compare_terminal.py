"""A comparison in a terminal: where the change of TTFT comes from, the tables, warnings and what to trust."""

import re
from dataclasses import replace

import pytest
from comparisons import (
    SAMPLES,
    effect,
    improvement,
    insufficient,
    masked,
    no_change,
    regression,
    side,
    two_models,
)
from rich.cells import cell_len

from vtprof_analyzer.regress.comparison import Comparison, Decomposition, Part
from vtprof_analyzer.report import (
    compare_html,
    compare_markdown,
    compare_tables,
    compare_terminal,
    compare_ttft,
)
from vtprof_analyzer.report.compare_headline import sentence
from vtprof_analyzer.report.compare_phrases import needed, noise


def terminal(comparison: Comparison, width: int = 80) -> str:
    """Return the terminal's text with single blanks, so that it does not matter where lines break."""
    return " ".join(compare_terminal.render(comparison, width=width).split())


# --- Where the change of TTFT comes from ------------------------------------------------------------------------------


def _number(text: str) -> float:
    return float(text.removesuffix(" ms").replace(",", "").replace("−", "-").replace("+", ""))


@pytest.mark.parametrize("name", ["regression", "no_change", "masked", "improvement"])
def test_what_is_shown_of_ttft_adds_up_in_its_own_digits(name: str) -> None:
    told = compare_ttft.budget(SAMPLES[name]())
    assert told is not None
    parts = sum(_number(row.shown_ms) for row in told.rows)
    assert _number(told.base) + parts == pytest.approx(_number(told.new), abs=1e-9)


def test_rounding_is_made_up_for_where_it_costs_least() -> None:
    # 0.14 three times is 0.42: rounded one by one 0.3, so that one part has to say 0.2 of 100.0 -> 100.4.
    small = [Part(name, 0.14) for name in ("mix", "load", "encode")]
    parts = (*small, Part("prefill", 50.0), Part("queue", -50.0))
    told = compare_ttft.budget(replace(regression(), decomposition=Decomposition(100.0, 100.42, parts)))
    assert told is not None
    assert [row.shown_ms for row in told.rows] == ["+0.2 ms", "+0.1 ms", "+0.1 ms", "+50.0 ms", "−50.0 ms"]


def test_bars_share_a_zero_and_a_scale() -> None:
    lines = compare_terminal.render(masked()).splitlines()
    mix, encode = (
        next(line for line in lines if line.startswith(f"  {name}")) for name in ("workload mix", "encode")
    )
    # Of 24 cells 102 / 127 are left of zero: 19 and a half; 24 / 127 are right of it: 4 and a half.
    assert mix.count("█") == 19
    assert encode.index("█") == mix.rindex("█") + 1
    assert encode.count("█") == 4


def test_where_ttft_is_not_known_no_zero_is_shown() -> None:
    text = terminal(insufficient())
    assert "Where the change of TTFT comes from Not known:" in text
    assert (
        compare_ttft.budget(replace(regression(), decomposition=Decomposition(float("nan"), 1.0, ()))) is None
    )


# --- The whole text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [60, 80, 110])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    text = compare_terminal.render(SAMPLES[name](), width=width, full_report="a/long/way/to/index.html")
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_the_verdict_comes_first_then_ttft_effects_workload_strata_figures_and_trust() -> None:
    text = compare_terminal.render(regression(), full_report="report/index.html")
    order = [
        "REGRESSION:", "Where the change of TTFT", "Effects, at like", "What differs in the workload",
        "Effects by visual tokens", "Raw times", "Requests as they came", "Can this be trusted?", "Full report",
    ]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_an_effect_is_a_row_with_interval_outcome_mde_and_requests() -> None:
    rows = [line.split("  ") for line in compare_terminal.render(regression()).splitlines()]
    cells = [[word.strip() for word in row if word.strip()] for row in rows]
    assert ["encode", "+8.3 %", "+5.9 to +10.7 %", "regression", "2.9 %", "2,400", "2,410"] in cells
    assert ["encode, tail", "+42 %", "+22 to +62 %", "regression", "–", "2,400", "2,410"] in cells
    assert ["KV per token", "–", "–", "not judged", "–", "0", "0"] in cells


def test_what_explains_an_effect_that_is_no_finding_is_said() -> None:
    why = "requests wait longer because more of them arrive"
    told = replace(no_change(), effects=(effect("queue", 0.4, 0.1, why_not=why),))
    assert f"queue, explained: {why}" in terminal(told)


def test_what_can_hardly_be_judged_is_not_judged_in_every_text() -> None:
    vague = replace(
        no_change(), effects=(effect("encode", 0.0, 0.02), effect("encode", 0.4, 9.0, kind="tail", mde=None))
    )
    assert "; not judged: tail of encode." in sentence(vague)
    assert "not judged: an MDE above 50 % or an interval wider than a factor of three" in terminal(vague)
    assert "| encode, tail | +40 % | −860 to +940 % | not judged |" in compare_markdown.render(vague)


def test_warnings_stand_below_the_verdict_and_say_that_much_was_left_out() -> None:
    odd = replace(
        no_change(), base=side("a", 950, skipped={"aborted": 50}),
        new=side("b", 940, skipped={"aborted": 50, "timeout": 10}),
        warnings=("t.csv: t.csv: line 2: ttft_ms is no number",),
    )  # fmt: skip
    text = terminal(odd)
    # 50 of 1,000 are 5 %, 60 of 1,000 more.
    assert "! BASE" not in text
    line = "! NEW: 6 % of its requests were left out, and the rest may be of another kind: 50 aborted, 10 timeout"
    assert text.index("NO REGRESSION") < text.index(line) < text.index("Where the change of TTFT")
    assert "! t.csv: line 2: ttft_ms is no number" in text
    assert line.removeprefix("! NEW: ") in " ".join(compare_html.render(odd).split())
    assert "of its requests were left out" in compare_markdown.render(odd).split("<details>")[0]


def test_few_like_requests_are_a_reason_for_doubt() -> None:
    told = replace(no_change(), effects=(effect("encode", 0.0, 0.1, overlap=0.42),))
    assert "encode: 42 % of NEW's requests have like requests in BASE" in terminal(told)
    assert "have like requests" not in terminal(no_change())


def test_strata_are_shown_where_their_interval_is_clear_of_zero() -> None:
    text = compare_terminal.render(regression())
    block = text.split("Effects by visual tokens")[1].split("\n\n")[0]
    assert [line.split()[0] for line in block.splitlines()[2:5]] == ["encode"] * 3
    assert "1,025 to 4,096" in block
    assert "95 % interval" in block
    assert "intervals: 95 %, each by itself, run-to-run noise included" in " ".join(block.split())
    assert "95 %, each by itself" in compare_markdown.render(regression())


def test_strata_of_several_models_have_a_table_each() -> None:
    rows = regression().strata
    other = tuple(replace(row, model="InternVL3-8B", ci_low=-1.0) for row in rows)
    text = terminal(replace(two_models(), strata=(*rows, *other)))
    assert "Effects of Qwen2.5-VL-7B by visual tokens, intervals clear of zero" in text
    assert "Effects of InternVL3-8B by" not in text
    assert "no room here: model" not in text
    whole = compare_tables.strata(replace(two_models(), strata=(*rows, *other)), brief=False)
    assert len({detail.anchor for detail in whole}) == len(whole) == 4
    none = terminal(replace(two_models(), strata=other))
    assert none.count("No stratum has an interval clear of zero.") == 2


def test_raw_encode_times_say_that_they_are_of_requests_without_images_too() -> None:
    assert "encode: of all requests that tell it, also those without images" in terminal(regression())
    calm = [row for row in regression().metrics if row.metric != "encode_ms"]
    assert "those without images" not in terminal(replace(regression(), metrics=tuple(calm)))


def test_each_model_has_its_table() -> None:
    text = terminal(two_models())
    assert "Effects of Qwen2.5-VL-7B, at like images and load" in text
    assert "Effects of InternVL3-8B, at like images and load" in text


def test_trust_says_what_was_left_out_how_noisy_runs_are_and_what_would_help() -> None:
    text = terminal(regression())
    assert "BASE: left out: 12 aborted, 2 negative duration" in text
    assert "run-to-run noise 0.8 % (standard deviation of the largest phase), assumed" in text
    assert "takes about 1,150 requests a side, in as many runs as now" in text
    assert "measured between the runs of a side" in noise(improvement())
    assert "about 4 runs a side" in needed(improvement())
    assert "run-to-run noise 0.75 %" in noise(replace(regression(), run_noise_ratio=0.0075))
    assert "! other device: 1 x NVIDIA H200 in BASE, 1 x NVIDIA B200 in NEW" in terminal(improvement())
    assert "both sides: Qwen2.5-VL-7B" in text
    assert "NEW: Qwen2.5-VL-7B · vllm 0.33.0 · 1 x NVIDIA B200" in terminal(improvement())


def test_what_is_not_known_is_said() -> None:
    text = terminal(insufficient())
    assert "engine not recorded · device not recorded" in text
    assert "time not recorded" in text


def test_without_colour_there_is_no_escape_sequence_and_with_it_the_words_are_the_same() -> None:
    plain, coloured = (compare_terminal.render(regression(), color=color) for color in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split()
