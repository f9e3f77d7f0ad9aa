"""The simulated days are what their labels say: otherwise the benches score the detector against a wrong truth."""

import csv
import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from regress_days.cases import COUNTS, UNCHANGED, Case, cases
from regress_days.engine import Engine, Tail, slower, with_kv
from regress_days.noise import NONE, PHASES, USUAL, run_factors
from regress_days.serve import Served, serve
from regress_days.services import LARGE, SMALL, Side, simulate, stream
from regress_days.services import Served as Service
from regress_days.steps import Change
from regress_days.tables import ALL, BARE, COLUMNS, OPTIONAL, requests_of, write
from regress_days.traffic import Asked, Traffic, draw, draw_library

from vtprof_analyzer.regress.requests import Floats, Requests, Run

TIMES = ("preprocess_ms", "queue_ms", "encode_ms", "prefill_ms", "ttft_ms", "tpot_ms")
PHASE_TIMES = dict(zip(PHASES, ("preprocess_ms", "encode_ms", "prefill_ms", "tpot_ms"), strict=True))


def asked(count: int = 1_500, traffic: Traffic | None = None, seed: int = 1) -> Asked:
    """Draw requests."""
    return draw(
        traffic or Traffic(),
        draw_library(np.random.default_rng(seed)),
        count,
        np.random.default_rng([seed, 1]),
    )


def served(engine: Engine, requests: Asked, change: Change | None = None) -> Served:
    """Serve them without noise."""
    return serve(engine, requests, NONE, np.random.default_rng(7), change)


def lone(text: int, output: int, images: tuple[int, ...] = (), number: int = 1) -> Asked:
    """Return requests without a system prompt, 100 s apart, that each have images of so many visual tokens."""
    each = np.full(number, 1)
    return Asked(
        np.arange(number) * 1e5,
        text * each,
        0 * each,
        0 * each,
        output * each,
        len(images) * each,
        np.arange(len(images) * number) + 1_000_000,
        np.array(images * number, dtype=np.int64),
    )


def typical_change(base: Floats, new: Floats) -> float:
    """Return the mean relative change of times that both sides have."""
    both = (base > 0) & (new > 0)
    return float(np.exp(np.mean(np.log(new[both] / base[both]))) - 1)


@pytest.mark.parametrize(
    ("phase", "ratio"), [("encode", 0.08), ("prefill", 0.05), ("decode", 0.06), ("preprocess", 0.20)]
)
def test_a_slower_phase_takes_that_much_longer_for_the_same_requests_and_others_hardly_do(
    phase: str, ratio: float
) -> None:
    requests = asked()
    base, new = served(Engine(), requests), served(slower(Engine(), phase, ratio), requests)
    missed = base.hits < requests.image_count
    for other, name in PHASE_TIMES.items():
        rows = missed if other == "encode" else np.full(len(requests), True)
        change = typical_change(getattr(base, name)[rows], getattr(new, name)[rows])
        # Walls hold neighbours and host time too: a little less, or more where slowness makes for more neighbours.
        if other == phase:
            assert change == pytest.approx(ratio, abs=0.15 * ratio)
        else:
            assert abs(change) < 0.25 * ratio


def test_a_lone_request_takes_what_the_constants_say() -> None:
    engine = Engine()
    one = served(engine, lone(1_000, 11, (500,)))
    # 500 tokens are 2,000 patches: 2.5 + 0.004 * 2,000 + 5e-7 * 2,000^2 = 12.5 ms
    assert one.encode_ms[0] == pytest.approx(12.5)
    # 1,500 tokens in one chunk: (6.5^4 + 45^4)^(1/4) + 4e-6 * 1,500 * 750 + 1.2 ms
    assert one.prefill_ms[0] == pytest.approx((6.5**4 + 45.0**4) ** 0.25 + 4.5 + 1.2)
    assert one.preprocess_ms[0] == pytest.approx(1.5 + 0.002 * 1_000 + 2.5 + 0.014 * 500)
    # ten steps that read 1,501 to 1,510 tokens: 6.5 + 1.2 + 0.02 + 0.05 + 4e-5 * 1,505.5 ms each
    assert one.tpot_ms[0] == pytest.approx(7.77 + 4e-5 * 1_505.5)
    assert one.queue_ms[0] == pytest.approx(0.0)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget() -> None:
    engine = replace(Engine(), budget_tokens=1_000)
    one = served(engine, lone(2_500, 1))
    chunks = [(1_000, 500), (1_000, 1_500), (500, 2_250)]  # tokens and their mean context
    expected = sum((6.5**4 + (0.03 * n) ** 4) ** 0.25 + 4e-6 * n * context + 1.2 for n, context in chunks)
    assert one.prefill_ms[0] == pytest.approx(expected)


