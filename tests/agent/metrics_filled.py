"""Metrics with a value in every series, and a page that serves them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ring_records import SINGLE, assemble

from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.facts import Value
from vtprof_agent.listening import Guard
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import series
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.metrics.page import serve
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

TRACE, SPAN = 0xABCD, 0x1234


def filled() -> Metrics:
    """Metrics with a value in every kind of series."""
    metrics = Metrics("1.2.3")
    single = assemble(SINGLE)[0]["1"]
    told: dict[str, Value] = {
        names.PREPROCESS_CACHE_HITS: 1, names.ENCODE_CACHE_HITS: 1, names.GPU_TIME_NS: 5, names.GPU_ENERGY_MJ: 2.5,
    }  # fmt: skip
    phases = tuple(replace(phase, attributes={**phase.attributes, **told}) for phase in single.phases)
    items = {names.ITEMS_IMAGE: 1, names.TOKENS_CACHED: 5}
    metrics.observe(replace(single, attributes={**single.attributes, **items}, phases=phases), (TRACE, SPAN))
    metrics.kv_bytes({"vl-2b": (2000, 1200)})
    metrics.delivered({"/out": (7, 2, 1)})
    node = agent_resource("agent-test")
    for energy_mj in (5_000, 7_500):
        samples = [Sample(key, energy_mj, True, hw_id="GPU-1") for key in series.GPU_COUNTERS]
        samples += [Sample(key, 0.5, hw_id="GPU-1") for key in series.GPU_GAUGES]
        metrics.gpu([Point(node, sample, 1) for sample in samples])
    metrics.attributed(
        {("GPU-1", key, names.DECODE): 1e9 for key in series.ATTRIBUTED},
        [
            CounterState("GPU-1", key, names.QUALITY_ATTRIBUTED, 9.5, 9, 1, False, 0.1, 0)
            for key in series.ATTRIBUTED
        ],
    )
    unlabelled = [one for one in series.SERIES.values() if not one.labels and one.kind == series.GAUGE]
    metrics.refresh({series.RECORDS_READ: 15, series.RECORDS_LOST: 2}, dict.fromkeys(unlabelled, 3))
    return metrics


@contextmanager
def served(
    metrics: Metrics, address: str = "127.0.0.1:0", guard: Guard | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[str, int]]:  # fmt: skip
    url, stop = serve(metrics.registry, address, guard, alive)
    try:
        yield url, int(url.rpartition(":")[2].partition("/")[0])
    finally:
        stop()
