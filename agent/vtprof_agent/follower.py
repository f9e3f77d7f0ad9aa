"""Follows one ring: reads records, assembles and folds them, and gives the spans of what is finished."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.align import Alignment
from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.facts import FinishedRequest, Value
from vtprof_agent.identifiers import Origin
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.request_state import KvCosts
from vtprof_agent.resource import RingResource, ring_resource
from vtprof_agent.spans import SpanBuilder
from vtprof_agent.windows import Folding
from vtprof_schemas import names

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
        self.records_lost = self._earlier.records_lost
        """Since the ring began, over all agents that followed it."""
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
        """Take over what the process says anew of itself and of its clocks."""
        info = self.reader.info()
        if info is not None and info.version != self._info_version:
            self._info_version = info.version
            self._take_info(info.values)
        anchor = self.reader.anchor()
        if anchor is not None:
            now = self._builder.alignment if self._aligned else None
            fresh = Alignment.from_anchor(anchor.monotonic_ns, anchor.wall_ns)
            self._builder.alignment = (
                fresh if now is None else now.refreshed(anchor.monotonic_ns, anchor.wall_ns)
            )
            self._aligned = True

    def read(self, max_records: int, now_ns: int, writer_gone: bool = False) -> int:
        """Read and digest at most so many records; return how many there were. Raises BackendError."""
        batch = self.reader.read(max_records, writer_gone)
        feed = self._assembly.feed
        for record in self.reader.decoded(batch):
            feed(record.kind.code, record.sequence, record.values, now_ns)
        # What an earlier agent went past it has read or counted; only what lies behind that is new.
        lost = min(batch.lost + batch.torn + batch.voided, max(0, batch.last_sequence - self._earlier.passed))
        if lost:
            self.records_lost += lost
            logger.warning("%s: %d records lost", self.reader.path.name, lost)
        return batch.count

    def advance(self, now_ns: int) -> None:
        """Let time pass: holds run out, an idle window closes."""
        self._assembly.advance(now_ns)
        self._fold()
        self._folding.close_stale(now_ns - _STALE_WINDOW_NS)

    def finish(self, process_gone: bool) -> None:
        """End all that can be: the agent stops, or the process is gone and its open requests are aborted.

        Requests of a living process stay open: the next agent reads them again from the cursor.
        """
        if process_gone:
            self._assembly.close()
        else:
            self._assembly.settle_steps()
        self._fold()
        self._folding.close()

    def spans(self) -> list[ReadableSpan]:
        """Return the spans of what was finished since the last call, and keep the requests in ``finished``."""
        requests = self._assembly.take_requests()
        self.finished = requests
        spans = [span for request in requests for span in self._builder.request(request)]
        spans += [self._builder.step(step) for step in self._folding.take()]
        return spans

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
        return Progress(cursor, self._folding.exported_through, self._passed, self.records_lost)

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
        per_token = self._assembly.kv.bytes_per_token
        if per_token is None:
            return None
        if self.open_requests == 0:
            return 0, 0
        visual = self._levels.get(names.STEP_KV_VISUAL_TOKENS, 0)
        other = max(0, self._levels.get(names.STEP_KV_USED_TOKENS, 0) - visual)
        return visual * per_token, other * per_token

    def _fold(self) -> None:
        for fact in self._assembly.take_steps():
            self._levels = fact.levels
            self._folding.add(fact)

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
