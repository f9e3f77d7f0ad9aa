"""Plain figures of both sides, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
from tables import run, served, table, without

from vtprof_analyzer.regress.comparison import Metric
from vtprof_analyzer.regress.raw_metrics import metrics
from vtprof_analyzer.regress.requests import Requests


def found(base: list[Requests], new: list[Requests]) -> dict[tuple[str, str], Metric]:
    return {
        (one.metric, one.statistic): one
        for one in metrics([run(requests) for requests in base], [run(requests) for requests in new])
    }


def test_means_and_percentiles_of_times_are_numpys() -> None:
    base, new = served(500, 1, queue_ms=5.0), served(700, 2, queue_ms=9.0)
    told = found([base], [new])
    for name in (
        "ttft_ms",
        "tpot_ms",
        "preprocess_ms",
        "queue_ms",
        "encode_ms",
        "prefill_ms",
        "unexplained_ms",
    ):
        before, after = getattr(base, name), getattr(new, name)
        one = told[name, "mean"]
        assert (one.base, one.new) == (pytest.approx(before.mean()), pytest.approx(after.mean()))
        assert one.change_ratio == pytest.approx(after.mean() / before.mean() - 1)
        for label, level in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            one = told[name, label]
            assert (one.base, one.new) == (
                pytest.approx(np.quantile(before, level)),
                pytest.approx(np.quantile(after, level)),
            )


def test_runs_of_a_side_are_taken_together() -> None:
    parts, new = [served(300, 1), served(200, 2)], served(100, 3)
    joined = np.concatenate([one.ttft_ms for one in parts])
    assert found(parts, [new])["ttft_ms", "p95"].base == pytest.approx(np.quantile(joined, 0.95))


def test_a_request_counts_as_the_requests_that_it_stands_for() -> None:
    requests = served(400, 1)
    weight = np.random.default_rng(1).integers(1, 9, 400).astype(float)
    told = found([replace(requests, weight=weight)], [requests])
    repeated = np.repeat(requests.ttft_ms, weight.astype(int))
    assert told["ttft_ms", "mean"].base == pytest.approx(repeated.mean())
    for label, level in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        expected = np.quantile(repeated, level, method="inverted_cdf")
        assert told["ttft_ms", label].base == pytest.approx(expected)
    visual = np.repeat(requests.visual_tokens, weight.astype(int))
    assert told["visual_tokens", "mean"].base == pytest.approx(visual.mean())


def test_only_what_either_side_recorded_is_told() -> None:
    full, bare = served(50), without(served(50), "tpot_ms", "kv_bytes", "visual_tokens")
    assert ("transfer_ms", "mean") not in found([full], [full])
    assert ("audio_tokens", "mean") not in found([full], [full])
    one = found([full], [bare])["tpot_ms", "p50"]
    assert one.base is not None
    assert (one.new, one.change_ratio) == (None, None)
    assert ("tpot_ms", "p50") not in found([bare], [bare])
    assert ("kv_bytes_per_token", "p50") not in found([bare], [bare])


def test_times_that_are_all_zero_are_told_and_their_change_is_not() -> None:
    zero = table(20, ttft_ms=5, queue_ms=0.0)
    one = found([zero], [replace(zero, queue_ms=np.full(20, 3.0))])["queue_ms", "mean"]
    assert (one.base, one.new, one.change_ratio) == (0.0, 3.0, None)


def test_what_is_not_known_of_a_request_is_left_out() -> None:
    requests = table(4, ttft_ms=[1, np.nan, 3, np.nan], weight=[1, 1, 3, 1])
    one = found([requests], [requests])["ttft_ms", "mean"]
    assert one.base == pytest.approx((1 + 3 * 3) / 4)


def test_kv_bytes_are_per_token_in_the_cache() -> None:
    requests = table(
        3,
        text_tokens=[10, 10, 10],
        visual_tokens=[90, 0, 190],
        output_tokens=[2, 2, 1],
        kv_bytes=[1010, 55, 400],
    )
    # Of 101, 11 and 200 tokens: 10, 5 and 2.
    assert found([requests], [requests])["kv_bytes_per_token", "p50"].base == pytest.approx(5.0)


def test_arrivals_are_requests_by_the_time_of_their_runs() -> None:
    one = table(101, start_ms=np.arange(101) * 100.0)
    other = table(101, start_ms=np.arange(101) * 300.0, weight=2.0)
    told = found([one], [one, other])["arrivals_per_s", "rate"]
    assert told.base == pytest.approx(101 / 10)
    # The time between runs is none of theirs.
    assert told.new == pytest.approx((101 + 202) / 40)


def test_requests_that_all_start_at_once_have_no_rate() -> None:
    for start in ([0.0], [5.0, 5.0, 5.0]):
        told = found([table(start_ms=start)], [table(start_ms=start)])["arrivals_per_s", "rate"]
        assert (told.base, told.new, told.change_ratio) == (None, None, None)
