"""The generator of synthetic days: what it says of one day agrees with itself, to the token and the nanosecond."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest

from synthetic.asks import causal_pairs
from synthetic.day import Day, make_day
from synthetic.scenarios import (
    CACHES,
    CROWDED,
    GAPS,
    LOSSY,
    ORDINARY,
    SAMPLED,
    SKEWED,
    TEXT_ONLY,
    TWO_ENGINES,
    VISUAL,
    Scenario,
)
from synthetic.spans import Span
from vtprof_schemas import names

SHORT = 12.0
_MADE: dict[tuple[str, float], Day] = {}


def day(scenario: Scenario, seconds: float = SHORT) -> Day:
    """Make a short day, once for all tests."""
    key = (scenario.name, seconds)
    if key not in _MADE:
        _MADE[key] = make_day(replace(scenario, seconds=seconds), 7, interference=False)
    return _MADE[key]


def total(spans: list[Span], key: str) -> float:
    return sum(value for span in spans if isinstance(value := span.attributes.get(key), int | float))


def named(made: Day, *wanted: str) -> list[Span]:
    return [span for span in made.spans if span.name in wanted]


def steps(made: Day) -> list[Span]:
    return named(made, names.SPAN_STEP, names.SPAN_WINDOW)


PIECEMEAL = replace(
    VISUAL, name="little encoder budget", engines=(replace(VISUAL.engines[0], encoder_budget_tokens=500),)
)
EVERY = pytest.mark.parametrize(
    "made",
    [
        (VISUAL, SHORT),
        (CACHES, SHORT),
        (CROWDED, 60.0),
        (TWO_ENGINES, SHORT),
        (GAPS, SHORT),
        (PIECEMEAL, SHORT),
    ],
    ids=lambda made: made[0].name,
)


def test_same_seed_makes_the_same_day_and_another_seed_another() -> None:
    scenario = replace(TWO_ENGINES, seconds=4.0)
    first, second, other = make_day(scenario, 1), make_day(scenario, 1), make_day(scenario, 2)
    assert first.spans == second.spans
    assert all(first.truth[name].equals(second.truth[name]) for name in first.truth)
    assert first.spans != other.spans


@EVERY
def test_phases_of_a_request_do_not_overlap_and_add_up(made: tuple[Scenario, float]) -> None:
    found = day(*made)
    phases: dict[tuple[int, int], list[Span]] = {}
    for span in named(found, *names.PHASE_SPANS.values()):
        phases.setdefault((span.ids.low, span.parent or 0), []).append(span)
    roots = named(found, names.SPAN_REQUEST)
    unexplained = 0
    for root in roots:
        own = sorted(phases[root.ids.low, root.ids.span], key=lambda span: (span.start_ns, span.end_ns))
        assert own[0].start_ns == root.start_ns
        assert own[-1].end_ns <= root.end_ns
        assert all(before.end_ns <= after.start_ns for before, after in pairwise(own))
        unexplained += root.end_ns - root.start_ns - sum(span.end_ns - span.start_ns for span in own)
    truth = found.truth["requests"]
    assert unexplained == truth["unexplained_ns"].sum()
    assert (unexplained > 0) == any(engine.gap_s > 0 for engine in made[0].engines)
    parts = truth.select(pl.sum_horizontal(pl.col("^ttft_(preprocess|queue|encode|prefill|unexplained)_ns$")))
    assert parts.to_series().to_list() == [first or 0 for first in truth["ttft_ns"].to_list()]


@EVERY
def test_iterations_follow_each_other_and_stay_within_the_engines_limits(
    made: tuple[Scenario, float],
) -> None:
    found = day(*made)
    for place, setup in enumerate(made[0].engines):
        own = found.truth["kv"].filter(pl.col("engine") == setup.name)
        assert (own["end_ns"][:-1] <= own["ts_ns"][1:]).all()
        held = own.select(pl.sum_horizontal(pl.col("^.*_tokens$"))).to_series()
        assert held.to_numpy().max() <= setup.kv_capacity_tokens
        assert (own["blocks"] * 16 >= held).all()
        assert (own["blocks"] * 16 < held + 16 * setup.most_sequences).all()
        for span in steps(found):
            if span.resource == place and span.name == names.SPAN_STEP:
                computed = total([span], names.STEP_PREFILL_TOKENS) + total(
                    [span], names.STEP_DECODE_REQUESTS
                )
                assert 0 < computed <= setup.chunk_tokens
                assert total([span], names.STEP_RUNNING) <= setup.most_sequences


@pytest.mark.parametrize("scenario", [VISUAL, CACHES, TWO_ENGINES, GAPS], ids=lambda scenario: scenario.name)
def test_steps_compute_what_requests_ask_for(scenario: Scenario) -> None:
    found = day(scenario)
    served = found.truth["requests"].filter(pl.col("ttft_ns").is_not_null())
    assert served["preemptions"].sum() == 0
    computed = (served["input_tokens"] - served["cached_tokens"]).to_numpy().sum()
    assert total(steps(found), names.STEP_PREFILL_TOKENS) == computed
    assert total(named(found, names.PHASE_SPANS["prefill"]), names.PREFILL_TOKENS) == computed
    assert total(steps(found), names.STEP_DECODE_REQUESTS) == (served["output_tokens"] - 1).sum()
    pairs = [causal_pairs(*row) for row in served.select("cached_tokens", "input_tokens").iter_rows()]
    assert total(steps(found), names.STEP_PREFILL_ATTENTION_PAIRS) == sum(pairs)
    modalities = served.select(pl.sum_horizontal("text_tokens", "image_tokens", "video_tokens")).to_series()
    assert modalities.to_list() == served["input_tokens"].to_list()


@EVERY
def test_device_time_of_requests_is_that_of_the_steps(made: tuple[Scenario, float]) -> None:
    found = day(*made)
    phases = named(found, *names.PHASE_SPANS.values())
    device_ns = total(steps(found), names.GPU_TIME_NS)
    assert total(phases, names.GPU_TIME_NS) == device_ns
    parts = found.truth["steps"].select(pl.sum_horizontal("encode_s", "prefill_s", "decode_s").sum()).item()
    assert parts == pytest.approx(device_ns / 1e9, rel=1e-9)


@EVERY
def test_spans_state_the_levels_of_the_caches(made: tuple[Scenario, float]) -> None:
    found = day(*made)
    kv = found.truth["kv"].with_columns(held=pl.sum_horizontal(pl.col("^.*_tokens$")))
    weighted = kv.select((pl.col("held") * (pl.col("end_ns") - pl.col("ts_ns"))).sum()).item()
    gap = any(engine.gap_s > 0 for engine in made[0].engines)
    by_spans = sum(
        total([span], names.STEP_KV_USED_TOKENS) * (span.end_ns - span.start_ns) for span in steps(found)
    )
    # The means are rounded to whole tokens; gaps between iterations are part of a window, but of no iteration.
    assert by_spans == pytest.approx(weighted, rel=0.15 if gap else 1e-3)
    assert total(steps(found), names.STEP_PREEMPTIONS) == found.truth["requests"]["preemptions"].sum()


def test_caches_hit_and_without_a_prefix_cache_nothing_is_cached() -> None:
    found = day(CACHES, 40.0)
    assert found.truth["requests"]["cached_tokens"].sum() > 0
    assert total(named(found, names.PHASE_SPANS["encode"]), names.ENCODE_CACHE_HITS) > 0
    assert total(named(found, names.PHASE_SPANS["preprocess"]), names.PREPROCESS_CACHE_HITS) > 0
    hits = [
        span for span in named(found, names.PHASE_SPANS["encode"]) if not span.attributes[names.ENCODE_ITEMS]
    ]
    assert hits
    assert all(span.start_ns == span.end_ns for span in hits)
    rows = {row["number"]: row for row in found.truth["requests"].iter_rows(named=True)}
    for row in rows.values():
        if row["cached_tokens"]:
            before = rows[row["follows"]]
            assert row["cached_tokens"] % 16 == 0
            assert row["cached_tokens"] <= before["input_tokens"] + before["output_tokens"] - 1
    engines = tuple(replace(engine, prefix_cache=False) for engine in CACHES.engines)
    without = make_day(replace(CACHES, engines=engines, seconds=40.0), 7, interference=False)
    assert without.truth["requests"]["cached_tokens"].sum() == 0
    items = sum(
        total(named(without, names.SPAN_REQUEST), key) for key in (names.ITEMS_IMAGE, names.ITEMS_VIDEO)
    )
    encodes = named(without, names.PHASE_SPANS["encode"])
    refused = [span for span in named(without, names.SPAN_REQUEST) if span.failed]
    items -= total(refused, names.ITEMS_IMAGE) + total(refused, names.ITEMS_VIDEO)
    assert total(encodes, names.ENCODE_ITEMS) + total(encodes, names.ENCODE_CACHE_HITS) == items


def test_a_full_cache_preempts_and_the_requests_begin_again() -> None:
    found = day(CROWDED, 60.0)
    again = found.truth["requests"].filter(pl.col("preemptions") > 0)
    assert len(again) > 10
    decodes = named(found, names.PHASE_SPANS["decode"])
    assert total(decodes, names.DECODE_PREEMPTIONS) == again["preemptions"].sum()
    assert found.truth["requests"]["queue_capacity_ns"].sum() > 0


def test_what_was_preempted_is_computed_again_with_what_it_had_generated() -> None:
    found = day(CROWDED, 60.0)
    roots = {span.ids.span: span.attributes for span in named(found, names.SPAN_REQUEST)}
    phases: dict[int, list[Span]] = {}
    for span in named(found, names.PHASE_SPANS["prefill"], names.PHASE_SPANS["decode"]):
        phases.setdefault(span.parent or 0, []).append(span)
    walked = 0
    for parent, own in phases.items():
        told = roots[parent]
        decodes = [span.attributes for span in own if names.DECODE_STEPS in span.attributes]
        lost = [int(attributes[names.DECODE_PREEMPTIONS]) for attributes in decodes]
        if len(lost) < 2 or lost != [1] * (len(lost) - 1) + [0]:
            continue  # preempted while it was computed again, too, or never
        computed, generated = 0, 0
        due = int(told[names.INPUT_TOKENS]) - int(told[names.TOKENS_CACHED])
        for span in sorted(own, key=lambda span: span.start_ns):
            if names.DECODE_STEPS not in span.attributes:
                computed += int(span.attributes[names.PREFILL_TOKENS])
                continue
            assert computed == due
            generated += 1 + int(span.attributes[names.DECODE_STEPS])
            computed, due = 0, int(told[names.INPUT_TOKENS]) + generated
        assert generated == told[names.OUTPUT_TOKENS]
        walked += 1
    assert walked > 5


def test_hosts_clocks_are_off_by_what_the_truth_says() -> None:
    found = day(SKEWED)
    offsets = dict(found.truth["clocks"].iter_rows())
    arrivals = dict(found.truth["requests"].select("request_id", "arrival_ns").iter_rows())
    for span in named(found, names.SPAN_REQUEST):
        host = found.resources[span.resource][names.HOST_NAME]
        assert span.start_ns - arrivals[str(span.attributes[names.REQUEST_ID])] == offsets[str(host)]
    parents = {span.ids.span: span for span in found.spans if span.resource == 2}
    assert all(span.parent in parents for span in named(found, names.SPAN_REQUEST))


def test_lost_and_doubled_spans_are_counted() -> None:
    found, whole = day(LOSSY, 30.0), day(ORDINARY, 30.0)
    counts = Counter[str]()
    for kind, _, count in found.truth["faults"].iter_rows():
        counts[kind] += count
    assert len(found.spans) == len(whole.spans) - counts["lost"] + counts["duplicate"]
    assert len(found.spans) - len({span.ids for span in found.spans}) == counts["duplicate"]
    assert min(counts["lost"], counts["duplicate"], counts["orphan"]) > 0
    recorded = found.truth["requests"]["recorded"]
    assert recorded.sum() == len({span.ids for span in named(found, names.SPAN_REQUEST)})


def test_sampled_requests_stand_for_all() -> None:
    requests = day(SAMPLED, 60.0).truth["requests"]
    kept = requests.filter(pl.col("sampling_ratio").is_not_null())
    assert len(kept) < 0.4 * len(requests)
    assert (1 / kept["sampling_ratio"]).sum() == pytest.approx(len(requests), rel=0.1)
    slowest = requests.sort("ttft_ns", nulls_last=False)[-5:]
    assert slowest["sampling_ratio"].to_list() == [1.0] * 5


def test_images_cost_text_requests_time_and_nothing_where_there_are_none() -> None:
    mixed = make_day(replace(ORDINARY, seconds=30.0), 3).truth["requests"]
    texts = mixed.filter(pl.col("image_tokens") + pl.col("video_tokens") == 0)
    for column in ("interference_tpot_ns", "visual_interference_tpot_ns", "shared_tpot_ns"):
        costs = texts[column].drop_nulls().to_list()
        assert sum(costs) / len(costs) > 1e5
    visual = mixed.filter(pl.col("image_tokens") + pl.col("video_tokens") > 0)
    assert visual["interference_ttft_ns"].null_count() == len(visual)
    plain = make_day(replace(TEXT_ONLY, seconds=8.0), 3).truth["requests"]
    assert plain["interference_ttft_ns"].drop_nulls().to_list() == [0] * plain["ttft_ns"].count()


def test_windows_hold_what_they_fold_and_link_who_joins_or_leaves() -> None:
    found = day(ORDINARY)
    spans = sorted(steps(found), key=lambda span: span.start_ns)
    assert total(spans, names.STEP_COUNT) == len(found.truth["kv"])
    indices = [int(span.attributes[names.STEP_INDEX]) for span in spans]
    counts = [int(span.attributes[names.STEP_COUNT]) for span in spans]
    folded = [(index, count) for index, count in zip(indices, counts, strict=True) if count]
    assert all(index + count == following for (index, count), (following, _) in pairwise(folded))
    assert max(len(span.links) for span in spans) <= 64
    windows = [span for span in spans if span.name == names.SPAN_WINDOW]
    assert max(span.end_ns - span.start_ns for span in windows) < 1_100_000_000
    told = [span.attributes for span in windows if span.attributes[names.STEP_COUNT]]
    assert all(int(one[names.STEP_DECODE_REQUESTS]) % int(one[names.STEP_COUNT]) == 0 for one in told)
    linked = {ids.span for span in spans for ids in span.links}
    served = [span for span in named(found, names.SPAN_REQUEST) if not span.failed]
    assert {span.ids.span for span in served} <= linked


def test_every_attribute_and_span_is_of_the_vocabulary() -> None:
    found = day(SKEWED)
    ours = [span for span in found.spans if span.resource < 2]
    assert {span.name for span in ours} <= set(names.SPANS)
    assert {key for span in ours for key in span.attributes} <= set(names.ATTRIBUTES)
    assert {key for resource in found.resources for key in resource} <= set(names.ATTRIBUTES)
    kinds: dict[str, tuple[type, ...]] = {names.INT: (int,), names.DOUBLE: (int, float), names.STRING: (str,)}
    for span in ours:
        assert all(
            isinstance(value, kinds[names.ATTRIBUTES[key].type]) for key, value in span.attributes.items()
        )
    assert all(metric["name"] in names.ATTRIBUTES for metrics in found.metrics for metric in metrics)
    assert json.dumps(found.metrics)
