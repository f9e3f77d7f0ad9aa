"""Reads one engine's metrics page every few seconds, in a thread of its own, as a feed of the loop."""

import json
import logging
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.engine_metrics.fetching import MAX_BYTES, Unreadable, fetch, near_session
from vtprof_agent.engine_metrics.own_start import own_start_ns
from vtprof_agent.engine_metrics.page import INT64_MAX, Reading, engine_of, read_page
from vtprof_agent.engine_metrics.table import GAUGES, VLLM
from vtprof_agent.facts import Value
from vtprof_agent.metric_points import Point
from vtprof_agent.resource import RingResource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import SCHEMA_VERSION, names
from vtprof_schemas.errors import ConfigError
from vtprof_schemas.printable import one_line
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
FLAG: Final = "--engine-metrics"
NO_ENGINE: Final = "no vLLM or SGLang metrics there; is it the engine's page?"
MAX_SAID: Final = 200
"""Characters of an error, which may repeat what the page says."""
LAST_READ_S: Final = 1.0
"""What the stop waits for the last reading; an engine that ends too may answer late or never."""
MAX_WAITING: Final = 16_384
"""Points kept while the loop does not come for them; beyond it the oldest go."""
SCRAPES: Final = "vtprof_agent_engine_scrapes_total"
FAILED: Final = "vtprof_agent_engine_scrapes_failed_total"
LEFT_OUT: Final = "vtprof_agent_engine_values_left_out_total"


