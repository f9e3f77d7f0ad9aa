"""NVIDIA GPUs through the metrics page of a dcgm-exporter: the only source of DRAM and tensor activity before Hopper.

The exporter renews the page by a clock of its own, by default every 30 s: that interval is seen from when the values
change, and recorded with them. Edges of windows are estimates.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from vtprof_agent.engine_metrics.fetching import Unreadable, fetch, near_session
from vtprof_agent.engine_metrics.scraper import page_url
from vtprof_agent.samplers.dcgm_page import MAX_LINE, MAX_WANTED, hw_id, read, uuids, wanted
from vtprof_agent.samplers.nvml_session import SHARED
from vtprof_agent.samplers.sampler import ALL, Device, Sample
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
SOURCE: Final = "dcgm"
READ_S: Final = 5.0
MAX_BYTES: Final = 4 << 20
NO_FIELDS: Final = "no DCGM fields with a UUID there; is it a dcgm-exporter's page?"
LONGEST_NS: Final = 5 * NS_PER_S
"""Beyond it a value stands for a moment only: DCGM may not have counted over all of such an interval."""
_SEEN: Final = 8
_STEP_NS: Final = 100_000_000
_RATIOS: Final = frozenset(
    (
        names.GPU_DRAM_BANDWIDTH_RATIO,
        names.GPU_TENSOR_ACTIVE_RATIO,
        names.GPU_SM_ACTIVE_RATIO,
        names.GPU_SM_OCCUPANCY_RATIO,
    )
)


def exporter_url(text: str) -> str:
    """Return the URL of an exporter's page; raises ConfigError."""
    return page_url(text, "--dcgm-url", "http://127.0.0.1:9400/metrics")


class Interval:
    """How often a page changes, and the window that its present values stand for."""

    def __init__(self) -> None:
        """Start before the first look."""
        self._page: str | None = None
        self._looked_ns = 0
        self._changed_ns: int | None = None
        self._gaps: deque[int] = deque(maxlen=_SEEN)
        self.known_ns: int | None = None
        """The interval; None until it was seen."""

    def look(self, page: str, now_ns: int) -> tuple[int | None, int] | None:
        """Take a page that was read; return begin and end of the window that it stands for, or None: nothing is new.

        The begin is None while the interval is not known.
        """
        before_ns, self._looked_ns = self._looked_ns, now_ns
        if page == self._page:
            return None
        first, self._page = self._page is None, page
        if first:
            return None, now_ns
        end_ns = (before_ns + now_ns) // 2  # it changed somewhere between the two looks
        begin_ns, self._changed_ns = self._changed_ns, end_ns
        if begin_ns is None:
            return None, end_ns
        self._gaps.append(end_ns - begin_ns)
        self._settle(min(self._gaps))
        known_ns = self.known_ns or 0
        # Values may stay the same for some intervals: the new ones stand for the last of them.
        return (begin_ns if (end_ns - begin_ns) * 2 <= known_ns * 3 else end_ns - known_ns), end_ns

    def _settle(self, seen_ns: int) -> None:
        """Change the known interval only when it is clearly another: it stands on every point."""
        if self.known_ns is None or abs(seen_ns - self.known_ns) * 4 > self.known_ns:
            self.known_ns = max(_STEP_NS, round(seen_ns / _STEP_NS) * _STEP_NS)


class DcgmSampler:
    """Reads one page; GPUs are known by their UUID, MIG devices by the ids that the page has of them."""

    period_s = 1.0
    quiet_s = 90.0
    """By default the exporter renews its page every 30 s."""

    def __init__(
        self,
        url: str | None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        instance_uuid: Callable[[str, int], str | None] = SHARED.instance_uuid,
    ) -> None:
        """Prepare; nothing is read."""
        self._url = url
        self._clock_ns = clock_ns
        self._instance_uuid = instance_uuid
        self._session = near_session()
        self._interval = Interval()
        self._said = False
        self.problem: str | None = None
        """Why the last reading failed."""

    def why_not(self) -> str | None:
        """Return why no page is read: none is given, or its URL is none. Nothing is fetched."""
        if not self._url:
            return "no page of a dcgm-exporter is given; set dcgm_url, such as http://127.0.0.1:9400/metrics"
        try:
            exporter_url(self._url)
        except ConfigError as error:
            return str(error)
        return None

    def open(self) -> None:
        """Take the URL; the exporter may start later. Raises BackendError when there is none."""
        reason = self.why_not()
        if reason is not None:
            raise BackendError(reason)
        self._url = page_url(str(self._url))

    def devices(self) -> list[Device]:
        """Return none: they are those of the sampler "nvml"; ``look`` tells what is on the page."""
        return []

    def look(self) -> list[str]:
        """Return the UUIDs on the page as it is now; raises BackendError when it cannot be read."""
        try:
            found = uuids(read(self._page()))
        except (Unreadable, ValueError) as error:
            raise BackendError(f"{self._url}: {error}; is a dcgm-exporter running there?") from error
        if not found:
            raise BackendError(f"{self._url}: {NO_FIELDS}")
        return found

    def sample(self, pids: frozenset[int]) -> list[Sample]:  # noqa: ARG002  # the protocol's
        """Read the page; only what changed since the last reading is told."""
        try:
            page = self._page()
            window = self._interval.look(page, self._clock_ns())
            if window is None:
                self.problem = None
                return []
            lines = read(page)
        except (Unreadable, ValueError) as error:
            self.problem = str(error)
            return []
        self.problem = None
        begin_ns, end_ns = window
        mean = begin_ns is not None and end_ns - begin_ns <= LONGEST_NS
        samples = []
        for line in lines:
            start_ns = begin_ns if mean and line.key in _RATIOS else None
            samples.append(
                Sample(
                    line.key,
                    line.value if names.ATTRIBUTES[line.key].type == names.DOUBLE else int(line.value),
                    line.key == names.GPU_ENERGY_MJ,
                    hw_id=hw_id(line, self._instance_uuid),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    source=SOURCE,
                    interval_ns=self._interval.known_ns,
                    exact_edges=False,
                )
            )
        return samples

    def lost(self) -> Mapping[str, str]:
        """Return why the page cannot be read."""
        return {} if self.problem is None else {ALL: self.problem}

    def refused(self) -> Mapping[str, str]:
        """Return nothing: what a device does not offer is left out."""
        return {}

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return nothing: what is not on the page is not offered."""
        return {}

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _page(self) -> str:
        lines, left_out = wanted(self._fetch())
        if left_out and not self._said:
            self._said = True
            logger.warning(
                "%s: %d lines are left out of what is read of it, beyond %d characters in all or %d each;"
                " give the page of this node alone",
                self._url, left_out, MAX_WANTED, MAX_LINE,
            )  # fmt: skip
        return lines

    def _fetch(self) -> str:
        return fetch(self._session, str(self._url), READ_S, MAX_BYTES)
