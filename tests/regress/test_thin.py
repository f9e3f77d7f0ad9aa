"""Of large runs some requests are judged: evenly, each for those beside it, with the load of all."""

from dataclasses import replace

import numpy as np
import pytest
from tables import served, table

from vtprof_analyzer.regress import thin as thinning
from vtprof_analyzer.regress.load import Load, load_of
from vtprof_analyzer.regress.thin import judged, of_model, thin, with_load


@pytest.fixture
def at_most_300(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "MOST_REQUESTS", 300)


def same(one: Load, other: Load) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in Load.__dataclass_fields__
    )


def test_small_runs_are_judged_whole() -> None:
    requests = served(500)
    (kept,) = thin([requests])
    assert np.array_equal(kept.rows, np.arange(500))
    assert kept.factor == 1.0
    assert np.array_equal(judged(requests, kept).weight, np.ones(500))


@pytest.mark.usefixtures("at_most_300")
def test_of_a_side_as_many_are_judged_as_its_runs_have_a_share_of() -> None:
    kept = thin([served(2_000), served(1_000), served(1), served(0)])
    assert [len(one.rows) for one in kept] == [200, 100, 1, 0]
    assert sum(len(one.rows) * one.factor for one in kept) == pytest.approx(3_001)
    assert kept[3].factor >= 0


@pytest.mark.usefixtures("at_most_300")
def test_those_that_are_judged_lie_evenly_and_stand_for_all() -> None:
    requests = replace(served(2_999), weight=np.full(2_999, 2.0))
    (kept,) = thin([requests])
    gaps = np.diff(kept.rows)
    assert (kept.rows[0], kept.rows[-1]) == (0, 2_998)
    assert gaps.max() - gaps.min() <= 1
    part = judged(requests, kept)
    assert np.array_equal(part.ids, requests.ids[kept.rows])
    assert part.weight.sum() == pytest.approx(requests.weight.sum())


@pytest.mark.usefixtures("at_most_300")
def test_the_load_on_those_that_are_judged_is_that_of_all() -> None:
    requests = served(900, rate_per_s=30.0)
    (kept,) = thin([requests])
    part, load = with_load(requests, kept, requests.models[0])
    assert len(part) == 300
    assert same(load, load_of(requests).select(kept.rows))


@pytest.mark.usefixtures("at_most_300")
def test_of_several_models_each_is_judged_with_the_load_of_its_own() -> None:
    requests = served(900, rate_per_s=30.0, models=("a", "b"))
    (kept,) = thin([requests])
    seen = 0
    for name in ("a", "b"):
        part, load = with_load(requests, kept, name)
        alone = requests.select(of_model(requests, name))
        rows = np.flatnonzero(np.isin(alone.ids, requests.ids[kept.rows]))
        assert np.array_equal(part.ids, alone.ids[rows])
        assert same(load, load_of(alone).select(rows))
        assert part.weight == pytest.approx(np.full(len(part), 3.0))
        seen += len(part)
    assert seen == 300


def test_a_model_is_known_by_its_name_wherever_it_stands() -> None:
    requests = table(4, models=("a", "b", "a"), model=[0, 1, 2, 0])
    assert of_model(requests, "a").tolist() == [True, False, True, True]
    assert of_model(requests, "c").tolist() == [False] * 4


def test_a_model_without_requests_in_a_run_has_none() -> None:
    requests = served(50)
    (kept,) = thin([requests])
    part, load = with_load(requests, kept, "another")
    assert len(part) == 0
    assert len(load.serving) == 0
