"""The open requests of a family of rings by number: who arrives, which sequences count for whom, and when each leaves."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from vtprof_agent.facts import FinishedRequest
from vtprof_agent.request_state import KvCosts, RequestState, finish
from vtprof_agent.reread import Reread
from vtprof_schemas import names

ROUNDS_BEHIND = 2
"""A round that began after the finish, which may have come in the middle of one, is complete."""


@dataclass(frozen=True)
class AssemblySettings:
    """How long things are held, and how many."""

    gpu_time_hold_ns: int = 5_000_000_000
    finish_linger_ns: int = 200_000_000
    """Wait after a request finished: the record of its last step may come after its own."""
    max_open_requests: int = 8192


@dataclass
class AssemblyCounts:
    """What the assembly could not use or had to cut, since its start."""

    requests_without_arrival: int = 0
    requests_evicted: int = 0
    requests_aborted: int = 0
    records_without_request: int = 0
    parts_without_step: int = 0
    pieces_dropped: int = 0
    negative_durations: int = 0
    late_gpu_times: int = 0
    unknown_kinds: int = 0


class RequestTable:
    """Requests between their first record and their export."""

    def __init__(self, settings: AssemblySettings, *, joined: bool, on_leave: Callable[[int], None]) -> None:
        """Start empty; ``on_leave`` hears the number of each request that leaves."""
        self.settings = settings
        self.joined = joined
        self.counts = AssemblyCounts()
        self.kv: dict[int, KvCosts] = {}
        """By ring: what the engine that writes it allocates for a token."""
        self.only_engine: int | None = None
        """The newest ring of the server's engine where it has one engine: requests that reached none are told as its."""
        self.model: str | None = None
        self.unusable: dict[int, int] = {}
        """By ring: requests that could not be exported because their arrival was lost."""
        self.reread_through: dict[int, int] = {}
        """By ring: what an earlier agent had read. Requests of then whose arrival it has dealt with are no loss."""
        self.rounds = 0
        """How many times every ring that tells of steps was read to its end."""
        self.latest_ns: dict[int, int] = {}
        """By ring: the latest time that its records name."""
        self.reread = Reread()
        self._on_leave = on_leave
        self._states: OrderedDict[int, RequestState] = OrderedDict()
        self._leaving: dict[int, RequestState] = {}
        self._parents: dict[int, int] = {}
        self._done: list[FinishedRequest] = []

    def saw(self, ring: int, time_ns: int) -> None:
        """Note a time that a record of a ring names."""
        if time_ns > self.latest_ns.get(ring, time_ns - 1):
            self.latest_ns[ring] = time_ns

    def get(self, number: int) -> RequestState | None:
        """Return an open request by its number or by that of one of its sequences."""
        return self._states.get(self._parents.get(number, number) if self._parents else number)

    def find(self, number: int) -> RequestState | None:
        """Return an open request; without one, count the record."""
        state = self.get(number)
        if state is None:
            self.counts.records_without_request += 1
        return state

    def holds(self, state: RequestState) -> bool:
        """Tell whether a request is still open."""
        return self._states.get(state.number) is state

    def arrive(self, number: int, time_ns: int, ring: int, sequence: int) -> RequestState | None:
        """Open a request, or give its arrival to what the engine has told of it; None for a duplicate.

        Returned is the state if it was there before.
        """
        known = self._states.get(number)
        if known is not None and self.joined and known.arrival_ns is None:
            known.arrive(number, sequence, time_ns, ring)
            self._leaving.pop(number, None)
            return known
        if known is not None:
            if known.arrival_ns is not None and known.finished_ns is None:
                return None
            self.leave(known)
        self.open(number, time_ns, ring, sequence)
        return None

    def open(self, number: int, arrival_ns: int | None, ring: int, sequence: int) -> RequestState:
        """Open a request; the oldest leaves when there are too many."""
        if len(self._states) >= self.settings.max_open_requests:
            self.counts.requests_evicted += 1
            self.leave(next(iter(self._states.values())))
        state = self._states[number] = RequestState(number, sequence, arrival_ns, ring)
        return state

    def adopt(self, child: int, state: RequestState) -> RequestState | None:
        """Let a sequence count for a request; return what was told of the sequence before, now part of the request."""
        if child == state.number or child in self._parents:
            return None
        self._parents[child] = state.number
        state.children.append(child)
        orphan = self._states.get(child)
        if orphan is None or orphan.arrival_ns is not None:
            return None
        del self._states[child]
        self._leaving.pop(child, None)
        state.absorb(orphan)
        return orphan

    def finishing(self, state: RequestState, now_ns: int) -> None:
        """Let a request leave when its steps are settled and what may come late has come."""
        if state.number not in self._leaving:
            state.finished_seen_ns, state.finished_round = now_ns, self.rounds
            self._leaving[state.number] = state

    def advance(self, now_ns: int) -> None:
        """Let those go that wait for nothing more."""
        linger, hold = self.settings.finish_linger_ns, self.settings.gpu_time_hold_ns
        for state in list(self._leaving.values()):
            # The scheduler still has it, its arrival may still be found, or somebody may still say how it ended.
            unsure = self.joined and (state.live or state.arrival_ns is None or state.finished_ns is None)
            waited = now_ns - state.finished_seen_ns >= (max(linger, hold) if unsure else linger)
            read = not self.joined or state.has_left or self.rounds >= state.finished_round + ROUNDS_BEHIND
            if state.unsettled_steps == 0 and waited and read:
                self.leave(state)

    def leave(self, state: RequestState) -> None:
        """Close a request: export it, or count it when its arrival was lost."""
        number = state.number
        del self._states[number]
        self._leaving.pop(number, None)
        for child in state.children:
            self._parents.pop(child, None)
        self._on_leave(number)
        if state.arrival_ns is None:
            if not self._known_before(state):
                self.counts.requests_without_arrival += 1
                self.unusable[state.ring] = self.unusable.get(state.ring, 0) + 1
            return
        end_ns, status = state.finished_ns, state.status
        if end_ns is not None:
            state.infer_decode(end_ns)
        else:
            self.counts.requests_aborted += state.gone is not None
            end_ns, status = self._cut_ns(state), names.STATUS_ABORTED
        if self.joined:
            state.wait_from_hand_over()
            self.reread.add(state.ring, state.sequence, state.needs)
        if state.served_by is None:
            state.served_by = state.ring if self.only_engine is None else self.only_engine
        kv = self.kv.get(state.served_by, KvCosts())
        self._done.append(finish(state, end_ns, status, kv, self.model))

    def leave_finishing(self) -> None:
        """Close those that have finished without any more waiting: the agent stops."""
        for state in list(self._leaving.values()):
            self.leave(state)

    def leave_all(self) -> None:
        """Close everything: the processes are gone."""
        for state in list(self._states.values()):
            if state.finished_ns is None:
                self.counts.requests_aborted += 1
                state.gone = None
            self.leave(state)

    def cut(self, ring: int, now_ns: int) -> None:
        """Close what only the process of a ring could have ended: it is gone, others of the family are not."""
        for state in list(self._states.values()):
            if state.finished_ns is None and state.gone is None and ring in (state.ring, state.served_by):
                state.gone = ring
                self.finishing(state, now_ns)

    def take(self) -> list[FinishedRequest]:
        """Hand over the requests closed since the last call."""
        done, self._done = self._done, []
        return done

    def open_requests(self, ring: int | None = None) -> int:
        """Return how many requests with an arrival (told by a ring) are open: running, or held after their end."""
        return sum(s.arrival_ns is not None and ring in (None, s.ring) for s in self._states.values())

    def held_requests(self, ring: int) -> int:
        """Return how many of a ring's open requests have ended and wait for what belongs to them, as their counters."""
        return sum(s.arrival_ns is not None and s.ring == ring for s in self._leaving.values())

    @property
    def any_running(self) -> bool:
        """Tell whether there are requests that did not finish, as far as is known."""
        return len(self._states) > len(self._leaving)

    def __len__(self) -> int:
        """Return how many are open, those of unknown arrival too."""
        return len(self._states)

    def needed(self) -> list[dict[int, int]]:
        """Return of every open request the lowest sequence by ring that it needs."""
        return [
            s.needs
            for s in self._states.values()
            if s.arrival_ns is not None or (self.joined and (s.live or s.number in self._leaving))
        ]

    def undecided(self, start_ns: int, end_ns: int) -> list[RequestState]:
        """Return the requests that may decode in a step, by their first token and end, and are not known to."""
        return [
            s
            for s in self._states.values()
            if s.decoding == 0
            and not s.children
            and (s.finished_ns is None or s.finished_ns > start_ns)
            and s.first_token_ns is not None
            and s.first_token_ns <= end_ns
        ]

    def _known_before(self, state: RequestState) -> bool:
        through = self.reread_through
        return self.joined and all(sequence <= through.get(ring, 0) for ring, sequence in state.needs.items())

    def _cut_ns(self, state: RequestState) -> int:
        """Return where a request without an end is cut off: at the last time that the records name."""
        assert state.arrival_ns is not None
        if state.gone is None:
            return max(self.latest_ns.values(), default=0) or state.arrival_ns
        seen = [state.arrival_ns, state.first_token_ns or state.arrival_ns, *(p.end_ns for p in state.pieces)]
        return max(self.latest_ns.get(state.gone, state.arrival_ns), *seen)
