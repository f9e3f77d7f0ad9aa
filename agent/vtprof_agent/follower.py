"""Follows one ring: reads its records, gives them to its family, and keeps account of what was read and lost."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.facts import FinishedRequest, RequestRef, Value
from vtprof_agent.family import Families, Family
from vtprof_agent.inbox.gaps import Gaps
from vtprof_agent.inbox.ring_header import RingState
from vtprof_agent.inbox.ring_reader import Batch, RingReader
from vtprof_agent.member import ROLE_API, ROLE_WORKER, Member
from vtprof_agent.resource import RingResource
from vtprof_agent.step_work import Measures
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError
from vtprof_schemas.records import DETAIL_DEFAULT

logger = logging.getLogger(__name__)
Keep = Callable[[FinishedRequest, int], float | None]
"""The ratio with which a request of a trace id is kept, None when its spans are dropped; a repeat gets the same."""


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
    clock_offset_ns: int = 0
    """From CLOCK_MONOTONIC to Unix time, as spans had it: what is read again gets the same times. 0 is unknown."""


class RingFollower:
    """One ring from its cursor on, until its process is gone and everything is read."""

    def __init__(
        self,
        reader: RingReader,
        settings: AssemblySettings,
        host_peaks: Mapping[str, Value],
        progress: Progress | None = None,
        families: Families | None = None,
        measures: Measures | None = None,
        keep: Keep | None = None,
    ) -> None:
        """Begin at record 1, or go on from an earlier agent's ``progress``; ``families`` are those of the other rings.

        ``measures`` give counters and GPU times to steps; ``keep`` decides which requests become spans, by default all.
        """
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
        self._keep = keep
        self._left_out: set[RequestRef] = set()
        """Of ``finished``, those without spans."""
        self.detail_refused = False
        """True when the process cannot be told its level of detail: we may not write its ring, and it records on."""
        self._settings, self._host_peaks, self._measures = settings, host_peaks, measures
        self._families = Families() if families is None else families
        self._member = Member(reader.identity, self._earlier.exported_through, self._earlier.passed)
        self._member.next_sequence = reader.cursor
        self._family = Family(settings, host_peaks, joined=False, measures=measures)
        self._join()
        self._placed = self._waits = False
        self._now_ns = 0
        self._info_version = 0
        if reader.detail() != DETAIL_DEFAULT:
            self.set_detail(DETAIL_DEFAULT)  # an agent that was killed may have left it lower
        self.refresh()

    @property
    def pid(self) -> int:
        """Return the PID of the inference process."""
        return self.reader.identity.pid

    @property
    def resource(self) -> RingResource:
        """Return the resource of the ring's spans and metric points."""
        return self._member.resource

    @property
    def order(self) -> int:
        """Return the place of the ring in a turn: who tells of arrivals first, the schedulers last."""
        return {ROLE_API: 0, ROLE_WORKER: 1}.get(self._member.role, 2)

    @property
    def awaits_scan(self) -> bool:
        """Tell whether its records wait until the folder was looked at again."""
        return self._member.awaits_scan

    def scanned(self) -> None:
        """Note that the folder was looked at, after everything that was read so far had been written."""
        self._family.scanned(self._member)

    @property
    def held(self) -> int:
        """Return how many records were read and wait for other rings."""
        return len(self._member.held)

    @property
    def at_end(self) -> bool:
        """Tell whether the last ``read`` left nothing behind that it could have read."""
        return not self._waits and not self._member.held

    @property
    def settled(self) -> bool:
        """Tell whether a ring that is read no more may go: nothing of its family needs its records again."""
        return not self._family.joined or self._family.cursor(self._member) >= self._member.next_sequence

    def refresh(self) -> None:
        """Take over what the process says anew of itself and of its clocks. Raises BackendError."""
        self.state = self.reader.state()
        self._refresh_info()
        anchor = self.reader.anchor()
        if anchor is not None:
            self._family.anchored(anchor)

    def read(self, max_records: int, now_ns: int, writer_gone: bool = False) -> Batch:
        """Read and digest at most so many records; return them. Raises BackendError.

        None are read while those read before wait for other rings of the family, or it is far ahead of theirs.
        """
        self._now_ns = now_ns
        family, member = self._family, self._member
        family.feed_held(member, now_ns)
        if not family.may_read(member):
            self._waits = True
            return Batch(b"", self.reader.cursor, self.reader.cursor - 1, 0, 0, 0)
        self._waits = False
        batch = self.reader.read(max_records, writer_gone)
        # After the records and before their use: what the process said of itself before it wrote one is known then.
        self._refresh_info()
        family = self._family
        self._placed = self._placed or batch.count > 0
        lost = batch.lost + batch.torn + batch.voided
        member.next_sequence = self.reader.cursor
        at_end = batch.passed < max_records
        family.take(member, self.reader.decoded(batch), now_ns, at_end=at_end, lost=lost > 0)
        before = self.records_lost
        self._lost += lost
        self._gaps.add(batch.gaps)
        if self.records_lost > before:
            logger.warning("%s: %d records lost", self.reader.path.name, self.records_lost - before)
        return batch

    def advance(self, now_ns: int) -> None:
        """Let time pass: holds run out, an idle window closes."""
        self._now_ns = now_ns
        self._family.advance(now_ns)

    def finish(self, process_gone: bool) -> None:
        """End all that can be: the agent stops, or the process is gone and its open requests are aborted.

        Requests of a living process stay open: the next agent reads them again from the cursor.
        """
        # A truncated ring, of which the reader has told, raises: what the process said before stands.
        with suppress(BackendError):
            self.state = self.reader.state()
            self._refresh_info()
        self._family.end(self._member, self._now_ns, process_gone=process_gone)

    def close(self) -> None:
        """Close the file, and say what the probe and we could not do; the counts and spans remain."""
        self.reader.close()
        if not self._member.ended:
            self._family.leave(self._member)
            self._family.assembly.requests.cut(self._member.index, self._now_ns)
        if self.state.dropped or self.state.hook_errors:
            logger.warning(
                "%s: the probe could not write %d records, and %d errors in its hooks were swallowed",
                self.reader.path.name,
                self.state.dropped,
                self.state.hook_errors,
            )
        left_over = self._family.assembly.left_over if not self._family.living else {}
        if left_over:
            listed = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in left_over.items())
            logger.warning("%s: not everything read could be used: %s", self.reader.path.name, listed)

    def spans(self) -> list[ReadableSpan]:
        """Return the spans of what was finished since the last call, and keep the requests in ``finished``."""
        family, member = self._family, self._member
        self.finished = family.take_requests()
        self._left_out.clear()
        spans = [
            span
            for request in self.finished
            if self._kept(request)
            for span in family.members[request.served_by].builder.request(request)
        ]
        spans += [member.builder.step(step) for step in member.folding.take()]
        return spans

    def trace(self, finished: FinishedRequest) -> tuple[int, int] | None:
        """Return the ids of the trace and the root span of one of the requests in ``finished``, None without spans."""
        return None if finished.ref in self._left_out else self._trace(finished)

    def _trace(self, finished: FinishedRequest) -> tuple[int, int]:
        return self._family.members[finished.served_by].builder.trace(finished.ref)

    def _kept(self, request: FinishedRequest) -> bool:
        """Tell whether a request becomes spans, and note at what ratio its like are kept."""
        if self._keep is None:
            return True
        ratio = self._keep(request, self._trace(request)[0])
        if ratio is None:
            self._left_out.add(request.ref)
            return False
        request.attributes[names.SAMPLING_RATIO] = ratio
        return True

    @property
    def detail(self) -> int:
        """Return the level of detail at which steps are folded."""
        return self._member.detail

    def set_detail(self, level: int) -> bool:
        """Let the process record and its steps be folded at a level (0 to 3); False when its ring may not be written."""
        written = self.reader.set_control(level)
        if not written and not self.detail_refused:
            logger.warning(
                "%s: detail level %d cannot be set: the ring may not be written; its process records on",
                self.reader.path.name,
                level,
            )
        self.detail_refused = not written
        if level != self._member.detail:
            self._family.set_detail(self._member, level)
        return written

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
        cursor = self._family.cursor(self._member)
        still_ahead = max(0, self._earlier.lost_ahead - self._lost)
        lost_ahead = self._gaps.from_number(cursor) + still_ahead
        exported_through = self._member.folding.exported_through
        offset_ns = max(0, self._family.alignment.offset_ns)
        return Progress(cursor, exported_through, self._passed, self.records_lost, lost_ahead, offset_ns)

    @property
    def running_requests(self) -> int:
        """Return how many requests that this ring told of have not ended."""
        requests, ring = self._family.assembly.requests, self._member.index
        return requests.open_requests(ring) - requests.held_requests(ring)

    @property
    def held_requests(self) -> int:
        """Return how many requests that this ring told of have ended and wait for their counters."""
        return self._family.assembly.requests.held_requests(self._member.index)

    @property
    def model(self) -> str:
        """Return the model that the requests of its server are told as; empty while it is not known."""
        return self._family.assembly.requests.model or ""

    @property
    def unusable_requests(self) -> int:
        """Return how many requests could not be exported because their arrival was lost."""
        return self._family.assembly.requests.unusable.get(self._member.index, 0)

    def kv_bytes(self) -> tuple[int, int] | None:
        """Return the KV bytes held now by visual and by other tokens, None when the bytes of a token are unknown."""
        requests, levels = self._family.assembly.requests, self._member.levels
        if requests.open_requests() == 0:
            return 0, 0
        per_token = requests.kv[self._member.index].bytes_per_token
        if per_token is None or (self._family.joined and not levels):
            return None
        visual = levels.get(names.STEP_KV_VISUAL_TOKENS, 0)
        other = max(0, levels.get(names.STEP_KV_USED_TOKENS, 0) - visual)
        return visual * per_token, other * per_token

    def _refresh_info(self) -> None:
        # Costs a read of 12 bytes while the version is the same.
        info = self.reader.info()
        if info is not None and info.version != self._info_version:
            self._info_version = info.version
            self._member.info = info.values
            self._place()
            self._family.told(self._member)

    def _place(self) -> None:
        """Join the rings of the same server, which the process must have named before its first record is used."""
        name = self._member.server
        if self._placed or name is None:
            return
        self._placed = True
        boot_id = self.reader.identity.boot_id
        self._family = self._families.of(boot_id, name, self._settings, self._host_peaks, self._measures)
        self._join()
        anchor = self.reader.anchor()
        if anchor is not None:
            self._family.anchored(anchor)

    def _join(self) -> None:
        self._family.remember(self._earlier.clock_offset_ns)
        self._family.join(self._member)
