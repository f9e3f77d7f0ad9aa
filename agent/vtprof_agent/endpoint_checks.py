"""Looks at everything outside the agent that its settings name: endpoints, pages, ports, files, the spool; for `doctor`.

What is missing is said with what it costs. Connections are opened and closed again; nothing is sent.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vtprof_agent.config import Config, without_secrets
from vtprof_agent.export.spool import default_folder
from vtprof_agent.export.transport import no_certificates
from vtprof_agent.listening import LOOPBACK, Guard, listen_address, shown
from vtprof_agent.receiver.receiver import Receiver
from vtprof_schemas.errors import ConfigError

CONNECT_S: Final = 2.0
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    target: str
    problem: str | None
    """None: it is as it should be."""
    costs: str = ""
    """What the user goes without while it is not, and what to do."""

    def line(self) -> str:
        """Return the problem in a line."""
        return f"{self.what} {self.target}: {self.problem}; {self.costs}"


def checks(config: Config, agent_runs: bool) -> list[Check]:
    """Look at all; ports are not tried while an agent runs, which holds them itself."""
    return [
        *_destinations(config),
        *_sources(config),
        *_listeners(config, agent_runs),
    ]


def _destinations(config: Config) -> Iterator[Check]:
    if config.otlp_endpoint is None:
        return
    kept = (
        f"in {config.spool_dir or 'the spool'} up to {config.spool_bytes} bytes"
        if config.spool_bytes
        else "in memory"
    )
    costs = f"batches wait {kept}, then the oldest are dropped: start the Collector or correct otlp_endpoint"
    yield Check(
        "endpoint", without_secrets(config.otlp_endpoint), connects(config.otlp_endpoint, 4318), costs
    )
    costs = "the agent does not start with it: "
    if config.otlp_token_file is not None:
        path = config.otlp_token_file
        yield Check("otlp_token_file", str(path), readable(path), f"{costs}let this user read it")
    if config.otlp_ca_file is not None:
        path = config.otlp_ca_file
        problem = readable(path) or no_certificates(path)
        yield Check("otlp_ca_file", str(path), problem, f"{costs}give the certificates to trust, in PEM")
    if config.spool_bytes:
        costs = (
            "while the endpoint is away batches wait in memory only, and a restart loses them: set spool_dir"
        )
        try:
            folder = config.spool_dir or default_folder()
        except OSError as error:
            yield Check("spool", "(default)", str(error.strerror), costs)
            return
        yield Check("spool", str(folder), room(folder, config.spool_bytes), costs)


def _sources(config: Config) -> Iterator[Check]:
    if config.dcgm_url is not None:
        costs = "no DRAM and tensor counters from DCGM: start dcgm-exporter or correct dcgm_url"
        yield Check("dcgm-exporter", without_secrets(config.dcgm_url), connects(config.dcgm_url, None), costs)
    for url in config.engine_metrics:
        costs = "no queue lengths and cache use of that engine: start it or correct engine_metrics"
        yield Check("engine metrics", without_secrets(url), connects(url, None), costs)


def _listeners(config: Config, agent_runs: bool) -> Iterator[Check]:
    try:
        guard = Guard(config.tls_cert_file, config.tls_key_file, config.token_file, config.insecure_listen)
    except ConfigError as error:
        yield Check("guard", "TLS and token", str(error), "the agent does not start with it")
        return
    wanted = (
        [(text, flag) for text, flag, _, _ in Receiver.wanted(config)] if Receiver.asked_for(config) else []
    )
    if config.metrics is not None:
        wanted.append((config.metrics, "--metrics"))
    for text, flag in wanted:
        problem, costs = None, f"the agent does not start: give a free one with {flag}"
        try:
            host, port = listen_address(text, flag, guard)
            if not agent_runs:
                problem = taken(host, port)
        except ConfigError as error:
            problem, costs = str(error), "the agent does not start"
        yield Check("port", text, problem, costs)


def connects(url: str, default_port: int | None) -> str | None:
    """Return why nobody answers at a URL's host and port, None when somebody does."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port or default_port or _PORTS.get(parts.scheme)
        if not parts.hostname or port is None:
            return "no host and port"
        socket.create_connection((parts.hostname, port), CONNECT_S).close()
    except ValueError as error:
        return f"not a URL ({error})"
    except OSError as error:
        return f"nobody answers ({error.strerror or error})"
    return None


def taken(host: str, port: int) -> str | None:
    """Return why a port cannot be listened at, None when it can."""
    return _because(lambda: _bind(host or LOOPBACK, port), f"{shown(host, port)} cannot be listened at")


def readable(path: Path) -> str | None:
    """Return why a file cannot be read, None when it can."""
    return _because(lambda: path.open("rb").close(), "cannot be read")


def room(folder: Path, wanted_bytes: int) -> str | None:
    """Return why a folder, there or yet to be made, has no room for so many bytes; None when it has."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return f"cannot be written to ({there})"
    free = shutil.disk_usage(there).free
    return None if free >= wanted_bytes else f"{free} bytes free, {wanted_bytes} may be wanted (spool_bytes)"


def _bind(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(address)
        tried.listen(1)


def _because(step: Callable[[], object], what: str) -> str | None:
    try:
        step()
    except OSError as error:
        return f"{what} ({error.strerror or error})"
    return None
