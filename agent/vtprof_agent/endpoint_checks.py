"""Looks at everything outside the agent that its settings name: endpoints, pages, ports, files, the spool; for `doctor`.

What is missing is said with what it costs, and what `run` would refuse in its words, by the functions with which it
does. Folders are made and removed again. An OTLP endpoint is sent a message without spans, as the agent would send one
with; a page of metrics is read once; elsewhere connections are opened and closed.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vtprof_agent.config import Config, without_secrets
from vtprof_agent.diagnosis import BROKEN_OFF, HTTP2_ONLY, NO_TLS, NOT_SURE, TLS, Fault
from vtprof_agent.engine_metrics.fetching import Unreadable, fetch, near_session
from vtprof_agent.engine_metrics.page import engine_of
from vtprof_agent.engine_metrics.scraper import MAX_SAID, NO_ENGINE, page_url
from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.otlp import GRPC, connect
from vtprof_agent.export.parcel import Parcel, Signal, protobuf_spans
from vtprof_agent.export.rotating import check_folder
from vtprof_agent.export.spool import check_spool, default_folder
from vtprof_agent.export.transport import Answer, Transport
from vtprof_agent.listening import LOOPBACK, Guard, listen_address, shown
from vtprof_agent.receiver.receiver import Receiver
from vtprof_agent.samplers import dcgm, dcgm_page
from vtprof_agent.tls_probe import speaks_http2, speaks_tls
from vtprof_schemas.errors import ConfigError
from vtprof_schemas.printable import one_line

CONNECT_S: Final = 2.0
ANSWER_S: Final = 5.0
_NO_START: Final = "the agent does not start with it"
_GRPC_PORT: Final = 4317
_EMPTY: Final = Parcel(Signal.TRACES, 0, 0, protobuf_spans(()))
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
    proxy: str | None = None
    """Through which the agent reaches it, without user and password."""
    warning: str | None = None
    """What may be wrong, where there is no problem."""

    def place(self) -> str:
        """Return what was looked at, and by which way."""
        return f"{self.what} {self.target}" + (f" through the proxy {self.proxy}" if self.proxy else "")

    def line(self) -> str:
        """Return the problem, or the warning, in a line."""
        return f"{self.place()}: {self.problem or self.warning}; {self.costs}"


def checks(config: Config, agent_runs: bool) -> list[Check]:
    """Look at all; ports are not tried while an agent runs, which holds them itself."""
    return [
        *_files(config),
        *_destinations(config),
        *_sources(config),
        *_listeners(config, agent_runs),
    ]


def _files(config: Config) -> Iterator[Check]:
    folder = config.files_dir
    if folder is not None:
        yield Check("files", str(folder), _refusal(lambda: check_folder(folder)), _NO_START)


def _destinations(config: Config) -> Iterator[Check]:
    endpoint = config.otlp_endpoint
    if endpoint is None:
        return
    kept = (
        f"in {config.spool_dir or 'the spool'} up to {config.spool_bytes} bytes"
        if config.spool_bytes
        else "in memory"
    )
    costs = f"batches wait {kept}, then the oldest are dropped: start the Collector or correct otlp_endpoint"
    token, trusted = config.otlp_token_file, config.otlp_ca_file
    limit_s = min(config.otlp_timeout_s, ANSWER_S)
    transport: Transport | None = None
    refused: str | None = None
    try:
        transport = connect(endpoint, config.otlp_protocol, limit_s, token, trusted)
    except ConfigError as error:
        refused = str(error)
    blamed = next((path for path in (token, trusted) if refused and path and str(path) in refused), None)
    if refused is not None and blamed is None:
        yield Check("endpoint", without_secrets(endpoint), cleaned(refused, endpoint), _NO_START)
        return
    port = _GRPC_PORT if config.otlp_protocol == GRPC else None
    yield _endpoint(transport, endpoint, port, costs)
    if transport is not None:
        transport.close()
    for what, path in (("otlp_token_file", token), ("otlp_ca_file", trusted)):
        if path is not None:
            yield Check(what, str(path), refused if path == blamed else None, _NO_START)
    if config.spool_bytes:
        yield from _spool(config, endpoint)


def _endpoint(transport: Transport | None, url: str, port: int | None, costs: str) -> Check:
    """Look at the endpoint; without a transport only whether somebody is there who speaks as its scheme says."""
    proxy = transport.proxy if transport is not None else None
    # Through a proxy only the message itself goes: from here the endpoint need not be reached, nor its name be known.
    problem = None if proxy else connects(url, port)
    differs = None if proxy or problem else encryption(url, port)
    warning = None
    if transport is not None and not (problem or differs):
        said = transport.send(_EMPTY)
        differs = refusal(said, transport, url, port)
        if not said.sure:
            warning, costs = NOT_SURE.what, NOT_SURE.advice
    if differs:
        problem, costs = differs
    return Check(
        "endpoint", without_secrets(url), problem, costs, proxy=proxy.url if proxy else None, warning=warning
    )


def _spool(config: Config, endpoint: str) -> Iterator[Check]:
    place = str(config.spool_dir or "(default)")
    refused = _refusal(lambda: check_spool(config.spool_dir, endpoint, config.spool_bytes))
    if refused is not None:
        yield Check("spool", place, refused, _NO_START)
        return
    costs = "while the endpoint is away batches wait in memory only, and a restart loses them: set spool_dir"
    try:
        folder = config.spool_dir or default_folder()
    except OSError as error:
        yield Check("spool", place, str(error.strerror), costs)
        return
    yield Check("spool", str(folder), room(folder, config.spool_bytes), costs)


def _sources(config: Config) -> Iterator[Check]:
    if (exporter := config.dcgm_url) is not None:
        costs = "no DRAM and tensor counters from DCGM: start dcgm-exporter or correct dcgm_url"
        yield _page("dcgm-exporter", exporter, costs, partial(dcgm.exporter_url, exporter), _exporter_page)
    for url in config.engine_metrics:
        costs = "no queue lengths and cache use of that engine: start it or correct engine_metrics"
        yield _page("engine metrics", url, costs, partial(page_url, url), _engine_page)


def _page(
    what: str, url: str, costs: str, parse: Callable[[], object], read: Callable[[str], str | None]
) -> Check:
    refused = _refusal(parse)
    if refused is not None:
        return Check(what, without_secrets(url), cleaned(refused, url), _NO_START)
    problem = connects(url, None)
    # Over http:// an engine would log the greeting as a fault.
    differs = encryption(url, None) if problem is None and urlsplit(url).scheme == "https" else None
    if differs is not None:
        problem, costs = differs
    elif problem is None:
        try:
            problem = read(page_url(url))
        except Unreadable as error:
            problem = str(error)
        except ValueError as error:
            problem = one_line(f"not in Prometheus' text form ({error})", MAX_SAID)
    return Check(what, without_secrets(url), problem, costs)


def _engine_page(url: str) -> str | None:
    with near_session() as session:
        return None if engine_of(fetch(session, url, ANSWER_S)) else NO_ENGINE


def _exporter_page(url: str) -> str | None:
    with near_session() as session:
        lines, _ = dcgm_page.wanted(fetch(session, url, ANSWER_S, dcgm.MAX_BYTES))
    return None if dcgm_page.uuids(dcgm_page.read(lines)) else dcgm.NO_FIELDS


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
        host, port = _host_port(url, default_port)
        if not host or port is None:
            return "no host and port"
        socket.create_connection((host, port), CONNECT_S).close()
    except ValueError as error:
        return f"not a URL ({error})"
    except OSError as error:
        return f"nobody answers ({error.strerror or error})"
    return None


def encryption(url: str, default_port: int | None) -> tuple[str, str] | None:
    """Return in what a URL's scheme and the port that answers there differ, and what to do; None: they agree."""
    host, port = _host_port(url, default_port)
    if host is None or port is None:
        return None
    try:
        spoken = speaks_tls(host, port, CONNECT_S)
    except (OSError, ValueError):
        return None  # gone since it was found there, or a name that no certificate has
    match urlsplit(url).scheme, spoken:
        case "https", None | False:
            return _said(NO_TLS)
        case "http", True:
            return _said(TLS)
    return None


