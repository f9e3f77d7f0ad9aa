"""Who decodes: the requests past their prompt, from which a step's decoders follow (a step record holds no list)."""

from vtprof_agent.facts import RequestRef
from vtprof_agent.request_state import RequestState
from vtprof_schemas.records import UNKNOWN


class Decoding:
    """The decoding requests of one ring, in the order in which they joined."""

    def __init__(self) -> None:
        """Start with none."""
        self._members: dict[int, RequestState] = {}
        self._all: tuple[RequestState, ...] | None = ()
        self._refs: tuple[tuple[RequestState, ...], tuple[RequestRef, ...]] = ((), ())
        self.mismatches = 0
        """Steps whose count of decoding requests is not ours: records were lost, or the engine skipped some."""

    def __contains__(self, number: int) -> bool:
        """Tell whether a request decodes."""
        return number in self._members

    def join(self, state: RequestState, from_ns: int | None) -> None:
        """Let a request decode from a time on (None: from its next step)."""
        state.decode_from_ns = from_ns
        self._members[state.number] = state
        self._all = None

    def leave(self, number: int) -> None:
        """Take a request out, if it is in."""
        if self._members.pop(number, None) is not None:
            self._all = None

    def of_step(self, decode_requests: int, start_ns: int) -> tuple[RequestState, ...]:
        """Return who decoded in a step that began at ``start_ns`` with so many decoders by the engine's count.

        A request that finished before the step is out. One that finished during it counts when the engine's number
        says so: its own record may come before the step's.
        """
        for number in [
            n for n, s in self._members.items() if s.finished_ns is not None and s.finished_ns <= start_ns
        ]:
            self.leave(number)
        if decode_requests == 0:
            return ()
        if self._all is None:
            self._all = tuple(self._members.values())
        if decode_requests in (len(self._all), UNKNOWN):
            return self._all
        running = tuple(state for state in self._all if state.finished_ns is None)
        if decode_requests == len(running):
            return running
        self.mismatches += 1
        return running if decode_requests < len(running) else self._all

    def refs(self, decoders: tuple[RequestState, ...]) -> tuple[RequestRef, ...]:
        """Return the names of decoders; the same tuple for the same decoders, so that folding compares by identity."""
        if self._refs[0] is not decoders:
            self._refs = (decoders, tuple(state.ref for state in decoders if state.arrival_ns is not None))
        return self._refs[1]
