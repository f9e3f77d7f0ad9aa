"""What both sides can be compared by: columns of one side alone, other units, clocks and weights that cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from tables import run, served, without

from vtprof_analyzer.regress.common import in_common
from vtprof_analyzer.regress.compare import compare
from vtprof_analyzer.regress.comparison import Comparison
from vtprof_analyzer.regress.requests import Requests

BASE, NEW = served(800, 1), served(800, 2)
TIMES = ("preprocess_ms", "queue_ms", "encode_ms", "prefill_ms", "ttft_ms", "tpot_ms", "unexplained_ms")


def told(base: Requests, new: Requests) -> Comparison:
    return compare([run(base)], [run(new)])


def test_like_tables_are_left_as_they_are() -> None:
    found = in_common([run(BASE)], [run(NEW)])
    assert found.gone == {} and found.warnings == []
    assert found.base[0].requests is BASE and found.new[0].requests is NEW


@pytest.mark.parametrize("column", ["ttft_ms", "tpot_ms", "prefill_ms", "encode_ms", "output_tokens"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_column_of_one_side_alone_is_no_regression_of_anything(column: str, side: int) -> None:
    tables = [BASE, NEW]
    tables[side] = without(tables[side], column)
    found = told(*tables)
    assert found.causes == () and found.improvements == ()
    if column != "output_tokens":
        assert found.verdict == "insufficient_data"


@pytest.mark.parametrize("column", ["cached_tokens", "encoder_hit", "images"])
def test_conditions_of_one_side_alone_are_not_used(column: str) -> None:
    known = replace(BASE, **{column: np.where(BASE.visual_tokens > 0, 1.0, 1.0)})
    found = in_common([run(known)], [run(without(NEW, column))])
    assert found.gone == {column: "only BASE recorded it"}
    assert np.isnan(getattr(found.base[0].requests, column)).all()


@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e6])
def test_other_units_are_told_and_not_compared(factor: float) -> None:
    found = told(BASE, replace(NEW, **{name: getattr(NEW, name) * factor for name in TIMES}))
    assert found.verdict == "insufficient_data" and found.causes == () and found.improvements == ()
    assert any("are both in milliseconds?" in line for line in found.warnings)


def test_a_phase_that_takes_five_times_as_long_is_no_other_unit() -> None:
    assert told(BASE, replace(NEW, encode_ms=5 * NEW.encode_ms)).causes[0].phase == "encode"


def test_a_phase_that_is_all_zero_on_one_side_blames_no_other() -> None:
    found = told(BASE, replace(NEW, prefill_ms=np.zeros(len(NEW)), unexplained_ms=NEW.prefill_ms))
    assert found.verdict == "insufficient_data" and found.causes == ()
    assert any("all zero" in line for line in found.warnings)


def test_a_queue_that_is_all_zero_on_one_side_is_no_time_that_is_unexplained() -> None:
    waits = np.full(len(BASE), 30.0)
    base = replace(BASE, queue_ms=waits, ttft_ms=BASE.ttft_ms - BASE.queue_ms + waits)
    zero = replace(
        NEW,
        queue_ms=np.zeros(len(NEW)),
        ttft_ms=NEW.ttft_ms - NEW.queue_ms + 30,
        unexplained_ms=np.full(len(NEW), 30.0),
    )
    assert "NEW's queue_ms are all zero: not compared; were they recorded?" in told(base, zero).warnings
    # Every tenth of BASE's waits for nothing: an empty queue is nothing that was not recorded.
    some = replace(base, queue_ms=np.where(np.arange(len(BASE)) % 10 == 0, 0.0, 30.0))
    assert not any("all zero" in line for line in told(some, zero).warnings)


@pytest.mark.parametrize(
    "columns", [("visual_tokens", "images"), ("visual_tokens",), ("output_tokens", "tpot_ms")], ids="+".join
)
@pytest.mark.parametrize("side", [0, 1])
def test_work_that_is_all_zero_where_others_tell_of_it_is_no_regression(
    columns: tuple[str, ...], side: int
) -> None:
    tables = [replace(each, images=(each.visual_tokens > 0) * 1.0) for each in (BASE, NEW)]
    tables[side] = replace(tables[side], **dict.fromkeys(columns, np.zeros(len(NEW))))
    found = told(*tables)
    assert found.causes == () and found.improvements == () and not found.workload_shift
    of = ("BASE", "NEW")[side]
    for column in columns:
        shown = column if column == "tpot_ms" else f"n_{column}"
        assert f"{of}'s {shown} are all zero: not compared; were they recorded?" in found.warnings


def test_text_alone_beside_images_is_other_work_and_nothing_that_was_not_recorded() -> None:
    zero = np.zeros(len(NEW))
    text = replace(NEW, visual_tokens=zero, images=zero, encode_ms=zero)
    found = in_common([run(BASE)], [run(text)])
    assert "visual_tokens" not in found.gone and found.warnings == []


def test_requests_that_all_start_at_once_are_not_compared() -> None:
    still = replace(NEW, start_ns=np.full(len(NEW), NEW.start_ns[0]))
    found = told(BASE, still)
    assert found.verdict == "insufficient_data" and found.causes == ()


def test_one_weight_does_not_decide_for_all() -> None:
    weight = np.ones(len(NEW))
    weight[3] = 1e18
    found = told(BASE, replace(NEW, weight=weight))
    assert found.verdict == "insufficient_data" and found.causes == ()


def test_more_cached_than_asked_for_is_not_believed() -> None:
    found = told(replace(BASE, cached_tokens=np.zeros(800)), replace(NEW, cached_tokens=np.full(800, 1e6)))
    assert found.causes == () and found.improvements == ()
    assert any("cached_tokens is not used" in line for line in found.warnings)


def test_a_ttft_shorter_than_its_phases_is_not_believed() -> None:
    found = told(BASE, replace(NEW, ttft_ms=NEW.ttft_ms / 20))
    assert found.verdict == "insufficient_data"


def test_a_ttft_that_is_known_as_a_whole_alone_is_judged() -> None:
    parts = [name for name in TIMES if name not in ("ttft_ms", "tpot_ms")]
    base, new = (without(one, *parts) for one in (BASE, NEW))
    assert told(base, new).verdict == "no_change"
    assert [one.phase for one in told(base, replace(new, ttft_ms=1.6 * new.ttft_ms)).causes] == [
        "unexplained"
    ]


def test_a_wait_that_nothing_explains_is_a_regression_or_not_judged_and_never_passed_over() -> None:
    base, new = (replace(one, queue_ms=np.full(800, 5.0)) for one in (BASE, NEW))
    longer = replace(new, queue_ms=new.queue_ms + 200, ttft_ms=new.ttft_ms + 200)
    assert [one.phase for one in told(base, longer).causes] == ["queue"]
    some_ms = 0.3 * float(np.mean(new.ttft_ms))
    unsure = told(base, replace(new, queue_ms=new.queue_ms + some_ms, ttft_ms=new.ttft_ms + some_ms))
    assert unsure.verdict in ("insufficient_data", "regression")


def test_only_the_models_with_most_requests_are_judged() -> None:
    def crowd(q: Requests) -> Requests:
        model = np.arange(len(q)) % 400
        return replace(q, model=model, models=tuple(f"m{number}" for number in range(400)))

    found = told(crowd(BASE), crowd(NEW))
    assert len({one.model for one in found.effects}) <= 20
    assert "380 more models" in found.warnings[0]
