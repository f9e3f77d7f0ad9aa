"""What the agent's metrics cost: counting a request, a scrape of a node with 8 GPUs, and the same as OpenTelemetry metrics.

Beside each stands what prometheus_client's own histogram and text format take for as much in the same run.
Budgets: 30 us a request, 20 ms a scrape.
"""

import argparse
import json
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics import exposition as openmetrics

from vtprof_agent.facts import FinishedRequest, PhaseSpan, RequestRef, Value
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import series
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.metrics.otel import registry_metrics
from vtprof_agent.metrics.page import render
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

GPUS = 8
OPENMETRICS = "application/openmetrics-text"
STRATA = (0, 256, 1024, 4096, 16384, 16385)
PHASES = (names.PREPROCESS, names.QUEUE, names.ENCODE, names.PREFILL, names.DECODE)
BUDGET_REQUEST_US, BUDGET_SCRAPE_MS = 30, 20


def request(visual: int, power: int) -> FinishedRequest:
    """Make a request with five phases of 10 ** ``power`` ns."""
    length = 10**power
    told: dict[str, Value] = {names.GPU_TIME_NS: 5, names.GPU_ENERGY_MJ: 2.5}
    phases = tuple(PhaseSpan(phase, at * length, (at + 1) * length, told) for at, phase in enumerate(PHASES))
    attributes: dict[str, Value] = {
        names.REQUEST_STATUS: names.STATUS_OK, names.TOKENS_TEXT: 26, names.TOKENS_IMAGE: visual,
        names.INPUT_TOKENS: 26 + visual, names.OUTPUT_TOKENS: 16, names.TOKENS_CACHED: 0, names.ITEMS_IMAGE: 1,
    }  # fmt: skip
    return FinishedRequest(RequestRef(1), 0, 5 * length, 4 * length, attributes, phases)


def node() -> Metrics:
    """Return metrics with every stratum, phase, bucket and GPU in use."""
    metrics = Metrics("bench")
    for visual in STRATA:
        for power in range(5, 11):
            metrics.observe(request(visual, power), (1, 2))
    gpus = [f"GPU-6b3b7c3a-0000-0000-0000-{number:012}" for number in range(GPUS)]
    samples = [Sample(key, 0.5, hw_id=gpu) for gpu in gpus for key in series.GPU_GAUGES]
    samples += [Sample(key, 5, True, hw_id=gpu) for gpu in gpus for key in series.GPU_COUNTERS]
    resource = agent_resource("bench")
    metrics.gpu([Point(resource, sample, 1) for sample in samples])
    phases = (names.ENCODE, names.PREFILL, names.DECODE, names.UNATTRIBUTED)
    metrics.attributed(
        {(gpu, key, phase): 1e9 for gpu in gpus for key in series.ATTRIBUTED for phase in phases}, ()
    )
    return metrics


def best_s(work: Callable[[], object], times: int, rounds: int = 7) -> float:
    """Return the seconds of one call, in the quietest of the rounds."""
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - begin) / times)
    return min(found)


def measure() -> dict[str, float]:
    """Measure all of it."""
    metrics, one = node(), request(1000, 7)
    theirs = Histogram("theirs_seconds", "As ours.", ["phase", "stratum"], registry=CollectorRegistry())
    exemplar = {"trace_id": f"{1:032x}", "span_id": f"{2:016x}"}
    observations = len(PHASES) + 2

    def observe_theirs() -> None:
        for _ in range(observations):
            theirs.labels("decode", "1k").observe(0.02, exemplar)

    return {
        "request_us": best_s(lambda: metrics.observe(one, (1, 2)), 1000) * 1e6,
        "client_histogram_request_us": best_s(observe_theirs, 1000) * 1e6,
        "scrape_text_ms": best_s(lambda: render(metrics.registry, ""), 5) * 1e3,
        "scrape_openmetrics_ms": best_s(lambda: render(metrics.registry, OPENMETRICS), 5) * 1e3,
        "client_openmetrics_ms": best_s(lambda: openmetrics.generate_latest(metrics.registry), 5) * 1e3,  # type: ignore[no-untyped-call]
        "otel_ms": best_s(lambda: registry_metrics(metrics.registry, 1, 2), 5) * 1e3,
        "lines": render(metrics.registry, "")[0].count(b"\n"),
        "budget_request_us": BUDGET_REQUEST_US,
        "budget_scrape_ms": BUDGET_SCRAPE_MS,
    }


def main() -> None:
    """Run and print, as text or with --json as one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    result = measure()
    if parser.parse_args().json:
        print(json.dumps(result))
        return
    print(
        f"a request: {result['request_us']:.1f} us (budget {BUDGET_REQUEST_US}; "
        f"prometheus_client's histograms alone {result['client_histogram_request_us']:.1f} us)\n"
        f"a scrape of {result['lines']:,} lines, {GPUS} GPUs: text {result['scrape_text_ms']:.1f} ms, "
        f"OpenMetrics {result['scrape_openmetrics_ms']:.1f} ms (budget {BUDGET_SCRAPE_MS}; "
        f"as the client has it {result['client_openmetrics_ms']:.1f} ms)\n"
        f"as OpenTelemetry metrics: {result['otel_ms']:.1f} ms"
    )


if __name__ == "__main__":
    main()