def refusal(said: Answer, transport: Transport, url: str, default_port: int | None) -> tuple[str, str] | None:
    """Return why an endpoint did not take a message without spans, as OTLP asks, and what to do; None: it did."""
    if said.outcome is Outcome.DELIVERED:
        return None
    if said.outcome is Outcome.REFUSED:
        return (
            f"refuses a message ({said.reason})",
            "what it refuses is dropped: see its log, or correct otlp_endpoint",
        )
    if said.reason != BROKEN_OFF.what or transport.proxy is not None:
        return _said(Fault(said.reason, said.advice or "see its log, or correct otlp_endpoint"))
    host, port = _host_port(url, default_port)
    alone = host is not None and port is not None and speaks_http2(host, port, CONNECT_S)
    return _said(HTTP2_ONLY if alone else Fault(said.reason, "see its log, or correct otlp_endpoint"))


def _said(fault: Fault) -> tuple[str, str]:
    return fault.what, f"nothing arrives: {fault.advice}"


def taken(host: str, port: int) -> str | None:
    """Return why a port cannot be listened at, None when it can."""
    try:
        _bind(host or LOOPBACK, port)
    except OSError as error:
        return f"{shown(host, port)} cannot be listened at ({error.strerror or error})"
    return None


def room(folder: Path, wanted_bytes: int) -> str | None:
    """Return why a folder, there or yet to be made, has no room for so many bytes; None when it has."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return f"cannot be written to ({there})"
    free = shutil.disk_usage(there).free
    return None if free >= wanted_bytes else f"{free} bytes free, {wanted_bytes} may be wanted (spool_bytes)"


def _host_port(url: str, default_port: int | None) -> tuple[str | None, int | None]:
    """Return where a URL, with or without scheme, leads to; raises ValueError for what is none."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.hostname, parts.port or default_port or _PORTS.get(parts.scheme)


def _bind(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(address)
        tried.listen(1)


def _refusal(step: Callable[[], object]) -> str | None:
    """Return in its own words why a step of `run` refuses a setting, None when it does not."""
    try:
        step()
    except ConfigError as error:
        return str(error)
    return None


def cleaned(refusal: str, url: str) -> str:
    """Return a refusal that quotes a URL without what in it may be secret."""
    return refusal.replace(repr(url), repr(without_secrets(url)))
