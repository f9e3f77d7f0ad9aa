"""Puts an agent together from its settings: destinations, samplers, Prometheus page, ring folder lock."""

import logging
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.config import DEFAULT_OUT_DIR, Config
from vtprof_agent.engine_metrics.scraper import EngineScraper, page_url
from vtprof_agent.export.destination import Destination
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.otlp_http import HttpDestination
from vtprof_agent.export.prometheus import PrometheusPage
from vtprof_agent.export.rotating import Rotation
from vtprof_agent.facts import Value
from vtprof_agent.feed import Feed, Feeds
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.progress_store import claim
from vtprof_agent.receiver.receiver import Receiver
from vtprof_agent.resource import agent_resource
from vtprof_agent.sampling import Sampling
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
LEAST_RINGS, MOST_RINGS = 8, 1024
SPARE_FILES = 64
"""Open files for destinations, the metrics page, /proc and the libraries."""


@contextmanager
def agent(config: Config, host_peaks: Mapping[str, Value]) -> Iterator[Agent]:
    """Give an agent that is ready to run; what it opened is closed at the end. Raises VtprofError."""
    instance = f"{os.getpid():x}{time.time_ns() // NS_PER_S & 0xFFFF:04x}"
    with ExitStack() as stack:
        lock = claim(config.ring_dir)
        stack.callback(os.close, lock)
        page = None
        if config.metrics is not None:
            page = PrometheusPage(agent_version())
            url, stop = page.serve(config.metrics)
            stack.callback(stop)
            logger.warning("metrics at %s", url)
        feeds = _feeds(config, stack)
        destinations = _destinations(config, instance)
        yield Agent(
            config.ring_dir,
            destinations,
            agent_resource(f"agent-{instance}"),
            LoopSettings(
                config.poll_min_s, config.poll_max_s, config.scan_s, config.flush_s, config.batch_spans,
                config.sample_s, config.stop_s, most_rings(),
            ),
            AssemblySettings(int(config.gpu_time_hold_s * NS_PER_S), max_open_requests=max(1, config.max_open_requests)),
            page=page,
            sampling=Sampling.start() if config.sample_s else None,
            host_peaks=host_peaks,
            feeds=feeds,
        )  # fmt: skip


def _feeds(config: Config, stack: ExitStack) -> Feeds:
    """Open what comes from engines without the probe; all of it is closed with the stack."""
    feeds: list[Feed] = []
    urls = dict.fromkeys(map(page_url, config.engine_metrics))
    if Receiver.asked_for(config):
        feeds.append(Receiver(config))
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
    out_dir: Path | None = config.out_dir
    if out_dir is None and config.otlp_endpoint is None and config.metrics is None:
        out_dir = DEFAULT_OUT_DIR
        logger.warning("no destination named: writing to %s", out_dir)
    found: list[Destination] = []
    if out_dir is not None:
        rotation = Rotation(config.rotate_bytes, config.rotate_age_s, config.keep_bytes)
        found.append(FileDestination(out_dir, instance, rotation))
    if config.otlp_endpoint is not None:
        found.append(HttpDestination(config.otlp_endpoint, config.otlp_timeout_s, config.otlp_queue_batches))
    return found
