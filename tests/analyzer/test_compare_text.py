"""A comparison in words: the verdict's sentence, the terminal's tables and the comment for a pull request."""

import dataclasses
import re
from dataclasses import replace

import numpy as np
import pytest
from comparisons import (
    SAMPLES,
    effect,
    hostile,
    improvement,
    insufficient,
    masked,
    no_change,
    regression,
    side,
    two_models,
)
from rich.cells import cell_len

from vtprof_analyzer.regress import comparable
from vtprof_analyzer.regress.comparison import Comparison, Decomposition, Effect, Part, Shift
from vtprof_analyzer.regress.requests import Requests, Run
from vtprof_analyzer.report import (
    compare_headline,
    compare_html,
    compare_markdown,
    compare_tables,
    compare_terminal,
    compare_ttft,
)
from vtprof_analyzer.report.compare_headline import sentence
from vtprof_analyzer.report.compare_phrases import change, interval, mix_words, needed, noise, outcome


def terminal(comparison: Comparison, width: int = 80) -> str:
    """Return the terminal's text with single blanks, so that it does not matter where lines break."""
    return " ".join(compare_terminal.render(comparison, width=width).split())


# --- The verdict ------------------------------------------------------------------------------------------------------


def test_a_regression_is_told_with_its_phase_interval_and_what_became_of_ttft() -> None:
    one = replace(regression(), causes=regression().causes[:1])
    assert sentence(one) == (
        "REGRESSION: encode is 8.3 % slower (5.9 to 10.7 %) at like images and load; "
        "mean TTFT rose 4.6 % (612 ms → 640 ms): encode +3.4 %, queue +0.8 %, heavier requests +0.5 %, the rest −0.1 %."
    )


def test_several_causes_are_told_in_their_order_and_cut_after_three() -> None:
    told = sentence(regression())
    assert told.startswith(
        "REGRESSION: at like images and load, encode is 8.3 % slower (5.9 to 10.7 %); the tail of"
    )
    assert (
        "the tail of encode is longer, requests beyond the limit that 1.5 % of BASE passes: 1.5 % → 3.4 %"
        in told
    )
    unknown = replace(regression().causes[1], base_value=None)
    assert "the tail of encode is 42 % longer (22 to 62 %)" in sentence(
        replace(regression(), causes=(unknown,))
    )
    many = replace(regression(), causes=regression().causes[:1] * 5)
    assert sentence(many).count("encode is") == 3
    assert "; 2 more;" in sentence(many)


def test_bigger_images_and_more_load_are_no_regression_and_share_out_the_change() -> None:
    # 177.6 / 612.3 = 29.0 %, 12.2 / 612.3 = 1.99 %, 189.8 / 612.3 = 31.0 %.
    assert sentence(no_change()) == (
        "NO REGRESSION: mean TTFT rose 31 % (612 ms → 802 ms): bigger images and more requests with images +29 %, "
        "more load +2 %."
    )


def _shares(text: str) -> list[float]:
    """Return the changes of a sentence's parts of TTFT, in percent."""
    parts = re.split(r"\([^)]* → [^)]*\): ", text)[1].split(";")[0]
    return [float(number.replace("−", "-")) for number in re.findall(r"([+−][\d.,]+) %", parts)]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        # 25.5, 12.4, 26.9 and -1.6 of 65.4 are 39, 19, 41 and -2 %: 97 in all.
        ({"mix": 25.5, "load": 12.4, "queue": 26.9, "cache": -1.9, "residual": 0.3},
         "queue +41 %, heavier requests +39 %, more load +19 %, the rest −2 %"),
        # Hidden: 4.2 - 3.7 - 2.1 - 0.5 - 1.8 = -3.9 %.
        ({"mix": -2.42, "prefill": 2.75, "queue": -1.37, "load": -0.33, "residual": -1.18},
         "prefill +4.2 %, lighter requests −3.7 %, queue −2.1 %, the rest −2.3 %"),
        # What the model does not tell apart is never named as a reason.
        ({"mix": 1.0, "residual": 9.0}, "heavier requests +2 %, the rest +13 %"),
        # 1.53 + 7.65 + 6.1 = 15.3 %: the rest of nothing would be 1 %, so that the part gives way that loses least.
        ({"mix": 1.0, "load": 5.0, "queue": 4.0}, "more load +8 %, queue +6 %, heavier requests +1 %"),
        # Thirds of 1 % make 1.0 %.
        ({"mix": 0.218, "load": 0.218, "queue": 0.218}, "heavier requests +0.4 %, more load +0.3 %, queue +0.3 %"),
    ],
)  # fmt: skip
def test_the_parts_of_ttft_are_told_largest_first_and_add_up(parts: dict[str, float], told: str) -> None:
    decomposition = Decomposition(65.4, 65.4 + sum(parts.values()), tuple(map(Part, parts, parts.values())))
    text = sentence(replace(no_change(), shifts=(), decomposition=decomposition))
    assert f"ms): {told}" in text
    ratio = sum(parts.values()) / 65.4 * 100
    assert sum(_shares(text)) == pytest.approx(round(ratio, 1 if abs(ratio) < 9.95 else 0))


