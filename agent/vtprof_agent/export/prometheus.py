"""The ``/metrics`` page: TTFT, TPOT and phases by visual stratum, tokens, KV held, energy, and what the agent costs.

Labels are closed sets (phase, modality, stratum) or bounded by the node's hardware (GPU UUID). ``vtprof_kv_bytes``
splits into ``visual`` (image and video tokens) and ``other`` (text, audio and generated tokens): they add up.
"""

import platform
from collections.abc import Callable, Mapping

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from vtprof_agent.facts import FinishedRequest
from vtprof_agent.feed import FEED_COUNTS
from vtprof_schemas import SCHEMA_VERSION, names
from vtprof_schemas.errors import ConfigError
from vtprof_schemas.units import seconds_from_ns

LOOPBACK = "127.0.0.1"
MODALITY_VISUAL = "visual"
MODALITY_OTHER = "other"
MODALITY_OUTPUT = "output"
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
_PHASE_BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    120.0,
)
_TOKENS = {
    "text": names.TOKENS_TEXT,
    "image": names.TOKENS_IMAGE,
    "video": names.TOKENS_VIDEO,
    "audio": names.TOKENS_AUDIO,
    MODALITY_OUTPUT: names.OUTPUT_TOKENS,
}


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``:PORT`` or ``PORT``; without a host the page is for this machine only. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--metrics {text}: not HOST:PORT; give for example {LOOPBACK}:9464")
    return host.strip("[]") or LOOPBACK, int(port)