def test_one_sequence_at_a_time_waits_for_the_one_before() -> None:
    alone = served(replace(Engine(), max_sequences=1), asked(200))
    begin = alone.asked.arrival_ms + alone.preprocess_ms + alone.queue_ms
    order = np.argsort(begin)
    assert (begin[order][1:] >= alone.finish_ms[order][:-1] - 1e-6).all()


def test_kv_that_is_full_makes_requests_wait() -> None:
    requests = asked(300)
    free, tight = served(Engine(), requests), served(replace(Engine(), kv_capacity_tokens=4_000), requests)
    assert tight.queue_ms.mean() > 3 * free.queue_ms.mean()


def test_neighbours_prolong_prefill_and_decode() -> None:
    calm, busy = (served(Engine(), asked(1_000, Traffic(rate_per_s=rate))) for rate in (0.05, 5.0))
    for name in ("prefill_ms", "tpot_ms", "queue_ms"):
        assert np.nanmean(getattr(busy, name)) > 1.1 * np.nanmean(getattr(calm, name))


def test_the_parts_of_ttft_add_up() -> None:
    case = chosen("no change")[0]
    requests = simulate(case.base, case.seed, 0)[0].requests
    parts = sum(
        getattr(requests, f"{part}_ms")
        for part in ("preprocess", "queue", "encode", "prefill", "unexplained")
    )
    assert np.allclose(parts, requests.ttft_ms)
    assert all((getattr(requests, name)[~np.isnan(getattr(requests, name))] >= 0).all() for name in TIMES)
    assert (requests.unexplained_ms > 0).all()
    assert (np.diff(requests.start_ns) >= 0).all()


def test_images_from_the_catalogue_hit_and_new_ones_miss() -> None:
    engine = replace(Engine(), encoder_cache_images=1_000)
    known, fresh = (served(engine, asked(traffic=Traffic(catalogue_share=share))) for share in (1.0, 0.0))
    assert known.hits.sum() / known.asked.image_count.sum() > 0.97
    assert fresh.hits.sum() == 0
    pictured = known.asked.image_count > 0
    # Copying what is there takes a little time, far less than the encoder.
    assert (
        0
        < np.median(known.encode_ms[pictured])
        < 0.1 * np.median(fresh.encode_ms[fresh.asked.image_count > 0])
    )


def test_look_ups_that_fail_cost_their_share_of_the_hits() -> None:
    requests = asked(4_000)
    whole = served(Engine(), requests).hits.sum()
    broken = served(replace(Engine(), encoder_cache_fault_ratio=0.6), requests).hits.sum()
    assert broken / whole == pytest.approx(0.4, abs=0.05)


def test_a_prefix_that_is_cached_is_not_prefilled() -> None:
    requests = replace(lone(1_000, 1, number=2), prefix_tokens=np.array([640, 640]))
    cached = served(Engine(), requests).prefill_ms
    assert cached[0] < 0.6 * served(Engine(), lone(1_000, 1)).prefill_ms[0]
    assert served(Engine(), requests).cached_tokens.tolist() == [640, 640]


def test_kv_bytes_per_token_are_what_is_asked() -> None:
    requests = asked(200)
    base, new = served(Engine(), requests), served(with_kv(Engine(), 1.0), requests)
    assert new.kv_bytes == pytest.approx(2 * base.kv_bytes)


@pytest.mark.parametrize("phase", ["encode", "prefill", "preprocess"])
def test_a_tail_hits_its_share_of_requests_and_no_others_much(phase: str) -> None:
    requests = asked(4_000, Traffic(rate_per_s=0.2))
    tail = Tail(phase, 0.02, 3.0, 6.0)
    base, new = served(Engine(), requests), served(replace(Engine(), tails=(tail,)), requests)
    name = PHASE_TIMES[phase]
    rows = base.hits < requests.image_count if phase == "encode" else requests.image_count >= 0
    ratio = getattr(new, name)[rows] / getattr(base, name)[rows]
    # The launch and the host's time are not prolonged, and decode may be beside it.
    assert np.mean(ratio > 1.8) == pytest.approx(0.02, abs=0.007)
    assert ratio.max() < 6.1
    assert abs(np.median(ratio) - 1) < 1e-3


