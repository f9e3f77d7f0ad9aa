"""Puts an agent together from its settings: destinations, samplers, Prometheus page, ring folder lock."""

import gc
import logging
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.budget import Budget
from vtprof_agent.config import Config
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.step_time import StepTimeFit
from vtprof_agent.engine_metrics.scraper import EngineScraper, page_url
from vtprof_agent.export.destination import Destination
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.rotating import Rotation
from vtprof_agent.export.spool import open_spool
from vtprof_agent.facts import Value
from vtprof_agent.feed import Feed, Feeds
from vtprof_agent.idle_power_store import IdlePowerStore
from vtprof_agent.listening import Guard
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.metrics.page import serve
from vtprof_agent.observer import Observer
from vtprof_agent.oversight import Oversight
from vtprof_agent.processes import Processes
from vtprof_agent.progress_store import claim, claim_anew
from vtprof_agent.receiver.decode import Lookup
from vtprof_agent.receiver.gate import Gate
from vtprof_agent.receiver.receiver import Receiver
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.dcgm import exporter_url
from vtprof_agent.sampling import Sampling
from vtprof_agent.step_work import Measures
from vtprof_agent.tail_sampling import TailSampling
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
LEAST_RINGS, MOST_RINGS = 8, 1024
SPARE_FILES = 64
"""Open files for destinations, the metrics page, /proc and the libraries."""
_GC_THRESHOLDS = (20_000, 10, 10)
"""Spans and steps come and go by the thousand, and hardly ever in cycles: more than are held at a time."""


@contextmanager
def agent(config: Config, host_peaks: Mapping[str, Value]) -> Iterator[Agent]:
    """Give an agent that is ready to run; what it opened is closed at the end. Raises VtprofError."""
    instance = f"{os.getpid():x}{time.time_ns() // NS_PER_S & 0xFFFF:04x}"
    node, version = agent_resource(f"agent-{instance}"), agent_version()
    with ExitStack() as stack:
        lock = claim(config.ring_dir)
        stack.callback(os.close, lock)
        metrics = Metrics(version)
        guard = Guard(config.tls_cert_file, config.tls_key_file, config.token_file, config.insecure_listen)
        url, filled = None, threading.Event()
        if config.metrics is not None:
            url, stop = serve(metrics.registry, config.metrics, guard, metrics.alive, filled)
            stack.callback(stop)
        processes = Processes()
        budget = Budget(config.budget_cpu_ratio, config.budget_rss_bytes, config.budget_probe_ratio)
        gate = Gate(config.budget_rss_bytes, lambda: budget.strained)
        feeds = _feeds(config, guard, processes.get, gate, stack)
        destinations = _destinations(config, instance)
        meter = RollingMeter()
        sampling = _sampling(config, meter)
        tail = TailSampling(config.keep_ratio, config.keep_ttft_above_s) if config.keep_ratio < 1 else None
        oversight = Oversight(
            config.ring_dir,
            version,
            budget,
            meter=meter,
            tail=tail,
            sources=sampling,
            spool_limit_bytes=config.spool_bytes if config.otlp_endpoint else None,
        )
        running = Agent(
            config.ring_dir,
            destinations,
            LoopSettings(
                config.poll_min_s, config.poll_max_s, config.scan_s, config.flush_s, config.batch_spans,
                config.stop_s, most_rings(),
            ),
            AssemblySettings(int(config.gpu_time_hold_s * NS_PER_S), max_open_requests=max(1, config.max_open_requests)),
            observer=Observer(
                node, metrics, sampling=sampling, sample_s=config.sample_s, meter=meter, oversight=oversight,
                idle_power=IdlePowerStore(config.ring_dir, meter) if sampling else None,
                started_unix_ns=time.time_ns(),
            ),
            host_peaks=host_peaks,
            feeds=feeds,
            measures=Measures(meter, StepTimeFit),
            keep=tail.ratio if tail else None,
            processes=processes,
            claim=partial(claim_anew, config.ring_dir, lock),
        )  # fmt: skip
        running.look()
        filled.set()
        if url is not None:  # said when nothing can fail any more
            logger.info("metrics at %s", url)
        _spare_the_collector(stack)
        yield running


def _spare_the_collector(stack: ExitStack) -> None:
    """Let garbage be looked for less often, and not in what was loaded: it took a tenth of all that the agent does."""
    stack.callback(gc.set_threshold, *gc.get_threshold())
    stack.callback(gc.unfreeze)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _sampling(config: Config, meter: RollingMeter) -> Sampling | None:
    if config.dcgm_url is not None:
        exporter_url(config.dcgm_url)
    if not config.sample_s:
        return None
    return Sampling.start(
        config.samplers, gpu_sample_s=config.gpu_sample_s, dcgm_url=config.dcgm_url, meter=meter
    )


def _feeds(config: Config, guard: Guard, lookup: Lookup, gate: Gate, stack: ExitStack) -> Feeds:
    """Open what comes from engines without the probe; all of it is closed with the stack."""
    feeds: list[Feed] = []
    urls = dict.fromkeys(map(page_url, config.engine_metrics))
    if Receiver.asked_for(config):
        feeds.append(Receiver(config, guard, lookup, gate))
        stack.callback(feeds[-1].close)
    for url in urls:
        feeds.append(EngineScraper(url, config.engine_metrics_s))
        stack.callback(feeds[-1].close)
    return Feeds(feeds)


def most_rings() -> int:
    """Return how many rings can be followed at a time: each holds a file open, and some are needed for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_RINGS
    return max(LEAST_RINGS, min(MOST_RINGS, soft - SPARE_FILES))


def agent_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("vtprof")
    except PackageNotFoundError:
        return "unknown"


def _destinations(config: Config, instance: str) -> list[Destination]:
    out_dir = config.files_dir
    if out_dir != config.out_dir:
        logger.warning("no destination named: writing to %s", out_dir)
    found: list[Destination] = []
    if out_dir is not None:
        rotation = Rotation(config.rotate_bytes, config.rotate_age_s, config.keep_bytes or None)
        found.append(FileDestination(out_dir, instance, rotation))
    if config.otlp_endpoint is not None:
        found.append(
            OtlpDestination(
                config.otlp_endpoint,
                protocol=config.otlp_protocol,
                timeout_s=config.otlp_timeout_s,
                queued_batches=config.otlp_queue_batches,
                token_file=config.otlp_token_file,
                ca_file=config.otlp_ca_file,
                spool=open_spool(config.spool_dir, config.otlp_endpoint, config.spool_bytes),
            )
        )
    return found
