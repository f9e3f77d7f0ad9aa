"""Lines on sides that cannot be compared: each for its reason, none where nothing is known or all is alike."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from vtprof_analyzer.regress.comparable import differences, requests_in_both, warnings
from vtprof_analyzer.regress.requests import Requests, Run

DAY_S = 86_400
START_S = 1_763_800_000


def requests(
    count: int = 4,
    begin_s: float = START_S,
    seconds: float = 600,
    models: tuple[str, ...] = ("Qwen",),
    **given: Any,
) -> Requests:
    """Return requests that are evenly spread over the time, turn by turn of each model; every number is 1."""
    numbers: dict[str, Any] = {one.name: np.ones(count) for one in fields(Requests)}
    numbers |= {
        "ids": np.array([f"{begin_s}-{number}" for number in range(count)], dtype=object),
        "start_ns": (np.linspace(begin_s, begin_s + seconds, count) * 1e9).astype(np.int64),
        "model": np.arange(count, dtype=np.int64) % max(1, len(models)),
        "models": models,
    }
    return Requests(**(numbers | given))


def run(engine: str | None = "vllm 0.33.0", label: str = "a", **given: Any) -> Run:
    return Run(label, requests(**given), engine, "1 x NVIDIA H200", "bfloat16, TP 1")


BASE = run()
LATER = START_S + 3_600
NEW = run(begin_s=LATER)


def test_like_sides_give_no_line() -> None:
    assert warnings([BASE], [NEW], False) == ()


def test_another_engine_device_or_setting_is_told_unless_it_is_under_test() -> None:
    for what, value, words in (
        ("engine", "vllm 0.34.0", "another engine: BASE vllm 0.33.0, NEW vllm 0.34.0"),
        ("device", "1 x NVIDIA B200", "another device: BASE 1 x NVIDIA H200, NEW 1 x NVIDIA B200"),
        ("settings", "bfloat16, TP 2", "other settings: BASE bfloat16, TP 1, NEW bfloat16, TP 2"),
    ):
        other = replace(NEW, **{what: value})
        assert warnings([BASE], [other], False) == (words,)
        assert warnings([BASE], [other], True) == ()


def test_what_was_not_recorded_says_nothing() -> None:
    for unknown in (None, ""):
        other = replace(NEW, engine=unknown, device=unknown, settings=unknown)
        assert warnings([BASE], [other], False) == ()
    assert warnings([BASE], [run(begin_s=LATER, models=("",))], False) == ()


def test_other_models_are_told_and_whether_any_is_on_both_sides() -> None:
    two = run(begin_s=LATER, models=("Qwen", "InternVL"))
    assert warnings([BASE], [two], False) == (
        "other served models: only NEW has InternVL; what both have is compared",
    )
    none = run(begin_s=LATER, models=("InternVL",))
    assert warnings([BASE], [none], False) == (
        "no served model is on both sides: BASE has Qwen, NEW has InternVL",
    )
    assert warnings([BASE], [none], True) == ()


def test_a_model_that_is_listed_and_has_no_request_is_not_served() -> None:
    listed = run(begin_s=LATER, models=("Qwen", "InternVL"), model=np.zeros(4, np.int64))
    assert warnings([BASE], [listed], False) == ()


def test_runs_of_one_side_that_differ_are_told_although_a_change_is_under_test() -> None:
    again = run("vllm 0.34.0", begin_s=LATER)
    later = run(begin_s=LATER + 3_600)
    line = "runs of BASE differ in engine (vllm 0.33.0 or vllm 0.34.0): that counts as noise from run to run"
    assert line in warnings([BASE, again], [later], False)
    assert warnings([BASE, again], [later], True) == (line,)


def test_the_same_requests_on_both_sides_are_counted() -> None:
    half = replace(NEW, requests=BASE.requests.select(slice(0, 2)))
    (line,) = warnings([BASE], [half], False)
    assert line.startswith("2 requests of 2 are on both sides")


def test_the_same_run_twice_on_one_side_is_told() -> None:
    (line,) = warnings([BASE, replace(BASE, label="copy")], [NEW], False)
    assert line.startswith("runs 1 and 2 of BASE have 4 requests in common")


def test_requests_are_the_same_by_id_start_and_ttft_together() -> None:
    one = requests()
    assert requests_in_both(one, one) == 4
    assert requests_in_both(one, replace(one, ids=one.ids[::-1])) == 0
    assert requests_in_both(one, replace(one, start_ns=one.start_ns + 1)) == 0
    assert requests_in_both(one, replace(one, ttft_ms=one.ttft_ms + 1)) == 0
    # TTFT that neither has is the same.
    unknown = replace(one, ttft_ms=np.full(4, np.nan))
    assert requests_in_both(unknown, unknown) == 4


@pytest.mark.parametrize(("days", "told"), [(29, False), (31, True)])
def test_a_base_of_more_than_thirty_days_before_is_told(days: int, told: bool) -> None:
    new = run(begin_s=START_S + 600 + days * DAY_S + 1)
    expected = (f"BASE ended {days} days before NEW began: what is around the engine may have changed too",)
    assert warnings([BASE], [new], False) == (expected if told else ())


def test_sides_that_may_have_been_swapped_are_told() -> None:
    assert warnings([NEW], [BASE], False) == ("NEW ended before BASE began: they may have been swapped",)


def test_times_that_do_not_begin_in_1970_tell_no_dates() -> None:
    assert warnings([run(begin_s=0.0)], [NEW], False) == ()


def test_runs_of_very_different_length_and_short_ones_are_told() -> None:
    (long,) = warnings([BASE], [run(begin_s=LATER, seconds=6_000)], False)
    assert long.startswith("a run of BASE lasts 10 min, one of NEW 1.7 h")
    (short,) = warnings([BASE], [run(begin_s=LATER, seconds=61)], False) or ("none",)
    assert short == "none"
    (warm_up,) = warnings([run(seconds=300)], [run(begin_s=LATER, seconds=59)], False)
    assert warm_up.startswith("NEW: runs of less than 60 s")


def test_what_only_one_side_records_is_told() -> None:
    unknown = np.full(4, np.nan)
    bare = run(begin_s=LATER, in_flight=unknown, cached_tokens=unknown)
    assert warnings([BASE], [bare], False) == ("only BASE records cached tokens, requests in flight",)
    assert warnings([run(in_flight=unknown)], [NEW], False) == ("only NEW records requests in flight",)


def test_sides_without_requests_give_no_line_and_no_error() -> None:
    nothing = run(count=0, models=())
    assert warnings([], [], False) == ()
    assert warnings([nothing], [NEW], False) == ()
    assert warnings([BASE], [nothing], False) == ()


def test_a_run_differs_from_a_baseline_where_none_of_its_runs_is_alike() -> None:
    other = run("vllm 0.34.0", begin_s=LATER)
    assert differences([BASE], other) == ("engine: vllm 0.33.0 there, vllm 0.34.0 here",)
    assert differences([BASE, other], run("vllm 0.34.0")) == ()
    assert differences([BASE], run(None)) == ()
    assert differences([run(None)], BASE) == ()
    assert differences([BASE], run(models=("InternVL",))) == ("models: Qwen there, InternVL here",)