def test_a_run_has_a_factor_of_its_own_for_each_phase() -> None:
    draws = [run_factors(USUAL, np.random.default_rng(seed)) for seed in range(4_000)]
    for phase in PHASES:
        logs = np.log([each[phase] for each in draws])
        assert logs.std() == pytest.approx(0.007, rel=0.1)
        assert abs(logs.mean()) < 0.0005


def test_a_stream_changes_at_the_request_that_is_named() -> None:
    requests = asked(1_000)
    base = served(Engine(), requests)
    new = served(Engine(), requests, Change(600, slower(Engine(), "preprocess", 0.5)))
    assert new.preprocess_ms[:600] == pytest.approx(base.preprocess_ms[:600])
    ratio = new.preprocess_ms[600:] / base.preprocess_ms[600:]
    assert np.median(ratio) == pytest.approx(1.5, abs=0.02)
    kv = served(Engine(), requests, Change(600, with_kv(Engine(), 1.0))).kv_bytes / base.kv_bytes
    assert kv.tolist() == [1.0] * 600 + [2.0] * 400
    decode = served(Engine(), requests, Change(600, slower(Engine(), "decode", 0.5)))
    change = decode.tpot_ms / base.tpot_ms
    assert np.nanmedian(change[:580]) == pytest.approx(1.0, abs=0.01)
    assert np.nanmedian(change[620:]) == pytest.approx(1.5, abs=0.1)


def test_users_of_a_stream_change_at_the_request_that_is_named() -> None:
    before = Service(Engine(), Traffic(rate_per_s=2.0))
    after = replace(before, traffic=replace(before.traffic, image_tokens=2_000.0, rate_per_s=4.0))
    requests = stream(before, 1, 0, 2_000, NONE, after, 1_000).requests
    assert len(requests) == 2_000
    early, late = requests.select(slice(0, 1_000)), requests.select(slice(1_000, 2_000))
    assert late.visual_tokens.mean() > 2.5 * early.visual_tokens.mean()
    assert np.ptp(early.start_ns) == pytest.approx(2 * np.ptp(late.start_ns), rel=0.3)


def test_requests_in_flight_are_counted_over_each_ones_time() -> None:
    run = served(Engine(), asked(60, Traffic(rate_per_s=5.0)))
    begin, end = run.asked.arrival_ms, run.finish_ms
    overlap = np.minimum.outer(end, end) - np.maximum.outer(begin, begin)
    expected = (np.maximum(overlap, 0).sum(axis=1) - (end - begin)) / (end - begin)
    assert requests_of({LARGE: run}).in_flight == pytest.approx(expected)


def test_there_are_400_cases_of_3_000_to_10_000_requests_and_none_shares_its_seed() -> None:
    made = cases(1)
    assert len(made) == sum(COUNTS.values()) >= 400
    assert sum(COUNTS[label] for label in UNCHANGED) >= 144
    assert len({case.seed for case in [*made, *cases(2)]}) == 2 * len(made)
    for case in made:
        assert case.base.requests >= 3_000
        assert case.new.requests >= 3_000
        assert case.label == "no change" or case.base.requests <= 10_000


def test_fewer_cases_are_the_first_of_each_label() -> None:
    whole = {case.name: case for case in cases(3)}
    for case in cases(3, 0.1):
        assert whole[case.name] == case


def test_engines_differ_only_where_the_label_says_so() -> None:
    for case in cases(1):
        pairs = [
            (case.base.models[model].engine, case.new.models[model].engine) for model in case.base.models
        ]
        assert (case.phase is None) == (case.label in UNCHANGED or case.label == "improvement")
        assert all((base == new) == (case.label in UNCHANGED) for base, new in pairs)
        assert case.base.noise == case.new.noise
        assert (case.base.runs, case.base.recorded) == (case.new.runs, case.new.recorded)
        if case.label not in ("mix only", "load only", "masked", "encode slower under load"):
            traffic = [[each.traffic for each in side.models.values()] for side in (case.base, case.new)]
            assert traffic[0] == traffic[1]


def chosen(label: str, share: float = 0.1) -> list[Case]:
    """Return some cases of a label."""
    return [case for case in cases(1, share) if case.label == label]