def test_a_cause_is_told_in_the_change_of_ttft_however_small_its_part() -> None:
    # 0.5 of 100 ms among 60 is less than a twentieth.
    parts = (Part("mix", -7.0), Part("queue", -2.5), Part("encode", 0.4))
    told = replace(masked(), decomposition=Decomposition(100.0, 90.9, parts))
    assert "smaller images −7.0 %, queue −2.5 %, encode +0.4 %." in sentence(told)


def test_a_slower_phase_that_is_outweighed_is_told_as_hidden_without_a_shift_of_the_workload_too() -> None:
    parts = (
        Part("mix", -22.0),
        Part("queue", -14.0),
        Part("load", -3.0),
        Part("encode", 24.0),
        Part("residual", -30.0),
    )
    told = replace(
        regression(), causes=regression().causes[:1], decomposition=Decomposition(600.0, 555.0, parts), shifts=()
    )  # fmt: skip
    assert not told.masked
    assert sentence(told).startswith(
        "REGRESSION, hidden by lighter requests and a shorter queue: encode is 8.3 %"
    )
    # No more than 2 % of TTFT are hidden by anything.
    parts = (Part("mix", -34.0), Part("encode", 24.0))
    calm = replace(told, decomposition=Decomposition(600.0, 590.0, parts))
    assert sentence(calm).startswith("REGRESSION: encode is 8.3 %")
    # A longer decode has no part in TTFT, and nothing hides it.
    decode = effect("decode", 0.1, 0.02, outcome="regression")
    assert sentence(replace(told, causes=(decode,))).startswith("REGRESSION: decode")


def test_a_masked_regression_says_what_hid_it() -> None:
    assert sentence(masked()) == (
        "REGRESSION, hidden by smaller images: encode is 12 % slower (10 to 14 %) at like images and load; "
        "mean TTFT fell 13 % (612 ms → 534 ms): smaller images −17 %, encode +4 %."
    )
    parts = (Part("mix", 0.1), Part("load", -90.0), Part("encode", 24.0))
    by_load = replace(masked(), decomposition=Decomposition(612.3, 546.4, parts))
    assert sentence(by_load).startswith("REGRESSION, hidden by less load: ")
    assert sentence(replace(masked(), decomposition=None)).startswith(
        "REGRESSION, hidden by the rest of TTFT: "
    )


def test_too_little_data_says_what_is_missing_and_what_it_takes() -> None:
    told = sentence(insufficient())
    assert told.startswith(
        "NOT ENOUGH DATA: encode, prefill, decode: 40 requests of BASE and 38 of NEW have it, at least 200 of each are "
        "needed; KV per token: no request tells kv_bytes; "
    )
    assert "is not known" in told
    assert "about 1,150 requests a side" in sentence(replace(insufficient(), requests_needed=1_150))
    assert "about 4 runs a side; more requests" in sentence(replace(insufficient(), runs_needed=4))


def test_an_improvement_is_faster() -> None:
    assert sentence(improvement()).startswith(
        "IMPROVEMENT: prefill is 11 % faster (8.0 to 14.0 %) at like images and"
    )


def test_kv_and_cache_are_told_in_bytes_and_misses_and_by_model_where_there_are_several() -> None:
    told = sentence(two_models())
    assert "KV of Qwen2.5-VL-7B takes 100 % more bytes per token, 56 KiB → 112 KiB" in told
    assert (
        "the encoder cache of Qwen2.5-VL-7B misses 63 % more often (51 to 75 %), hit rate 62 % → 38 %" in told
    )
    assert "better: encode" in told