def page_url(text: str, flag: str = FLAG, example: str = "http://127.0.0.1:8000/metrics") -> str:
    """Return the URL of a metrics page; /metrics is the path when none is given. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not text.isprintable() or " " in text:
        raise ConfigError(f"{flag} {text!r}: not an http(s) URL; give one such as {example}")
    if parts.fragment:
        raise ConfigError(f"{flag} {text!r}: a fragment (from # on) is never sent to a server; leave it out")
    return urlunsplit(parts._replace(path=parts.path if parts.path not in ("", "/") else "/metrics"))


class EngineScraper:
    """The metrics page of one engine."""

    def __init__(
        self,
        url: str,
        period_s: float,
        *,
        unix_ns: Callable[[], int] = time.time_ns,
        start: bool = True,
        began_ns: int | None = None,
    ) -> None:
        """Start reading; raises ConfigError on a URL that is none. ``start=False`` leaves ``read`` to the caller.

        ``began_ns`` is when the agent began, Unix time; without it that of this process.
        """
        self.url = page_url(url)
        self._period_s = period_s
        self._unix_ns = unix_ns
        self._began_ns = own_start_ns() if began_ns is None else began_ns
        self._totals: dict[tuple[int, str], tuple[int, int]] = {}
        """By rank and key of a running total: since when it counts, and when it was last read."""
        self._points: deque[Point] = deque(maxlen=MAX_WAITING)
        self._counts: Counter[str] = Counter({SCRAPES: 0, FAILED: 0, LEFT_OUT: 0})
        self._version: str | None = None
        self._known = False
        """Whether the engine that answers now was asked for its version."""
        self._failing = False
        self._resources: dict[tuple[str, int], RingResource] = {}
        self._stop = threading.Event()
        self._session = near_session()
        self._thread: threading.Thread | None = None
        if start:
            self._thread = threading.Thread(target=self._run, name="vtprof-engine-metrics", daemon=True)
            self._thread.start()

    def read(self) -> None:
        """Read the page once; a failure is counted, and said when it is the first in a row."""
        try:
            text = self._fetch(self.url)
            engine = engine_of(text)
            if engine is None:
                raise Unreadable(NO_ENGINE)
            if not self._known:
                self._version, self._known = self._ask_version(engine), True
            reading = read_page(text, engine, self._version)
            points = self._as_points(reading, self._unix_ns())
        except Exception as error:  # whatever a page does, the next one is read
            self._failed(error)
            return
        self._points.extend(points)
        self._counts[LEFT_OUT] += reading.left_out
        self._counts[SCRAPES] += 1
        if self._failing:
            logger.info("%s: reading again", self.url)
        self._failing = False

    def take(self) -> tuple[list[ReadableSpan], list[Point]]:
        """Return the points read since the last call."""
        taken = []
        while self._points:
            taken.append(self._points.popleft())
        return [], taken

    def counts(self) -> Mapping[str, int]:
        """Return how often the page was read, and how often it could not be."""
        return dict(self._counts)

    def close(self) -> None:
        """Read the page a last time, so that the totals reach the end of the run; then stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LAST_READ_S)

    def _run(self) -> None:
        while True:
            self.read()
            if self._stop.is_set():
                return
            self._stop.wait(self._period_s)

    def _failed(self, error: Exception) -> None:
        self._counts[FAILED] += 1
        self._known = False  # what answers next may be another version
        if not self._failing and not self._stop.is_set():
            said = one_line(str(error) or type(error).__name__, MAX_SAID)
            logger.warning("%s: %s; trying again every %g s", self.url, said, self._period_s)
        self._failing = True

    def _fetch(self, url: str) -> str:
        return fetch(self._session, url, max_bytes=MAX_BYTES)

    def _ask_version(self, engine: str) -> str | None:
        """Return the engine's version: vLLM says it on a page of its own; SGLang's comes with its settings, so no."""
        if engine != VLLM:
            return None
        try:
            told = json.loads(self._fetch(urlunsplit(urlsplit(self.url)._replace(path="/version", query=""))))
        except (Unreadable, ValueError, RecursionError):
            return None
        version = told.get("version") if isinstance(told, dict) else None
        return version if isinstance(version, str) and len(version) < 100 else None

    def _as_points(self, reading: Reading, now_ns: int) -> list[Point]:
        start_ns = 0 if reading.started_s is None else max(0, int(reading.started_s * NS_PER_S))
        points = []
        for rank, values in reading.ranks.items():
            resource = self._resource(reading.engine, rank)
            for key, value in values.items():
                whole = names.ATTRIBUTES[key].type == names.INT
                sample = Sample(
                    key, min(int(value), INT64_MAX) if whole else value, cumulative=key not in GAUGES
                )
                zero_ns = self._zero_ns(rank, key, start_ns, now_ns) if sample.cumulative else None
                if zero_ns is not None:
                    points.append(Point(resource, sample._replace(value=0), zero_ns, start_ns))
                points.append(Point(resource, sample, now_ns, start_ns))
        return points

    def _zero_ns(self, rank: int, key: str, start_ns: int, now_ns: int) -> int | None:
        """Return the time at which a total was zero, where that is known and not told yet: its engine began after us.

        Else what it did before the first reading would be in no difference of readings.
        """
        known_start_ns, last_ns = self._totals.get((rank, key), (-1, -1))
        self._totals[rank, key] = start_ns, now_ns
        if start_ns == known_start_ns or not self._began_ns <= start_ns <= now_ns:
            return None
        # The start is told to a second or so: never before the last reading of the engine's predecessor.
        return max(start_ns, last_ns + 1)

    def _resource(self, engine: str, rank: int) -> RingResource:
        """Return the resource of a rank; a new one when the version turned out to be another."""
        found = self._resources.get((engine, rank))
        if found is None or found.attributes.get(names.ENGINE_VERSION) != self._version:
            values: dict[str, Value] = {
                names.SERVICE_NAME: engine,
                names.SERVICE_INSTANCE_ID: f"{self.url}#{rank}",
                names.HOST_NAME: socket.gethostname(),
                names.ENGINE_NAME: engine,
                names.RANK: rank,
                names.RESOURCE_SCHEMA_VERSION: SCHEMA_VERSION,
            }
            if self._version is not None:
                values[names.ENGINE_VERSION] = self._version
            found = self._resources[engine, rank] = RingResource(values)
        return found
