"""Synthetic days: KV held over time by modality, hits of caches and preemptions against what engines really did."""

from collections import Counter
from dataclasses import replace

import polars as pl
import pytest
from days_fixture import Analyzed, analyzed
from synthetic.day import make_day
from synthetic.scenarios import CACHES, CROWDED, TWO_ENGINES

from vtprof_schemas import names

MODALITIES = ("text", "image", "video", "output")
_WITHIN = 0.02
"""Of a modality's tokens x time; the spans of a request do not tell how its tokens grew within a step."""
_SMALL = 0.01
"""Of all tokens x time: a modality that few requests have may be off by that of one of them."""


@pytest.fixture(
    scope="module",
    params=[replace(CACHES, seconds=25), replace(CROWDED, seconds=45), replace(TWO_ENGINES, seconds=12)],
    ids=lambda scenario: scenario.name,
)
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    return analyzed(make_day(request.param, 5, interference=False), tmp_path_factory.mktemp("day"))


def test_tokens_held_over_time_are_those_of_the_engines(day: Analyzed) -> None:
    held = day.day.truth["kv"].with_columns(seconds=(pl.col("end_ns") - pl.col("ts_ns")) / 1e9)
    found = {
        (instance.split("-")[0], modality): amount
        for instance, modality, amount in day.table(
            "SELECT instance, modality, token_seconds FROM kv"
        ).iter_rows()
    }
    for engine in day.day.scenario.engines:
        own = held.filter(pl.col("engine") == engine.name)
        true = {
            modality: own.select((pl.col(f"{modality}_tokens") * pl.col("seconds")).sum()).item()
            for modality in MODALITIES
        }
        slack = _SMALL * sum(true.values())
        for modality in MODALITIES:
            off = abs(found[engine.name, modality] - true[modality])
            assert off <= max(_WITHIN * true[modality], min(slack, 0.1 * true[modality])), modality


def test_hits_of_every_cache_are_counted(day: Analyzed) -> None:
    true: Counter[tuple[str, str]] = Counter()
    for span in day.day.spans:
        for cache, hit, missed in (
            ("processor", names.PREPROCESS_CACHE_HITS, None),
            ("encoder", names.ENCODE_CACHE_HITS, names.ENCODE_ITEMS),
            ("prefix", names.PREFILL_CACHED_TOKENS, None),
        ):
            true[cache, "hits"] += int(span.attributes.get(hit, 0))
            true[cache, "lookups"] += int(span.attributes.get(hit, 0)) + int(
                span.attributes.get(missed or "", 0)
            )
    found = {
        row[0]: row[1:]
        for row in day.table("SELECT cache, hits, lookups FROM caches WHERE source = 'spans'").iter_rows()
    }
    for cache in ("processor", "encoder", "prefix"):
        assert found[cache][0] == true[cache, "hits"], cache
    assert found["encoder"][1] == true["encoder", "lookups"]
    assert true["prefix", "hits"] == day.day.truth["requests"]["cached_tokens"].sum()


def test_preemptions_are_counted_and_images_answer_for_their_part(day: Analyzed) -> None:
    table = day.table(
        "SELECT coalesce(sum(count), 0), coalesce(sum(attributed_to_images), 0) FROM preemptions"
    )
    count, to_images = table.row(0)
    assert count == day.day.truth["requests"]["preemptions"].sum()
    kv = day.day.truth["kv"]
    visual = kv.select(
        pl.sum_horizontal("image_tokens", "video_tokens") / pl.sum_horizontal("^.*_tokens$")
    ).to_series()
    if count:
        assert 0 < to_images < count * visual.to_numpy().max()
