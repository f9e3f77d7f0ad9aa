"""The rings of one server, assembled together: whose records are fed when, and what each ring still needs.

The records of a scheduler are fed one turn late, once the other rings were read to their end since: then the arrival of
every request that they name, and what workers told of their steps, are there before them.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from weakref import WeakValueDictionary

from vtprof_agent.align import Alignment
from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.decoding import lowest
from vtprof_agent.facts import FinishedRequest
from vtprof_agent.family_info import FamilyInfo
from vtprof_agent.inbox.decoder import Record
from vtprof_agent.inbox.ring_header import ClockAnchor
from vtprof_agent.member import ROLE_API, ROLE_WORKER, Member
from vtprof_agent.step_work import Measures
from vtprof_agent.windows import DETAIL_DECODE_STEPS, DETAIL_WINDOWS, Folding
from vtprof_schemas import records

STALE_WINDOW_NS = 200_000_000
"""How long after its second an idle window is closed: records may be that late."""
PARTS_AHEAD = 4096
"""Steps that a worker's ring may be read ahead of the scheduler's."""
_TELLS_OF_STEPS = frozenset(
    kind.code
    for kind in (
        records.QUEUE,
        records.ENCODE,
        records.PREFILL,
        records.STEP,
        records.GPU_TIME,
        records.PREEMPTED,
        records.LEFT,
    )
)
"""Held back, except in a worker's ring."""