def test_another_model_mix_moves_requests_and_keeps_their_number() -> None:
    for case in chosen("mix only", 1.0):
        if case.kind == "another model mix":
            rates = [
                {model: each.traffic.rate_per_s for model, each in side.models.items()}
                for side in (case.base, case.new)
            ]
            shares = [rate[SMALL] / sum(rate.values()) for rate in rates]
            assert sum(rates[0].values()) == pytest.approx(sum(rates[1].values()))
            assert abs(shares[0] - shares[1]) > 0.08


MIX_COLUMNS: dict[str, tuple[Callable[[Requests], Floats], float, float]] = {
    "bigger images": (lambda one: one.visual_tokens, 1.3, 2.2),
    "more images": (lambda one: one.visual_tokens, 1.3, 3.0),
    "longer text": (lambda one: one.text_tokens, 1.2, 2.6),
    "longer outputs": (lambda one: one.output_tokens, 1.3, 2.2),
    "smaller images": (lambda one: one.visual_tokens, 0.45, 0.85),
}


@pytest.mark.parametrize("kind", MIX_COLUMNS)
def test_a_mix_changes_the_column_that_it_names(kind: str) -> None:
    column, least, most = MIX_COLUMNS[kind]
    case = next(case for case in chosen("mix only", 0.2) if case.kind == kind)
    base, new = case.runs()
    ratio = joined(new, column).mean() / joined(base, column).mean()
    assert least < ratio < most


def joined(runs: list[Run], column: Callable[[Requests], Floats]) -> Floats:
    """Return a column of all runs."""
    return np.concatenate([column(run.requests) for run in runs])


def test_slower_encode_is_hidden_by_smaller_images() -> None:
    for case in chosen("masked", 0.2):
        base, new = case.runs()
        assert joined(new, lambda one: one.ttft_ms).mean() < joined(base, lambda one: one.ttft_ms).mean()


def test_a_cache_made_smaller_or_broken_loses_hits_of_the_same_stream() -> None:
    for case in chosen("cache", 0.2):
        base, new = (
            joined(simulate(replace(side, recorded=ALL), case.seed, number), lambda one: one.encoder_hit)
            for number, side in enumerate((case.base, case.new))
        )
        assert np.nanmean(new) < 0.75 * np.nanmean(base)


def test_a_seed_gives_the_same_runs_and_another_gives_others() -> None:
    side = replace(cases(1, 0.01)[0].base, requests=300, runs=2)
    first, again, other = simulate(side, 5, 0), simulate(side, 5, 0), simulate(side, 6, 0)
    for name in (*TIMES, "start_ns", "visual_tokens"):
        assert np.array_equal(
            getattr(first[0].requests, name), getattr(again[0].requests, name), equal_nan=True
        )
        assert not np.array_equal(
            getattr(first[0].requests, name), getattr(other[0].requests, name), equal_nan=True
        )
    assert not np.array_equal(first[0].requests.ttft_ms, first[1].requests.ttft_ms)


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_a_run_is_written_as_a_request_table(ending: str, tmp_path: Path) -> None:
    case = chosen("no change")[0]
    (run,) = simulate(replace(case.base, requests=200, runs=1, recorded=ALL), 1, 0)
    path = write(run, tmp_path / f"run.{ending}")
    if ending == "parquet":
        table = pl.read_parquet(path)
    else:
        content = path.read_bytes()
        text = (gzip.decompress(content) if ending.endswith("gz") else content).decode()
        rows = list(csv.DictReader(text.splitlines()))
        table = pl.DataFrame({name: [row[name] or None for row in rows] for name in rows[0]})
    assert table.columns == ["request_id", "start_unix_nano", "model", *COLUMNS, *OPTIONAL]
    hits = table["encoder_cache_hit"].cast(pl.Float64).to_numpy()
    assert np.allclose(hits, run.requests.encoder_hit, equal_nan=True)
    assert table["start_unix_nano"].cast(pl.Int64).to_list() == run.requests.start_ns.tolist()


def test_what_is_not_recorded_has_no_column(tmp_path: Path) -> None:
    case = chosen("no change")[0]
    (run,) = simulate(Side(case.base.models, 100, recorded=BARE), 1, 0)
    assert np.isnan(run.requests.in_flight).all()
    assert not set(OPTIONAL) & set(pl.read_parquet(write(run, tmp_path / "run.parquet")).columns)
