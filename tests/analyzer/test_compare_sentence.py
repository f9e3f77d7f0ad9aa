"""A comparison in words: the verdict's sentence, and how numbers and outcomes are told."""

import dataclasses
import re
from dataclasses import replace

import numpy as np
import pytest
from comparisons import effect, improvement, insufficient, masked, no_change, regression, side, two_models

from vtprof_analyzer.regress import comparable
from vtprof_analyzer.regress.comparison import Decomposition, Effect, Part, Shift
from vtprof_analyzer.regress.requests import Requests, Run
from vtprof_analyzer.report import compare_headline
from vtprof_analyzer.report.compare_headline import sentence
from vtprof_analyzer.report.compare_phrases import change, interval, mix_words, outcome

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


# --- Numbers and outcomes ---------------------------------------------------------------------------------------------


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