class Family:
    """The rings that are assembled together, and their assembly."""

    def __init__(
        self,
        settings: AssemblySettings,
        host_peaks: Mapping[str, int | float | str],
        *,
        joined: bool,
        measures: Measures | None = None,
    ) -> None:
        """Start without rings; ``joined``: a server's, of which there may be several."""
        self.joined = joined
        self.assembly = Assembly(settings, joined=joined, measures=measures)
        self.members: dict[int, Member] = {}
        self._info = FamilyInfo(host_peaks)
        self._most_requests = settings.max_open_requests // 2
        self._anchor: ClockAnchor | None = None
        self.alignment = Alignment(0)
        self._groups: dict[int, int] = {}
        self._unread: set[int] = set()
        """Rings that tell of steps and were not read to their end in this round."""
        self._cursors: dict[int, int] | None = None

    # --- Who belongs to it ---------------------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """Take a ring in."""
        member.index = len(self.members)
        self.members[member.index] = member
        self._info.origins[member.index] = member.origin
        self.assembly.requests.reread_through[member.index] = member.read_before
        member.folding = Folding(member.exported_before, member.detail)
        member.build(self._info.origins)
        member.builder.alignment = self.alignment
        self.told(member)

    @property
    def living(self) -> list[Member]:
        """Return the rings that are still read."""
        return [member for member in self.members.values() if not member.ended]

    def told(self, member: Member) -> None:
        """Take over what a process says of itself, which others of the family may need too."""
        self._heed_detail()
        self._info.refresh(self.members.values(), self.assembly)
        if self.joined and not member.ended:
            if member.role == ROLE_WORKER:
                self.assembly.ranks[member.index] = member.rank
            if member.role != ROLE_API:
                self._unread.add(member.index)
            else:
                self._unread.discard(member.index)

    def remember(self, clock_offset_ns: int) -> None:
        """Begin with the offset that an earlier agent used, 0 if unknown: what it exported may come again, the same."""
        if clock_offset_ns and self._anchor is None and not self.alignment.offset_ns:
            self.alignment = Alignment(clock_offset_ns)

    def anchored(self, anchor: ClockAnchor) -> None:
        """Take a clock anchor of one of the rings; the newest stands for all, which share the clocks of their host."""
        known = self._anchor
        if known is not None and anchor.monotonic_ns <= known.monotonic_ns:
            return
        fresh = Alignment.from_anchor(anchor.monotonic_ns, anchor.wall_ns)
        if self.alignment.offset_ns:
            fresh = self.alignment.refreshed(anchor.monotonic_ns, anchor.wall_ns)
        self._anchor, self.alignment = anchor, fresh
        for member in self.members.values():
            member.builder.alignment = fresh

    def set_detail(self, member: Member, level: int) -> None:
        """Fold the steps of a ring at another level of detail, at which its process records from now on."""
        member.detail = level
        member.folding.set_detail(level)
        self._heed_detail()

    def _heed_detail(self) -> None:
        """Wait for GPU times only where a process still records them; without decode steps give counters to none."""
        told = [member.detail for member in self.living if member.role != ROLE_API]
        steps = [m.detail for m in self.living if m.role not in (ROLE_API, ROLE_WORKER)]
        self.assembly.times_steps = max(told, default=DETAIL_WINDOWS) >= DETAIL_WINDOWS
        self.assembly.steps.metered = min(steps, default=DETAIL_WINDOWS) >= DETAIL_DECODE_STEPS

    # --- Records -------------------------------------------------------------------------------------------

    def may_read(self, member: Member) -> bool:
        """Tell whether a ring is to be read now: not while its held records wait, nor far ahead of the schedulers'."""
        return not member.held and not self._ahead(member)

    def feed_held(self, member: Member, now_ns: int, *, at_once: bool = False) -> None:
        """Feed what was held back of a ring if the others were read to their end since."""
        if not member.held:
            return
        member.waits_for = {
            index
            for index in member.waits_for
            if not self.members[index].ended and not self._ahead(self.members[index])
        }
        if (member.waits_for or member.awaits_scan) and not at_once:
            return
        self._cursors = None
        feed, ring = self.assembly.feed, member.index
        while member.held:
            record = member.held.popleft()
            feed(record.kind.code, record.sequence, record.values, now_ns, ring)
        if member.at_end and member.held_round == self.assembly.requests.rounds:
            self._read_to_end(member)

    def take(self, member: Member, batch: Iterable[Record], now_ns: int, *, at_end: bool, lost: bool) -> None:
        """Take what was read of a ring; ``at_end``: it has no more, ``lost``: numbers are missing."""
        self._cursors = None
        member.at_end = at_end
        feed, ring = self.assembly.feed, member.index
        if not self.joined:
            for record in batch:
                feed(record.kind.code, record.sequence, record.values, now_ns)
            return
        if lost and member.role not in (ROLE_API, ROLE_WORKER):
            self.assembly.steps.line(ring).lost()
        held: deque[Record] = member.held
        holds = member.role != ROLE_WORKER
        for record in batch:
            if holds and record.kind.code in _TELLS_OF_STEPS:
                held.append(record)
            else:
                feed(record.kind.code, record.sequence, record.values, now_ns, ring)
        if held:
            member.held_round = self.assembly.requests.rounds
            member.waits_for = {other.index for other in self.living if other is not member}
            if not member.stepped and any(record.kind is records.STEP for record in held):
                member.stepped = member.awaits_scan = True
                member.met = len(self.members)
        if at_end:
            for other in self.living:
                other.waits_for.discard(ring)
            if not held:
                self._read_to_end(member)

    def scanned(self, member: Member) -> None:
        """Note that the folder was looked at: the rings that were made before are members now."""
        if member.awaits_scan:
            member.awaits_scan = False
            member.waits_for |= {other.index for other in self.living if other.index >= member.met}

    def advance(self, now_ns: int) -> None:
        """Let time pass: holds run out, idle windows close."""
        self._cursors = None
        if not self._unread:
            self._next_round()
        if self.assembly.steps.groups != self._groups and len(self.members) > 1:
            # Now it is known which worker belongs to which engine.
            self._groups = dict(self.assembly.steps.groups)
            self._info.refresh(self.members.values(), self.assembly)
        self.assembly.advance(now_ns)
        self._fold()
        for member in self.members.values():
            # A step that waits for its counters may still belong into a window, however long ago that began.
            held_ns = self.assembly.steps.oldest_ns(member.index)
            stale_ns = now_ns - STALE_WINDOW_NS
            member.folding.close_stale(stale_ns if held_ns is None else min(stale_ns, held_ns))

    def end(self, member: Member, now_ns: int, *, process_gone: bool) -> None:
        """End a ring: nothing more is read from it. With the last one everything that can be ends.

        Requests of living processes stay open: the next agent reads them again.
        """
        self.feed_held(member, now_ns, at_once=True)
        self.leave(member)
        if self.living:
            if process_gone:
                self.assembly.requests.cut(member.index, now_ns)
            return
        if process_gone:
            self.assembly.close()
        else:
            self.assembly.settle_steps()
        self._fold()
        for one in self.members.values():
            one.folding.close()

    def leave(self, member: Member) -> None:
        """Read a ring no further."""
        member.ended, self._cursors = True, None
        self.assembly.ranks.pop(member.index, None)
        if not self.living:
            self.assembly.steps.await_steps(False)
        if member.index in self._unread:
            self._read_to_end(member)

    def take_requests(self) -> list[FinishedRequest]:
        """Hand over the requests finished since the last call."""
        return self.assembly.take_requests()

    def cursor(self, member: Member) -> int:
        """Return the lowest sequence of a ring that something not yet exported still needs."""
        if self._cursors is None:
            self._cursors = self._find_cursors()
        return self._cursors[member.index]

    def _find_cursors(self) -> dict[int, int]:
        members = self.members.values()
        cursors = {m.index: m.held[0].sequence if m.held else m.next_sequence for m in members}
        needed = lowest([*self.assembly.needed(), *(member.folding.open_needs for member in members)])
        for ring, sequence in needed.items():
            cursors[ring] = min(cursors[ring], sequence)
        if self.joined:
            self.assembly.requests.reread.lower(cursors)
        return cursors

    def _fold(self) -> None:
        for run in self.assembly.take_runs():
            member = self.members[run.ring]
            member.levels = run.levels
            member.folding.add_run(run)

    def _ahead(self, member: Member) -> bool:
        """Tell whether a ring must wait: the requests or parts that it would open have no room before their steps."""
        if member.role == ROLE_API:
            full = len(self.assembly.requests) > self._most_requests
        elif member.role == ROLE_WORKER:
            full = len(self.assembly.steps.parts) > PARTS_AHEAD
        else:
            return False
        return full and any(
            other.role not in (ROLE_API, ROLE_WORKER) and (other.held or not other.at_end)
            for other in self.living
        )

    def _read_to_end(self, member: Member) -> None:
        self._unread.discard(member.index)
        if not self._unread:
            self._next_round()

    def _next_round(self) -> None:
        self.assembly.requests.rounds += 1
        self._unread = {member.index for member in self.living if member.role != ROLE_API}


class Families:
    """The families of this node by name, so that the rings of one meet."""

    def __init__(self) -> None:
        """Start without any."""
        self._by_name: WeakValueDictionary[tuple[bytes, str], Family] = WeakValueDictionary()

    def of(
        self,
        boot_id: bytes,
        name: str,
        settings: AssemblySettings,
        peaks: Mapping[str, int | float | str],
        measures: Measures | None = None,
    ) -> Family:
        """Return the family of a server of this host, a new one if none of its processes is there any more."""
        family = self._by_name.get((boot_id, name))
        if family is None or not family.living:
            family = self._by_name[boot_id, name] = Family(settings, peaks, joined=True, measures=measures)
        return family
