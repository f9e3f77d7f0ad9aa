"""Write a deployment's traces and metrics as OTLP JSON lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otlp_builder import attributes, document, metric_document, write

from deployments.deployment import Deployment
from deployments.serve import Server
from deployments.spans import gpu_of, request_spans, resource_of, step_span
from deployments.workload import requests
from vtprof_schemas import names

_EVERY_NS = 2_000_000_000


def write_traces(deployment: Deployment, folder: Path) -> Path:
    """Serve the deployment's requests and write what an agent would have told of them; return the folder."""
    folder.mkdir(parents=True)
    asked = requests(deployment)
    for replica in range(len(deployment.replicas)):
        own = [one for one in asked if one.replica == replica]
        server = Server(deployment)
        served = {one.asked.number: one for one in server.run(own)}
        spans = [span for one in own for span in request_spans(deployment, one, served.get(one.number))]
        index = 0
        for step in server.steps:
            spans.append(step_span(replica, index, step))
            index += step.iterations
        resource = resource_of(deployment, replica)
        end_ns = max(one.end_ns for one in served.values())
        write(
            folder / f"traces-{replica}.jsonl", document(*spans, resource=resource),
            *_metrics(deployment, replica, resource, end_ns),
        )  # fmt: skip
    return folder


def _metrics(
    deployment: Deployment, replica: int, resource: dict[str, Any], end_ns: int
) -> Iterator[dict[str, Any]]:
    """Yield the GPU's readings, those of the process, and what the agent counted of itself."""
    gpu, told = deployment.gpu, {names.SERVICE_INSTANCE_ID: "agent", names.HOST_NAME: f"node-{replica}"}
    moments = range(0, end_ns + _EVERY_NS, _EVERY_NS)

    def read(name: str, of_moment: Any) -> dict[str, Any]:
        made = metric_document(name, [(at, float(of_moment(at))) for at in moments], told)
        for point in made["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"]:
            point["attributes"] = attributes({names.HW_ID: gpu_of(replica), names.GPU_SOURCE: "nvml"})
        return made

    yield read(names.GPU_BUSY_RATIO, lambda _: gpu.busy)
    yield read(names.GPU_SM_CLOCK_MHZ, lambda at: gpu.clock_mhz if at else gpu.idle_clock_mhz)
    yield read(names.GPU_POWER_MW, lambda _: gpu.power_w * 1e3)
    yield read(names.GPU_THROTTLE_POWER_NS, lambda at: gpu.throttled * at)
    yield read(names.GPU_THROTTLE_THERMAL_NS, lambda _: 0)
    yield read(names.GPU_MEMORY_USED_BYTES, lambda _: gpu.used_bytes)
    yield read(names.GPU_MEMORY_TOTAL_BYTES, lambda _: gpu.total_bytes)
    yield metric_document(
        names.HOST_PROCESS_CPU_RATIO, [(at, deployment.frontend.cores) for at in moments], resource
    )
    for name, total in (
        (names.AGENT_RECORDS_READ, 10_000 - deployment.lost_records),
        (names.AGENT_RECORDS_LOST, deployment.lost_records),
    ):
        yield metric_document(name, [(0, 0.0), (end_ns, float(total))], told)
