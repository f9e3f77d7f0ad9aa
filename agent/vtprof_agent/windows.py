"""Folding: engine steps in order become step spans and decode windows, each linked to the requests in it.

Steps with prefill or encode work stand alone as ``vtprof.step``; decode-only ones of one composition fold into a
``vtprof.window`` of at most a second. What closes a window is in the records, not in when they were read, so that a
repeated run folds alike.
"""

from collections.abc import Mapping

from vtprof_agent.facts import RequestRef, StepFact, StepSpan, Value
from vtprof_schemas import names
from vtprof_schemas.records import STEP_COUNT_MASK, UNKNOWN

WINDOW_NS = 1_000_000_000
FULL_LINKS_EVERY_NS = 1_000_000_000
MAX_LINKS = 64
INT64_MAX = 2**63 - 1
_DOUBLE_LEVELS = frozenset((names.STEP_RUNNING, names.STEP_WAITING))
_KV_PEAK = (names.STEP_KV_USED_TOKENS_MAX, names.STEP_KV_VISUAL_TOKENS_MAX)
_COMPLETE_OR_ABSENT = (names.GPU_TIME_NS, names.STEP_ENCODE_GPU_TIME_NS)


class _Window:
    """Steps folded so far: sums, the levels weighed by time, and the KV held at its highest."""

    def __init__(self, fact: StepFact) -> None:
        self.first = fact
        self.last = fact
        self.needs = dict(fact.needs)
        self.count = 0
        self.sums: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.level_ns: dict[str, tuple[int, int]] = {}
        self.kv_peak: tuple[int, int] | None = None
        """Tokens held and the visual part (UNKNOWN when not told) after the step that held the most."""
        self.add(fact)

    def add(self, fact: StepFact) -> None:
        self.last = fact
        self.count += 1
        if len(fact.needs) > len(self.needs):
            self.needs = {**fact.needs, **self.needs}
        for key, value in fact.sums.items():
            self.sums[key] = self.sums.get(key, 0) + value
        for key in _COMPLETE_OR_ABSENT:
            self.seen[key] = self.seen.get(key, 0) + (key in fact.sums)
        # A step of no length still counts for something.
        weight = max(fact.end_ns - fact.start_ns, 1)
        for key, value in fact.levels.items():
            weighted, whole = self.level_ns.get(key, (0, 0))
            self.level_ns[key] = (weighted + value * weight, whole + weight)
        used = fact.levels.get(names.STEP_KV_USED_TOKENS)
        if used is not None:
            held = (used, fact.levels.get(names.STEP_KV_VISUAL_TOKENS, UNKNOWN))
            self.kv_peak = held if self.kv_peak is None else max(self.kv_peak, held)

    def fits(self, fact: StepFact) -> bool:
        same = fact.requests is self.first.requests or fact.requests == self.first.requests
        return (
            not fact.mixed
            and same
            and fact.decode_requests == self.first.decode_requests
            and self.first.start_ns <= fact.start_ns < self.first.start_ns + WINDOW_NS
        )

    def attributes(self) -> dict[str, Value]:
        values: dict[str, Value] = {
            names.STEP_INDEX: self.first.index & STEP_COUNT_MASK,  # the rank is in the resource
            names.STEP_COUNT: self.count,
        }
        for key, value in self.sums.items():
            # A sum that misses a step would be read as less work than was done.
            if key not in self.seen or self.seen[key] == self.count:
                values[key] = min(value, INT64_MAX)
        if names.GPU_TIME_NS in values:
            values[names.GPU_TIME_QUALITY] = names.QUALITY_MEASURED
        for key, (weighted, whole) in self.level_ns.items():
            mean = weighted / whole
            values[key] = mean if key in _DOUBLE_LEVELS else min(round(mean), INT64_MAX)
        if self.kv_peak is not None:
            peak = zip(_KV_PEAK, self.kv_peak, strict=True)
            values.update((key, min(tokens, INT64_MAX)) for key, tokens in peak if tokens != UNKNOWN)
        return values


class Folding:
    """Turns the step facts of one rank, in order, into spans."""

    def __init__(self, skip_through: int = 0) -> None:
        """Start; steps up to this ring sequence were exported by an earlier agent and are left out."""
        self.exported_through = skip_through
        """Ring sequence of the last step in a span that was handed over."""
        self._skip_through = skip_through
        self._window: _Window | None = None
        self._linked: dict[RequestRef, None] = {}
        self._full_links_ns: int | None = None
        self._done: list[StepSpan] = []

    def add(self, fact: StepFact) -> None:
        """Take the next step."""
        if fact.sequence <= self._skip_through:
            return
        if self._window is not None and self._window.fits(fact):
            self._window.add(fact)
            return
        self.close()
        self._window = _Window(fact)
        if fact.mixed:
            self.close()

    def close(self) -> None:
        """End the open window: something else follows, or nothing does."""
        window, self._window = self._window, None
        if window is None:
            return
        name = names.SPAN_STEP if window.first.mixed else names.SPAN_WINDOW
        start_ns = window.first.start_ns
        end_ns = max(start_ns, window.last.end_ns)
        links = self._links(window.first.requests, start_ns)
        sequence, last = window.first.sequence, window.last.sequence
        span = StepSpan(name, sequence, last, 0, start_ns, end_ns, window.attributes(), links[:MAX_LINKS])
        self._done.append(span)
        for part, position in enumerate(range(MAX_LINKS, len(links), MAX_LINKS), start=1):
            attributes: dict[str, Value] = {
                names.STEP_INDEX: span.attributes[names.STEP_INDEX],
                names.STEP_COUNT: 0,
            }
            more = links[position : position + MAX_LINKS]
            # No length and no iterations: sums over spans stay right.
            self._done.append(StepSpan(name, sequence, last, part, end_ns, end_ns, attributes, more))

    def close_stale(self, before_ns: int) -> None:
        """End a window that began before a (monotonic) time: no step would fit into it any more."""
        if self._window is not None and self._window.first.start_ns + WINDOW_NS <= before_ns:
            self.close()

    def take(self) -> list[StepSpan]:
        """Hand over the spans made since the last call."""
        done, self._done = self._done, []
        if done:
            self.exported_through = max(self.exported_through, max(span.last_sequence for span in done))
        return done

    @property
    def open_needs(self) -> Mapping[int, int]:
        """Return by ring the lowest sequence that the open window needs."""
        return {} if self._window is None else self._window.needs

    def _links(self, requests: tuple[RequestRef, ...], start_ns: int) -> tuple[RequestRef, ...]:
        """Return who joined or left since the previous span; at most once a second everybody."""
        now = dict.fromkeys(requests)
        full = self._full_links_ns is None or not 0 <= start_ns - self._full_links_ns < FULL_LINKS_EVERY_NS
        if full:
            self._full_links_ns = start_ns
            links = tuple(now)
        else:
            joined = [ref for ref in now if ref not in self._linked]
            links = (*joined, *(ref for ref in self._linked if ref not in now))
        self._linked = now
        return links