def test_no_regression_says_what_would_hardly_have_shown() -> None:
    calm = replace(
        no_change(), effects=(effect("encode", 0.1, 0.12, mde=0.15), effect("queue", 0.0, 0.1, mde=0.3))
    )
    assert sentence(calm).endswith("; changes smaller than these would hardly have shown: encode 15 %.")
    assert "hardly" not in sentence(no_change())
    both = (
        effect("encode", 0.0, 0.05, mde=0.091),
        effect("encode", 0.0, 0.05, mde=0.093, model="InternVL3-8B"),
    )
    assert sentence(replace(no_change(), effects=both)).endswith(
        "shown: encode of InternVL3-8B 9.3 %, encode of Qwen2.5-VL-7B 9.1 %."
    )


def test_what_could_not_be_judged_is_not_passed_over() -> None:
    partly = replace(no_change(), effects=(*no_change().effects, *insufficient().effects[3:]))
    assert "; not judged: KV per token." in sentence(partly)


def test_workload_that_lowers_a_ttft_that_rose_is_told_as_such() -> None:
    parts = (Part("mix", -61.2), Part("encode", 122.4))
    told = replace(masked(), masked=False, decomposition=Decomposition(612.0, 673.2, parts))
    assert "mean TTFT rose 10 % (612 ms → 673 ms): encode +20 %, smaller images −10 %." in sentence(told)


def test_parts_that_are_not_known_or_of_no_ttft_are_not_told() -> None:
    for parts in ((Part("mix", float("nan")),), (Part("mix", 1e300),), ()):
        told = replace(no_change(), decomposition=Decomposition(612.3, 802.1, parts))
        assert "mean TTFT rose 31 % (612 ms → 802 ms); " in sentence(told) or sentence(told).endswith(
            "802 ms)."
        )


def test_a_mix_is_named_after_all_that_grew() -> None:
    shifts = (
        Shift("text tokens per request", 100, 150, "tokens", "mix"),
        Shift("visual tokens of requests that have them", 1_000, 1_300, "tokens", "mix"),
        Shift("images per request that has them", 2, 1, "images", "mix"),
        Shift("arrivals", 1, 2, "requests/s", "load"),
    )
    assert mix_words(shifts, heavier=True) == "bigger images and longer text"
    assert mix_words(shifts, heavier=False) == "fewer images"
    assert mix_words((), heavier=True) == "heavier requests"


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (0.083, "+8.3 %"),
        (-0.31, "−31 %"),
        (0.0, "0.0 %"),
        (-0.0004, "0.0 %"),
        (12.0, "+1,200 %"),
        (1e300, "+1e+302 %"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_a_change_has_its_sign_and_few_digits(ratio: float | None, shown: str) -> None:
    assert change(ratio) == shown


def test_both_ends_of_an_interval_have_the_same_digits() -> None:
    assert interval(0.059, 0.107) == "+5.9 to +10.7 %"
    assert interval(-0.14, -0.08, signed=False) == "8.0 to 14.0 %"
    assert interval(-0.06, 0.12, signed=False) == "−6.0 to +12.0 %"
    assert interval(0.22, 0.62) == "+22 to +62 %"
    assert interval(None, 0.1) == interval(0.1, float("inf")) == "–"


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


# --- The terminal -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (effect("queue", 0.1, 0.3, mde=0.5), "no change"),
        (effect("queue", 0.1, 0.3, mde=0.51), "not judged"),
        # 1.5 / 0.5 = 3, 1.5 / 0.49 more.
        (effect("encode", 0.0, 0.5, kind="tail", mde=None), "no change"),
        (effect("encode", 0.0, 0.5, kind="tail", mde=None, ci_low=-0.51), "not judged"),
        (effect("cache", 0.0, 0.5, what="encoder cache", ci_low=-1.2), "not judged"),
        # Wide, and clear of zero.
        (effect("encode", 9.0, 8.0, mde=2.0, outcome="regression"), "regression"),
        (effect("queue", 9.0, 8.0, mde=2.0, why_not="more requests arrive"), "explained"),
    ],
)
def test_no_change_is_only_said_where_a_large_one_would_have_shown(found: Effect, shown: str) -> None:
    assert outcome(found) == shown


def test_what_can_hardly_be_judged_is_not_judged_in_every_text() -> None:
    vague = replace(
        no_change(), effects=(effect("encode", 0.0, 0.02), effect("encode", 0.4, 9.0, kind="tail", mde=None))
    )
    assert "; not judged: tail of encode." in sentence(vague)
    assert "not judged: an MDE above 50 % or an interval wider than a factor of three" in terminal(vague)
    assert "| encode, tail | +40 % | −860 to +940 % | not judged |" in compare_markdown.render(vague)


