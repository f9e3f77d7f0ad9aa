"""Two servers of different models on one GPU: spans, steps and series stay apart, and their counters are estimates."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counted_steps import DRAM, SECOND
from family_rings import ALL, INFO, ONE, Following, Kept, Server
from ring_records import SINGLE, arrived, assemble, prefill, prompt, step, step_facts

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.metrics.metrics import MOST_MODELS, Metrics
from vtprof_agent.metrics.otel import registry_metrics
from vtprof_agent.step_work import Measures
from vtprof_schemas import names

MODELS = {"red": "red-vl-2b", "blue": "blue-vl-7b"}
MS = 1_000_000


def info_of(server: str) -> dict[str, dict[str, Any]]:
    """Return what a server's processes say of themselves; both name the same GPU."""
    own = {names.FAMILY: server, names.SERVICE_NAME: f"chat-{server}"}
    told = {name: {**INFO[name], **own} for name in ALL}
    told["api"][names.REQUEST_MODEL] = MODELS[server]
    return told


def followed(folder: Path, page: Metrics) -> Kept:
    """Have both servers serve a request of the same number with the same records."""
    agent = Following(folder, page)
    red, blue = Server(folder, info_of("red")), Server(folder, info_of("blue"))
    red.write_all(ONE)
    blue.write_all(ONE)
    agent.settle()
    return agent.kept


def test_spans_of_each_server_carry_its_own_model_and_service_and_link_its_own_steps(tmp_path: Path) -> None:
    spans = followed(tmp_path, Metrics("1")).spans
    roots = [span for span in spans if span.name == names.SPAN_REQUEST]
    found = {
        str(span.attributes[names.REQUEST_MODEL]): span.resource.attributes[names.SERVICE_NAME]  # type: ignore[index]
        for span in roots
    }
    assert found == {"red-vl-2b": "chat-red", "blue-vl-7b": "chat-blue"}
    assert len({span.context.trace_id for span in roots if span.context}) == len(roots) == 2
    service_of = {
        span.context.span_id: span.resource.attributes[names.SERVICE_NAME] for span in roots if span.context
    }
    steps = [span for span in spans if span.name in (names.SPAN_STEP, names.SPAN_WINDOW)]
    linked = [
        (span.resource.attributes[names.SERVICE_NAME], service_of[link.context.span_id])
        for span in steps
        for link in span.links
    ]
    assert {mine for mine, _ in linked} == {"chat-red", "chat-blue"}
    assert all(mine == theirs for mine, theirs in linked)
    assert all(span.resource.attributes[names.HW_ID] == "GPU-0" for span in steps)


def test_series_of_requests_are_told_by_model_and_add_up_to_all(tmp_path: Path) -> None:
    page = Metrics("1")
    followed(tmp_path, page)
    value = page.registry.get_sample_value
    for model in MODELS.values():
        assert value(names.PROM_TTFT + "_count", {names.LABEL_VISUAL_STRATUM: "256", "model": model}) == 1
        assert value(names.PROM_TOKENS, {"modality": "image", "model": model}) == 20
        assert value("vtprof_requests_total", {"status": "ok", "model": model}) == 1
    assert value(names.PROM_TOKENS, {"modality": "image"}) is None
    told = {metric.name: metric for metric in registry_metrics(page.registry, 0, 1)}
    points = told["vtprof.ttft"].data.data_points
    assert {point.attributes[names.REQUEST_MODEL] for point in points} == set(MODELS.values())  # type: ignore[index]


def test_models_beyond_the_limit_are_counted_together_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Adapters are loaded as one pleases, and a label without end would fill the memory of agent and Prometheus."""
    page, (single,) = Metrics("1"), assemble(SINGLE)[0].values()

    def serve(model: str) -> None:
        page.observe(replace(single, attributes={**single.attributes, names.REQUEST_MODEL: model}))

    with caplog.at_level(logging.WARNING):
        serve("/models/" + 72 * "x" + "-one")
        serve("/models/" + 72 * "x" + "-two")
        for number in (*range(MOST_MODELS + 1), 0):
            serve(f"adapter-{number}")
        serve("")
    status = str(single.attributes[names.REQUEST_STATUS])
    (family,) = [one for one in page.registry.collect() if one.name == "vtprof_requests"]
    counted = {sample.labels.get("model"): sample.value for sample in family.samples}
    assert counted == {
        "/models/" + 72 * "x": 1, "adapter-0": 2, **{f"adapter-{number}": 1 for number in range(1, 14)},
        "other": 4, None: 1,
    }  # fmt: skip
    assert all(sample.labels["status"] == status for sample in family.samples)
    assert caplog.messages == ["more than 16 models: metrics count the others together, as model=other"]


def test_a_model_that_is_named_other_is_told_from_those_beyond_the_limit() -> None:
    page, (single,) = Metrics("1"), assemble(SINGLE)[0].values()
    for model in ("=other", "other", "other", "other-2", *map(str, range(MOST_MODELS + 1))):
        page.observe(replace(single, attributes={**single.attributes, names.REQUEST_MODEL: model}))
    (family,) = [one for one in page.registry.collect() if one.name == "vtprof_requests"]
    counted = {sample.labels.get("model"): sample.value for sample in family.samples}
    assert {"==other", "=other", "other-2", "other"} <= counted.keys()
    # 3 + 17 models, of which 16 have a label of their own
    assert (counted["==other"], counted["=other"], counted["other"]) == (1, 2, 4)
    assert len(counted) == MOST_MODELS + 1


def qualities(servers: int) -> list[set[str]]:
    """Return by server the labels of its last 20 of 60 s; they decode side by side, as long as their context is."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    made = []
    for server in range(servers):
        one = Assembly(AssemblySettings(), expects_gpu_time=False, measures=Measures(meter))
        one.steps.gpus[0] = ("GPU-0",)
        for at, (code, values) in enumerate(
            (arrived(1, 0), prompt(1, 10), prefill(1, 1, tokens=10), step(1, 0, 5 * MS, prefill_tokens=10))
        ):
            one.feed(code, at + 1, values, 0)
        made.append((server, one))
    found: list[set[str]] = [set() for _ in made]
    for tenth in range(1, 600):
        begin = tenth * 100 * MS
        whole = 0.0
        for server, one in made:
            lasts_ms = 30 + (7 * tenth + 3 * server) % 11
            lasts = lasts_ms * MS
            start = begin + (10 + 20 * server) * MS
            context = 100 * lasts_ms
            code, values = step(1 + tenth, start, start + lasts, decoders=1, decode_context_tokens=context)
            one.feed(code, 10 + tenth, values, begin)
            whole += lasts * 0.5
        meter.add_window(CounterWindow("GPU-0", DRAM, begin, begin + 100 * MS, whole))
        meter.advance(begin + 100 * MS)
        for (_, one), labels in zip(made, found, strict=True):
            one.advance(begin + 100 * MS)
            for fact in step_facts(one):
                if fact.start_ns > 40 * SECOND and fact.counters is not None:
                    labels.add(fact.counters.quality[DRAM])
    return found


def test_what_each_of_two_servers_is_given_of_a_gpu_is_estimated_and_of_one_alone_is_not() -> None:
    assert qualities(2) == [{names.QUALITY_ESTIMATED}, {names.QUALITY_ESTIMATED}]
    (alone,) = qualities(1)
    assert alone and names.QUALITY_ESTIMATED not in alone
