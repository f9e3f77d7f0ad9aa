"""What the watcher tells Prometheus: one immutable figure after each poll, shown by a small server.

Counters begin at 0 with each start, as usual. Labels are bounded: what is beyond a limit is left out and counted.
"""

import ipaddress
import math
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vtprof_analyzer.watch.alerts import NAMES
from vtprof_analyzer.watch.figures import Figures
from vtprof_schemas.errors import ConfigError
from vtprof_schemas.printable import one_line

LOOPBACK: Final = "127.0.0.1"
MOST_SERIES: Final = 200
"""Of one metric; about 20 models with all their phases."""
MOST_CONNECTIONS: Final = 32
_REQUEST_S: Final = 5.0
_LONGEST_LABEL: Final = 128
_PREFIX: Final = "vtprof_watch_"


class WatchMetrics(Collector):
    """Shows the newest figures."""

    def __init__(self) -> None:
        self._figures = Figures()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def publish(self, figures: Figures) -> None:
        """Show these from now on."""
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the series."""
        shown = self._figures
        hidden = 0

        def gauge(
            name: str, text: str, labels: tuple[str, ...], series: Iterable[tuple[tuple[str, ...], float]]
        ) -> Metric:
            nonlocal hidden
            family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
            kept = 0
            for values, value in series:
                if kept == MOST_SERIES:
                    hidden += 1
                    continue
                family.add_metric([one_line(one, _LONGEST_LABEL) for one in values], value)
                kept += 1
            return family

        for name, text, count in (
            ("requests_seen", "Complete requests that were read.", shown.seen),
            ("requests_judged", "Of those, judged against the base by a phase at least.", shown.judged),
            ("requests_late", "Came after their time had been judged.", shown.late),
            ("requests_not_comparable", "Have nothing like them in the base.", shown.not_comparable),
            ("skipped", "Requests, lines and files that could not be used.", shown.skipped),
            ("blocks", "Blocks of requests that were judged.", shown.blocks),
            ("poll_errors", "Polls that failed.", shown.poll_errors),
            (
                "alerts_refused",
                "Alerts that were one too many, and are not told of.",
                shown.refused_alerts,
            ),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value=count)
        fired = CounterMetricFamily(_PREFIX + "alerts_fired", "Alerts that fired.", labels=("alert",))
        for kind in NAMES:
            fired.add_metric([kind], shown.fired.get(kind, 0))
        yield fired
        for name, text, place in (
            ("notifications_sent", "Posts that an endpoint took.", 0),
            ("notifications_failed", "Attempts to post that failed.", 1),
            ("notifications_dropped", "Notifications that were refused, or gave way to newer ones.", 2),
        ):
            family = CounterMetricFamily(_PREFIX + name, text, labels=("sink",))
            for sink, counts in shown.notifications.items():
                family.add_metric([sink], counts[place])
            yield family
        yield gauge(
            "alerts_firing", "Alerts that fire, by kind and phase.", ("alert", "phase"),
            ((key, value) for key, value in sorted(shown.firing.items())),
        )  # fmt: skip
        levels = [((level.phase, level.kind, level.model), level) for level in shown.levels]
        names = ("phase", "kind", "model")
        yield gauge(
            "effect_ratio", "Estimated change against the base: 0.08 is 8 % more.", names,
            ((key, level.effect_ratio) for key, level in levels if level.effect_ratio is not None),
        )  # fmt: skip
        yield gauge(
            "detector_log_statistic", "Natural logarithm of the test's statistic; absent before its first block.", names,
            ((key, level.statistic) for key, level in levels if math.isfinite(level.statistic)),
        )  # fmt: skip
        yield gauge(
            "detector_log_threshold", "Natural logarithm of the value at which it fires.", names,
            ((key, level.threshold) for key, level in levels),
        )  # fmt: skip
        yield gauge(
            "slo_burn_rate", "Share of slow requests over the share that the objective allows.",
            ("objective", "window"), sorted(shown.burn_rates.items()),
        )  # fmt: skip
        yield gauge(
            "slo_error_budget_left_ratio", "1 less burn rate x time seen / 30 days.", ("objective",),
            (((name,), value) for name, value in sorted(shown.budget_left.items())),
        )  # fmt: skip
        yield gauge(
            "kv_used_ratio", "Share of the KV cache in use.", ("instance",),
            (((name,), value) for name, value in sorted(shown.kv_used.items()) if not math.isnan(value)),
        )  # fmt: skip
        yield gauge(
            "kv_exhaustion_seconds", "Forecast until the KV cache is full; absent while it does not surely grow.",
            ("instance",), (((name,), value) for name, value in sorted(shown.kv_seconds.items())),
        )  # fmt: skip
        if shown.last_poll_s:
            yield gauge(
                "last_poll_timestamp_seconds",
                "When it last looked for traces.",
                (),
                [((), shown.last_poll_s)],
            )
        if shown.newest_request_s is not None:
            lag = max(shown.last_poll_s - shown.newest_request_s, 0.0)
            yield gauge(
                "newest_request_timestamp_seconds", "Arrival of the newest request that was read.", (),
                [((), shown.newest_request_s)],
            )  # fmt: skip
            yield gauge("lag_seconds", "Age of that request at the last poll.", (), [((), lag)])
        yield gauge("series_hidden", "Series beyond the limit of a metric.", (), [((), float(hidden))])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server for our name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = address = self.socket.getsockname()
        self.server_name, self.server_port = str(address[0]), int(address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, or close it where there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a reader that went away is no fault of the watcher's."""


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S
    """A connection that says nothing is closed."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def listen_address(text: str, insecure: bool) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``:PORT`` or ``PORT``; raises ConfigError for none.

    For an address that others reach, too, unless that is meant.
    """
    shown = repr(one_line(text, 80))
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(f"--metrics {shown}: not HOST:PORT; give for example {LOOPBACK}:9465")
    if not (insecure or _is_loopback(host)):
        raise ConfigError(
            f"--metrics {shown}: would be open to the network, unencrypted and to anyone; give {LOOPBACK}:{port}, or add "
            "--insecure-listen where the network itself is guarded"
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(metrics: WatchMetrics, address: str, insecure: bool = False) -> tuple[str, Callable[[], None]]:
    """Serve the page; return its URL and a function that stops it. Raises ConfigError."""
    host, port = listen_address(address, insecure)
    try:
        server = _Server((host, port))
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--metrics {address!r}: cannot listen there ({reason}); choose another") from error
    server.set_app(make_wsgi_app(metrics.registry))
    thread = threading.Thread(target=server.serve_forever, name="vtprof-watch-metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(1.0)

    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.server_port}/metrics", stop
