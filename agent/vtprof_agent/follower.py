"""Follows one ring: reads records, assembles and folds them, and gives the spans of what is finished."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.align import Alignment
from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.facts import FinishedRequest, Value
from vtprof_agent.identifiers import Origin
from vtprof_agent.inbox.gaps import Gaps
from vtprof_agent.inbox.ring_header import RingState
from vtprof_agent.inbox.ring_reader import Batch, RingReader
from vtprof_agent.request_state import KvCosts
from vtprof_agent.resource import RingResource, ring_resource
from vtprof_agent.spans import SpanBuilder
from vtprof_agent.windows import Folding
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

logger = logging.getLogger(__name__)
DEVICE_CPU = "cpu"
_STALE_WINDOW_NS = 200_000_000
"""How long after its second an idle window is closed: records may be that late."""


@dataclass(frozen=True)
class Progress:
    """How far a ring was followed: what an agent leaves to the next one."""

    cursor: int = 1
    """Lowest record that something not yet exported still needs."""
    exported_through: int = 0
    """Ring sequence of the last step that was exported."""
    passed: int = 0
    """Last record read or counted as lost."""
    records_lost: int = 0
    lost_ahead: int = 0
    """Of the lost records, those from the cursor on: the next agent meets them again."""


class RingFollower:
    """One ring from its cursor on, until its process is gone and everything is read."""

    def __init__(
        self,
        reader: RingReader,
        settings: AssemblySettings,
        host_peaks: Mapping[str, Value],
        progress: Progress | None = None,
    ) -> None:
        """Begin at record 1, or go on from an earlier agent's ``progress``."""
        self.reader = reader
        self._earlier = progress or Progress()
        if progress is not None:
            reader.seek(progress.cursor)
        self.state = RingState(False, 0, 0, 0)
        """The writer's own counters as of the last ``refresh``."""
        self._lost = 0
        self._gaps = Gaps()
        self.finished: list[FinishedRequest] = []
        """Requests finished by the last ``spans`` call, for the metrics."""
        self._host_peaks = host_peaks
        self._assembly = Assembly(settings)
        self._folding = Folding(self._earlier.exported_through)
        identity = reader.identity
        origin = Origin(identity.boot_id, identity.pid, identity.start_ticks, identity.created_ns)
        self._resource = ring_resource({}, identity)
        self._builder = SpanBuilder(origin, self._resource, Alignment(0))
        self._aligned = False
        self._info_version = 0
        self._levels: dict[str, int] = {}
        self.refresh()

    @property
    def pid(self) -> int:
        """Return the PID of the inference process."""
        return self.reader.identity.pid

    @property
    def resource(self) -> RingResource:
        """Return the resource of the ring's spans and metric points."""
        return self._resource

    def refresh(self) -> None:
        """Take over what the process says anew of itself and of its clocks. Raises BackendError."""
        self.state = self.reader.state()
        self._refresh_info()
        anchor = self.reader.anchor()
        if anchor is not None:
            now = self._builder.alignment if self._aligned else None
            fresh = Alignment.from_anchor(anchor.monotonic_ns, anchor.wall_ns)
            self._builder.alignment = (
                fresh if now is None else now.refreshed(anchor.monotonic_ns, anchor.wall_ns)
            )
            self._aligned = True

    def read(self, max_records: int, now_ns: int, writer_gone: bool = False) -> Batch:
        """Read and digest at most so many records; return them. Raises BackendError."""
        batch = self.reader.read(max_records, writer_gone)
        # After the records and before their use: what the process said of itself before it wrote one is known then.
        self._refresh_info()
        feed = self._assembly.feed
        for record in self.reader.decoded(batch):
            feed(record.kind.code, record.sequence, record.values, now_ns)
        before = self.records_lost
        self._lost += batch.lost + batch.torn + batch.voided
        self._gaps.add(batch.gaps)
        if self.records_lost > before:
            logger.warning("%s: %d records lost", self.reader.path.name, self.records_lost - before)
        return batch

    def advance(self, now_ns: int) -> None:
        """Let time pass: holds run out, an idle window closes."""
        self._assembly.advance(now_ns)
        self._fold()
        self._folding.close_stale(now_ns - _STALE_WINDOW_NS)

    def finish(self, process_gone: bool) -> None:
        """End all that can be: the agent stops, or the process is gone and its open requests are aborted.

        Requests of a living process stay open: the next agent reads them again from the cursor.
        """
        # A truncated ring, of which the reader has told, raises: what the process said before stands.
        with suppress(BackendError):
            self.state = self.reader.state()
            self._refresh_info()
        if process_gone:
            self._assembly.close()
        else:
            self._assembly.settle_steps()
        self._fold()
        self._folding.close()

    def close(self) -> None:
        """Close the file, and say what the probe and we could not do; the counts and spans remain."""
        self.reader.close()
        if self.state.dropped or self.state.hook_errors:
            logger.warning(
                "%s: the probe could not write %d records, and %d errors in its hooks were swallowed",
                self.reader.path.name,
                self.state.dropped,
                self.state.hook_errors,
            )
        if left_over := self._assembly.left_over:
            listed = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in left_over.items())
            logger.warning("%s: not everything read could be used: %s", self.reader.path.name, listed)

    def spans(self) -> list[ReadableSpan]:
        """Return the spans of what was finished since the last call, and keep the requests in ``finished``."""
        requests = self._assembly.take_requests()
        self.finished = requests
        spans = [span for request in requests for span in self._builder.request(request)]
        spans += [self._builder.step(step) for step in self._folding.take()]
        return spans

    @property
    def records_lost(self) -> int:
        """Return how many records were overwritten, torn or void since the ring began, over all agents.

        What an earlier agent had read but not exported, and is overwritten now, is among them.
        """
        return self._earlier.records_lost + max(0, self._lost - self._earlier.lost_ahead)

    @property
    def records_read(self) -> int:
        """Return how many records were read without fault since the ring began, over all agents."""
        return self._passed - self.records_lost

    @property
    def _passed(self) -> int:
        return max(self.reader.cursor - 1, self._earlier.passed)

    def progress(self) -> Progress:
        """Return where the next agent must go on, once the spans handed out so far are exported."""
        needed = self._assembly.needed_sequence(self.reader.cursor)
        window = self._folding.open_sequence
        cursor = needed if window is None else min(needed, window)
        still_ahead = max(0, self._earlier.lost_ahead - self._lost)
        lost_ahead = self._gaps.from_number(cursor) + still_ahead
        return Progress(cursor, self._folding.exported_through, self._passed, self.records_lost, lost_ahead)

    @property
    def open_requests(self) -> int:
        """Return how many requests have not ended."""
        return self._assembly.open_requests

    @property
    def unusable_requests(self) -> int:
        """Return how many requests could not be exported because their arrival was lost."""
        return self._assembly.counts.requests_without_arrival

    def kv_bytes(self) -> tuple[int, int] | None:
        """Return the KV bytes held now by visual and by other tokens, None when the bytes of a token are unknown."""
        if self.open_requests == 0:
            return 0, 0
        per_token = self._assembly.kv.bytes_per_token
        if per_token is None:
            return None
        visual = self._levels.get(names.STEP_KV_VISUAL_TOKENS, 0)
        other = max(0, self._levels.get(names.STEP_KV_USED_TOKENS, 0) - visual)
        return visual * per_token, other * per_token

    def _fold(self) -> None:
        for fact in self._assembly.take_steps():
            self._levels = fact.levels
            self._folding.add(fact)

    def _refresh_info(self) -> None:
        # Costs a read of 12 bytes while the version is the same.
        info = self.reader.info()
        if info is not None and info.version != self._info_version:
            self._info_version = info.version
            self._take_info(info.values)

    def _take_info(self, values: Mapping[str, Value]) -> None:
        on_cpu = values.get(names.DEVICE_KIND) == DEVICE_CPU
        extra = self._host_peaks if on_cpu else {}
        self._resource = self._builder.resource = ring_resource(values, self.reader.identity, extra)
        per_token, fixed = values.get(names.KV_BYTES_PER_TOKEN), values.get(names.KV_FIXED_BYTES)
        self._assembly.kv = KvCosts(
            per_token if isinstance(per_token, int) and per_token >= 0 else None,
            fixed if isinstance(fixed, int) and fixed >= 0 else 0,
        )
        model = values.get(names.REQUEST_MODEL)
        self._assembly.model = model if isinstance(model, str) else None
        # Without CUDA no GPU time will come, and nothing need be held for it.
        self._assembly.expects_gpu_time = not on_cpu
