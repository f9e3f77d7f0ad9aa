"""Changes within strata of requests: where they lie, of how many, and how sure."""

from dataclasses import replace

import numpy as np
import pytest
from tables import MODEL, served

from vtprof_analyzer.regress.comparison import StratumEffect
from vtprof_analyzer.regress.estimate import Sides
from vtprof_analyzer.regress.fitted import Fitted, fit
from vtprof_analyzer.regress.load import load_of
from vtprof_analyzer.regress.requests import Requests
from vtprof_analyzer.regress.strata import strata


def found(
    phase: str, base: Requests, new: Requests, run_variance: float = 0.0
) -> dict[tuple[str, str], StratumEffect]:
    sides = Sides(MODEL, (base, new), (load_of(base), load_of(new)), 1)
    fitted = fit(phase, sides)
    assert isinstance(fitted, Fitted)
    return {(one.by, one.stratum): one for one in strata(fitted, sides, run_variance)}


def sides() -> tuple[Requests, Requests]:
    """Return requests that differ in the encoding of those with more than 1,024 visual tokens alone."""
    base, new = served(4_000, 1), served(4_000, 2)
    return base, replace(
        new, encode_ms=np.where(new.visual_tokens > 1_024, 1.3 * new.encode_ms, new.encode_ms)
    )


def test_a_change_of_large_images_shows_where_they_are() -> None:
    told = {stratum: one for (by, stratum), one in found("encode", *sides()).items() if by == "visual_tokens"}
    assert len(told) >= 3
    for stratum, one in told.items():
        large = stratum not in ("0", "256", "1k")
        assert one.effect_ratio == pytest.approx(0.3 if large else 0.0, abs=0.06), stratum
        assert one.ci_low <= one.effect_ratio <= one.ci_high
        assert (one.ci_low > 0) == large, stratum


def test_strata_hold_the_requests_of_their_tokens() -> None:
    base, new = sides()
    told = found("encode", base, new)
    by_visual = [one for one in told.values() if one.by == "visual_tokens"]
    assert sum(one.requests_base for one in by_visual) == pytest.approx(
        (base.visual_tokens > 0).sum(), abs=150
    )
    for one in told.values():
        assert one.phase == "encode"
        assert one.model == MODEL
        assert min(one.requests_base, one.requests_new) >= 50
        assert one.base_ms > 0


def test_means_are_plain_means_of_the_stratum() -> None:
    base, new = sides()
    one = found("encode", base, new)["visual_tokens", "1k"]
    inside = (base.visual_tokens > 256) & (base.visual_tokens <= 1_024)
    assert one.base_ms == pytest.approx(base.encode_ms[inside].mean())
    assert one.requests_base == inside.sum()


def test_noise_from_run_to_run_makes_intervals_wider() -> None:
    narrow, wide = (found("encode", *sides(), variance) for variance in (0.0, 0.01))
    for key, one in narrow.items():
        assert wide[key].effect_ratio == pytest.approx(one.effect_ratio)
        # The root of 0.01 is a tenth: 1.96 times that, at least.
        assert wide[key].ci_high - wide[key].effect_ratio > 0.19
        assert wide[key].ci_high > one.ci_high


def test_too_few_requests_are_no_stratum() -> None:
    base, new = served(400, 1), served(400, 2)
    told = found("prefill", base, new)
    for name, one in (("256", base), ("4k", new)):
        upper = {"256": (0, 256), "4k": (1_024, 4_096)}[name]
        count = ((one.visual_tokens > upper[0]) & (one.visual_tokens <= upper[1])).sum()
        assert (("visual_tokens", name) in told) == (count >= 50)


def test_only_phases_of_the_engines_work_have_strata() -> None:
    assert found("kv", served(400, 1), served(400, 2)) == {}
    assert found("decode", served(400, 1), served(400, 2)) != {}
