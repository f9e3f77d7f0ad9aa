"""What finished requests add to the series: values by hand from the records, and nothing where an engine tells nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest
from ring_records import SINGLE, assemble

from vtprof_agent.facts import FinishedRequest, PhaseSpan, Value
from vtprof_agent.metrics import series
from vtprof_agent.metrics.metrics import Metrics
from vtprof_schemas import names


def single() -> FinishedRequest:
    return assemble(SINGLE)[0]["1"]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def request(*phases: PhaseSpan, **attributes: Value) -> FinishedRequest:
    told = {"vtprof." + key.replace("__", "."): one for key, one in attributes.items()}
    base = single()
    return replace(base, attributes={names.REQUEST_STATUS: names.STATUS_OK, **told}, phases=phases)


def test_a_request_is_timed_in_its_visual_stratum() -> None:
    metrics = Metrics("1")
    metrics.observe(single())
    # 20 visual tokens: stratum 256. TTFT 201 - 100 ns; TPOT (225 - 201) / 2 = 12 ns; decode 20 ns.
    assert value(metrics, names.PROM_TTFT + "_count", visual_stratum="256") == 1
    assert value(metrics, names.PROM_TTFT + "_sum", visual_stratum="256") == pytest.approx(101e-9)
    assert value(metrics, names.PROM_TPOT + "_sum", visual_stratum="256") == pytest.approx(12e-9)
    decode = value(metrics, names.PROM_PHASE_DURATION + "_sum", phase="decode", visual_stratum="256")
    assert decode == pytest.approx(20e-9)


def test_tokens_items_and_statuses_are_counted_and_what_is_not_told_is_absent() -> None:
    metrics = Metrics("1")
    metrics.observe(request(tokens__text=10, tokens__image=20, items__image=2))
    metrics.observe(request(tokens__text=5, items__image=1))
    assert value(metrics, names.PROM_TOKENS, modality="text") == 15
    assert value(metrics, names.PROM_TOKENS, modality="image") == 20
    assert value(metrics, names.PROM_TOKENS, modality="audio") is None
    assert value(metrics, "vtprof_items_total", modality="image") == 3
    assert value(metrics, "vtprof_requests_total", status="ok") == 2
    metrics.observe(replace(single(), attributes={names.REQUEST_STATUS: "an engine's own word"}))
    assert value(metrics, "vtprof_requests_total", status="error") == 1


def test_caches_are_counted_only_where_the_engine_tells_what_they_held() -> None:
    metrics = Metrics("1")
    encode = {names.ENCODE_ITEMS: 1, names.ENCODE_CACHE_HITS: 2}
    metrics.observe(
        request(
            PhaseSpan(names.PREPROCESS, 0, 5, {names.PREPROCESS_CACHE_HITS: 1}),
            PhaseSpan(names.ENCODE, 5, 6, dict[str, Value](encode)),
            PhaseSpan(names.ENCODE, 7, 8, dict[str, Value](encode)),
            items__image=4,
        )
    )
    # The processor looked up 4 images and found 1; the encoder's cache had 2 + 2, and 1 + 1 were encoded.
    assert value(metrics, "vtprof_cache_lookup_items_total", cache="processor") == 4
    assert value(metrics, "vtprof_cache_hit_items_total", cache="processor") == 1
    assert value(metrics, "vtprof_cache_lookup_items_total", cache="encoder") == 6
    assert value(metrics, "vtprof_cache_hit_items_total", cache="encoder") == 4

    silent = Metrics("1")
    assert value(silent, "vtprof_preemptions_total") is None
    assert value(silent, "vtprof_prefix_cache_lookup_tokens_total") is None
    silent.observe(request(PhaseSpan(names.ENCODE, 5, 6, {names.ENCODE_ITEMS: 1}), items__image=4))
    assert value(silent, "vtprof_cache_lookup_items_total", cache="encoder") is None
    assert value(silent, "vtprof_cache_lookup_items_total", cache="processor") is None


def test_prefix_hits_divide_by_the_prompt_tokens_of_the_same_requests() -> None:
    metrics = Metrics("1")
    told = {names.INPUT_TOKENS: 100, names.TOKENS_CACHED: 64, names.REQUEST_STATUS: "ok"}
    metrics.observe(replace(single(), attributes=dict[str, Value](told)))
    metrics.observe(replace(single(), attributes={names.INPUT_TOKENS: 50, names.REQUEST_STATUS: "ok"}))
    assert value(metrics, "vtprof_prefix_cache_lookup_tokens_total") == 100
    assert value(metrics, "vtprof_prefix_cache_hit_tokens_total") == 64


def test_preemptions_gpu_time_and_energy_of_phases_add_up() -> None:
    metrics = Metrics("1")
    spans = [
        PhaseSpan(names.DECODE, 0, 5, {names.DECODE_PREEMPTIONS: 1, names.GPU_TIME_NS: 3, names.GPU_ENERGY_MJ: 1.5}),
        PhaseSpan(names.DECODE, 9, 20, {names.DECODE_PREEMPTIONS: 2, names.GPU_TIME_NS: 4}),
        PhaseSpan(names.PREFILL, 5, 9, {}),
    ]  # fmt: skip
    metrics.observe(request(*spans, tokens__image=300))
    assert value(metrics, "vtprof_preemptions_total") == 3
    labels = {"phase": "decode", "visual_stratum": "1k"}
    assert value(metrics, "vtprof_request_gpu_seconds_total", **labels) == pytest.approx(7e-9)
    assert value(metrics, "vtprof_request_energy_joules_total", **labels) == pytest.approx(1.5e-3)
    assert value(metrics, "vtprof_phase_duration_seconds_count", **labels) == 1  # one request, two stretches
    assert value(metrics, "vtprof_request_energy_joules_total", phase="prefill", visual_stratum="1k") is None


GIVEN: dict[str, Value] = {names.DECODE_PREEMPTIONS: 0, names.GPU_ENERGY_MJ: 1.5}
MISSING: dict[str, Value] = {names.DECODE_PREEMPTIONS: 0}
HIT: dict[str, Value] = {names.ENCODE_ITEMS: 0, names.ENCODE_CACHE_HITS: 1}


@pytest.mark.parametrize(
    ("phases", "covered"),
    [
        ([(names.QUEUE, {}), (names.PREFILL, GIVEN), (names.DECODE, GIVEN)], "whole"),
        ([(names.PREFILL, GIVEN), (names.DECODE, GIVEN), (names.DECODE, {names.PHASE: names.DECODE})], "whole"),
        ([(names.ENCODE, HIT), (names.PREFILL, GIVEN)], "whole"),
        ([(names.PREFILL, {**GIVEN, names.GPU_ENERGY_MJ: 0.0})], "whole"),
        ([(names.ENCODE, MISSING), (names.PREFILL, GIVEN)], "part"),
        ([(names.PREFILL, GIVEN), (names.DECODE, GIVEN), (names.DECODE, MISSING)], "part"),
        ([(names.PREFILL, MISSING), (names.DECODE, MISSING)], "none"),
        ([(names.QUEUE, {}), (names.PREPROCESS, MISSING)], None),
        ([], None),
    ],
)  # fmt: skip
def test_requests_are_counted_by_how_much_of_their_energy_is_known(
    phases: list[tuple[str, dict[str, Value]]], covered: str | None
) -> None:
    """A hit of the encoder cache ran nowhere, and what covers a phase in the middle cuts it into fragments."""
    metrics = Metrics("1")
    for _ in range(2):
        metrics.observe(
            request(*(PhaseSpan(name, at, at + 1, told) for at, (name, told) in enumerate(phases)))
        )
    found = {
        one: value(metrics, "vtprof_requests_energy_coverage_total", coverage=one, visual_stratum="0")
        for one in ("whole", "part", "none")
    }
    assert found == {one: 2 if one == covered else None for one in found}


def test_an_assembled_request_is_known_once_all_of_its_phases_are() -> None:
    done = assemble(SINGLE)[0]["1"]
    assert {phase.phase for phase in done.phases} >= {names.ENCODE, names.PREFILL, names.DECODE}
    known = tuple(
        replace(phase, attributes={**phase.attributes, names.GPU_ENERGY_MJ: 1.0}) for phase in done.phases
    )
    metrics = Metrics("1")
    metrics.observe(done)
    metrics.observe(replace(done, phases=known))
    for covered in ("none", "whole"):
        assert (
            value(metrics, "vtprof_requests_energy_coverage_total", coverage=covered, visual_stratum="256")
            == 1
        )


def test_only_an_exported_request_is_an_exemplar() -> None:
    metrics = Metrics("1", unix_s=lambda: 1000.5)
    metrics.observe(single(), None)
    assert not _exemplars(metrics)
    metrics.observe(single(), (7, 9))
    metrics.observe(single(), None)
    # TTFT, TPOT and the five phases that it had.
    assert _exemplars(metrics) == {("0" * 31 + "7", "0" * 15 + "9", 1000.5)} and len(_all(metrics)) == 7


def _all(metrics: Metrics) -> list[tuple[str, str, float]]:
    return [
        (str(one.labels["trace_id"]), str(one.labels["span_id"]), float(one.timestamp or 0))
        for family in metrics.registry.collect()
        for sample in family.samples
        if (one := sample.exemplar) is not None
    ]


def _exemplars(metrics: Metrics) -> set[tuple[str, str, float]]:
    return set(_all(metrics))


_BOUNDS_NS = [round(bound * 1e9) for bound in series.TTFT.buckets]


@given(st.lists(st.one_of(st.integers(0, 10**12), st.sampled_from(_BOUNDS_NS)), max_size=40))
def test_buckets_are_those_of_prometheus_own_client(ttfts_ns: list[int]) -> None:
    metrics, registry = Metrics("1"), CollectorRegistry()
    theirs = Histogram(
        series.TTFT.name, series.TTFT.meaning, ["visual_stratum"], registry=registry, buckets=series.TTFT.buckets
    )  # fmt: skip
    base = replace(single(), phases=(), attributes={names.REQUEST_STATUS: "ok"}, start_ns=0, end_ns=10**12)
    for ttft_ns in ttfts_ns:
        metrics.observe(replace(base, first_token_ns=ttft_ns))
        theirs.labels("0").observe(ttft_ns / 1e9)
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                ours = metrics.registry.get_sample_value(sample.name, sample.labels)
                assert ours == pytest.approx(sample.value), sample
    assert generate_latest(registry)


def test_the_strata_are_the_only_ones_whatever_the_token_counts() -> None:
    metrics = Metrics("1")
    for tokens in (0, 1, 256, 257, 1024, 4096, 16384, 16385, 10**15):
        metrics.observe(request(tokens__image=tokens))
    strata = {
        sample.labels["visual_stratum"]
        for family in metrics.registry.collect()
        if family.name == names.PROM_TTFT
        for sample in family.samples
    }
    assert strata == {"0", "256", "1k", "4k", "16k", "more"}
