"""Who decodes: the sequences past their prompt, from which a step's decoders follow (a step record holds no list)."""

from collections.abc import Iterable, Mapping
from typing import Final

from vtprof_agent.facts import RequestRef
from vtprof_agent.request_state import RequestState
from vtprof_schemas.records import UNKNOWN

LET_GO_NS: Final = 1_000_000_000
"""A scheduler may decode on for a step or two after a request ended elsewhere; so long after, its word was lost."""


class Decoding:
    """The decoding sequences of one scheduler, in the order in which they joined, each with its request."""

    def __init__(self, *, by_left: bool = False) -> None:
        """Start with none; ``by_left``: the scheduler says when it lets go of a sequence, until then it decodes."""
        self.by_left = by_left
        self._members: dict[int, RequestState] = {}
        self._all: tuple[RequestState, ...] | None = ()
        self._known: tuple[tuple[RequestState, ...], tuple[tuple[RequestRef, ...], Mapping[int, int]]] = (
            (),
            ((), {}),
        )
        self._some_finished = False
        """True when a request that decodes here may have finished."""
        self.mismatches = 0
        """Steps whose count of decoding requests is not ours: records were lost, or the engine skipped some."""

    def __contains__(self, number: int) -> bool:
        """Tell whether a sequence decodes."""
        return number in self._members

    def __len__(self) -> int:
        """Return how many sequences decode."""
        return len(self._members)

    def join(self, number: int, state: RequestState, from_ns: int | None) -> None:
        """Let a sequence of a request decode from a time on (None: from its next step)."""
        if self._members.get(number, state) is not state:
            self.leave(number)
        if state.decoding == 0 or state.decode is None:
            state.decode_from_ns = from_ns
        state.decoding += number not in self._members
        self._some_finished = self._some_finished or state.finished_ns is not None
        self._members[number] = state
        self._all = None

    def one_finished(self) -> None:
        """Note that some request finished: the next step looks whether it decodes here."""
        self._some_finished = True

    def leave(self, number: int) -> None:
        """Take a sequence out, if it is in."""
        state = self._members.pop(number, None)
        if state is not None:
            state.decoding -= 1
            self._all = None

    def replace(self, old: RequestState, new: RequestState) -> None:
        """Let sequences count for another request, which turned out to be theirs."""
        for number, state in self._members.items():
            if state is old:
                self._members[number] = new
                new.decoding += new is not old
        self._all, self._known, self._some_finished = None, ((), ((), {})), True

    def of_step(self, decode_requests: int, start_ns: int) -> tuple[RequestState, ...]:
        """Return who decoded in a step that began at ``start_ns`` with so many decoders by the engine's count.

        A request that finished before the step is out. One that finished during it counts when the engine's number
        says so: its own record may come before the step's. With ``by_left`` the finish counts only against the number, or
        after ``LET_GO_NS``: else it would stand for one of whom nothing was told, and be given what is that one's.
        """
        self._drop_finished(start_ns - LET_GO_NS if self.by_left else start_ns)
        if decode_requests == 0:
            return ()
        everybody = self._everybody()
        if decode_requests in (len(everybody), UNKNOWN):
            return everybody
        if self.by_left:
            self._drop_finished(start_ns)  # that they left was lost
            everybody = self._everybody()
            if decode_requests == len(everybody):
                return everybody
        running = tuple(state for state in everybody if state.finished_ns is None)
        if decode_requests == len(running):
            return running
        self.mismatches += 1
        return running if decode_requests < len(running) else everybody

    def refs(self, decoders: tuple[RequestState, ...]) -> tuple[RequestRef, ...]:
        """Return the names of decoders; the same tuple for the same decoders, so that folding compares by identity."""
        return self._told(decoders)[0]

    def needs(self, decoders: tuple[RequestState, ...]) -> Mapping[int, int]:
        """Return by ring the lowest sequence from which these decoders are known again."""
        return self._told(decoders)[1]

    def _told(self, decoders: tuple[RequestState, ...]) -> tuple[tuple[RequestRef, ...], Mapping[int, int]]:
        if self._known[0] is not decoders:
            # A request of several sequences is named once.
            refs = tuple(dict.fromkeys(state.ref for state in decoders if state.arrival_ns is not None))
            self._known = (decoders, (refs, lowest(state.needs for state in decoders)))
        return self._known[1]

    def _everybody(self) -> tuple[RequestState, ...]:
        if self._all is None:
            self._all = tuple(self._members.values())
        return self._all

    def _drop_finished(self, start_ns: int) -> None:
        if not self._some_finished:
            return
        finished = [(n, s.finished_ns) for n, s in self._members.items() if s.finished_ns is not None]
        gone = [number for number, finished_ns in finished if finished_ns <= start_ns]
        for number in gone:
            self.leave(number)
        self._some_finished = len(gone) < len(finished)


def lowest(needs: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Return the lowest sequence of each ring over several such tables."""
    merged: dict[int, int] = {}
    for one in needs:
        for ring, sequence in one.items():
            if sequence < merged.get(ring, sequence + 1):
                merged[ring] = sequence
    return merged