def test_missing_columns_and_models_are_the_first_reason() -> None:
    column = "only BASE records visual tokens"
    told = sentence(replace(insufficient(), warnings=("runs overlap", column)))
    assert told.startswith(f"NOT ENOUGH DATA: {column}; encode, prefill, decode: 40 requests")
    model = "no served model is on both sides: BASE has a, NEW has b"
    other = replace(
        insufficient(), base=side("a.csv", 40, models=("a",)), new=side("b.csv", 40, models=("b",)), warnings=(model,)
    )  # fmt: skip
    hint = "where another model is the change under test, give --expect-change"
    assert sentence(other) == f"NOT ENOUGH DATA: {model}; {hint}."
    assert hint not in sentence(replace(other, base=side("a.csv", 40, models=("a", "c"))))


def test_the_reasons_are_those_that_a_comparison_warns_of() -> None:
    def run(label: str, model: str, visual: float) -> Run:
        numbers = np.full(3, 10.0)
        names = {field.name for field in dataclasses.fields(Requests)}
        columns = dict.fromkeys(names - {"ids", "start_ns", "model", "models"}, numbers)
        return Run(
            label,
            Requests(
                ids=np.array(["1", "2", "3"], object), start_ns=np.arange(3) + 1_795_000_000_000_000_000,
                model=np.zeros(3, np.int64), models=(model,), **{**columns, "visual_tokens": np.full(3, visual)},
            ),
        )  # fmt: skip

    base = run("a", "m", 10.0)
    other, without = (
        comparable.warnings([base], [new], False) for new in (run("b", "n", 10.0), run("b", "m", np.nan))
    )
    assert any(line.startswith(compare_headline.REASONS[0]) for line in other)
    assert any(line.startswith(compare_headline.REASONS[1]) for line in without)


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


# --- The comment ------------------------------------------------------------------------------------------------------


def test_the_comment_shows_the_verdict_and_folds_the_tables_away() -> None:
    text = compare_markdown.render(regression())
    shown = text.split("<details>")[0]
    assert "**REGRESSION:** at like images and load, encode is 8.3 % slower" in shown
    assert "| " not in shown
    assert len(shown) < 600
    assert "| encode | +8.3 % | +5.9 to +10.7 % | regression | 2.9 % | 2,400 | 2,410 |" in text
    assert "| encode | +20.8 ms | +3.4 % |" in text
    # GitHub reads Markdown inside an element only after an empty line.
    assert text.count("</summary>\n\n") == text.count("</details>") == 2


def test_the_comment_names_the_differences_of_the_workload() -> None:
    shown = compare_markdown.render(no_change()).split("<details>")[0]
    assert "- visual tokens per request: 1,210 → 1,612 (+33 %)" in shown
    assert "- share of requests with images: 71 % → 84 % (+13 points)" in shown


def test_warnings_are_not_folded_away() -> None:
    assert "other device" in compare_markdown.render(improvement()).split("<details>")[0]


def test_a_comment_fits_and_says_what_it_leaves_out() -> None:
    text = compare_markdown.render(hostile())
    assert len(text) <= compare_markdown.LIMIT < 65_536
    assert "more in HTML and JSON" in text


def test_tables_that_find_no_room_in_a_comment_are_counted() -> None:
    stars = "*" * 400  # escaped twice as long
    rows = tuple(
        effect(f"{stars}", None, model=f"{n % 9}{stars}", outcome="insufficient_data", why_not=f"{n}{stars}")
        for n in range(600)
    )
    shifts = tuple(Shift(stars, 1.0, 2.0, stars, "mix") for _ in range(50))
    text = compare_markdown.render(replace(regression(), effects=rows, shifts=shifts))
    assert len(text) <= compare_markdown.LIMIT
    assert re.search(r"\d tables more in HTML and JSON: no room in a comment", text)
    assert text.count("<details>") == text.count("</details>") == 2


def test_names_mention_nobody_link_nowhere_and_end_no_cell() -> None:
    name = "@octocat #12 www.evil.example https://evil.example | `x` <b>"
    told = compare_markdown.escape(name)
    assert not re.search(r"@\w|#\d|www\.\w|://", told)
    assert "\\|" in told
    assert "\\`" in told
    assert "\\<b\\>" in told