class PrometheusPage:
    """The agent's series in a registry of their own."""

    def __init__(self, version: str) -> None:
        """Declare the series."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        stratum = [names.LABEL_VISUAL_STRATUM]
        self._ttft = Histogram(
            names.PROM_TTFT, "Arrival to first token.", stratum, registry=registry, buckets=_TTFT_BUCKETS
        )
        self._tpot = Histogram(
            names.PROM_TPOT,
            "Mean time per output token after the first.",
            stratum,
            registry=registry,
            buckets=_TPOT_BUCKETS,
        )
        self._phases = Histogram(
            names.PROM_PHASE_DURATION, "Time of a request in a phase.", ["phase", *stratum],
            registry=registry, buckets=_PHASE_BUCKETS,
        )  # fmt: skip
        self._tokens = Counter(
            names.PROM_TOKENS, "Tokens of finished requests.", ["modality"], registry=registry
        )
        self.kv_bytes = Gauge(
            names.PROM_KV_BYTES, "KV cache held by running requests: visual tokens and all others.", ["modality"],
            registry=registry,
        )  # fmt: skip
        self._energy = Counter(
            names.PROM_GPU_ENERGY, "Energy of a GPU since the agent began.", ["gpu"], registry=registry
        )
        self.records_read = self._counter(
            "vtprof_agent_records_read_total", "Ring records read without fault."
        )
        self.records_lost = self._counter(names.PROM_RECORDS_LOST, "Ring records overwritten, torn or void.")
        self.records_dropped = self._counter(
            names.PROM_RECORDS_DROPPED,
            "Records that the probe could not write; most are void, and so among the lost too.",
        )
        self.hook_errors = self._counter(
            names.PROM_HOOK_ERRORS, "Exceptions that the probe's hooks swallowed."
        )
        self.faults = self._counter(
            "vtprof_agent_faults_total", "Faults of the agent's own that it went on after."
        )
        self.spans_exported = self._counter(
            "vtprof_agent_spans_exported_total", "Spans that a destination took."
        )
        self.spans_dropped = self._counter(
            "vtprof_agent_spans_dropped_total", "Spans that a destination did not take."
        )
        self.metrics_dropped = self._counter(
            "vtprof_agent_metric_batches_dropped_total",
            "Batches of metric points that a destination did not take.",
        )
        self.requests_unusable = self._counter(
            "vtprof_agent_requests_unusable_total", "Requests not exported: their arrival was lost."
        )
        self.feed_counts = {name: self._counter(name, meaning) for name, meaning in FEED_COUNTS.items()}
        self.rings = Gauge("vtprof_agent_rings", "Rings followed.", registry=registry)
        self.open_requests = Gauge(
            "vtprof_agent_open_requests", "Requests that have not ended.", registry=registry
        )
        self._own = psutil.Process()
        rss = Gauge("vtprof_agent_resident_memory_bytes", "Resident memory of the agent.", registry=registry)
        rss.set_function(lambda: float(self._own.memory_info().rss))
        self._cpu = self._counter("vtprof_agent_cpu_seconds_total", "CPU time of the agent.")
        labels = ["version", "schema", "python"]
        build = Gauge("vtprof_agent_build_info", "Version of the agent; always 1.", labels, registry=registry)
        build.labels(version, str(SCHEMA_VERSION), platform.python_version()).set(1)
        self._totals: dict[Counter, float] = {}
        self._energy_seen: dict[str, int] = {}

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, registry=self.registry)

    def refresh(self, totals: Mapping[Counter, float]) -> None:
        """Advance counters to running totals kept elsewhere, and the agent's own cost; called about once a second."""
        own = self._own.cpu_times()
        for counter, total in {**totals, self._cpu: own.user + own.system}.items():
            seen = self._totals.get(counter, 0.0)
            counter.inc(max(0.0, total - seen))
            self._totals[counter] = max(seen, total)

    def observe(self, finished: FinishedRequest) -> None:
        """Count a finished request."""
        attributes = finished.attributes
        visual = sum(int(attributes.get(key, 0)) for key in (names.TOKENS_IMAGE, names.TOKENS_VIDEO))
        stratum = names.visual_stratum(visual)
        for modality, key in _TOKENS.items():
            self._tokens.labels(modality).inc(int(attributes.get(key, 0)))
        totals: dict[str, int] = {}
        for phase in finished.phases:
            totals[phase.phase] = totals.get(phase.phase, 0) + phase.end_ns - phase.start_ns
        for phase_name, total_ns in totals.items():
            self._phases.labels(phase_name, stratum).observe(seconds_from_ns(total_ns))
        if finished.first_token_ns is None:
            return
        self._ttft.labels(stratum).observe(seconds_from_ns(finished.first_token_ns - finished.start_ns))
        output = int(attributes.get(names.OUTPUT_TOKENS, 0))
        if output >= 2:
            rest_ns = finished.end_ns - finished.first_token_ns
            self._tpot.labels(stratum).observe(seconds_from_ns(rest_ns) / (output - 1))

    def set_kv_bytes(self, visual: int, other: int) -> None:
        """State the KV bytes held now, over all rings that know the bytes of a token."""
        self.kv_bytes.labels(MODALITY_VISUAL).set(visual)
        self.kv_bytes.labels(MODALITY_OTHER).set(other)

    def forget_kv_bytes(self) -> None:
        """Take the series away: requests run, and no ring knows the bytes of a token."""
        self.kv_bytes.clear()

    def add_energy(self, gpu: str, total_mj: int) -> None:
        """Advance a GPU's energy to its running total; the driver's count starts anew with the driver."""
        seen = self._energy_seen.get(gpu)
        self._energy_seen[gpu] = total_mj
        self._energy.labels(gpu).inc(max(0, total_mj - seen) / 1000 if seen is not None else 0)

    def serve(self, address: str) -> tuple[str, Callable[[], None]]:
        """Serve the page; return its URL and a function that stops it. Raises ConfigError when the port is taken."""
        host, port = parse_address(address)
        try:
            server, thread = start_http_server(port, host, self.registry)
        except (OSError, ValueError) as error:  # ValueError: a host that is no name
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"--metrics {address!r}: cannot listen there ({reason}); choose another"
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join(1.0)

        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{server.server_port}/metrics", stop
