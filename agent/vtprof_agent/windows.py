"""Folding: engine steps in order become step spans and decode windows, each linked to the requests in it.

Steps with prefill or encode work stand alone as ``vtprof.step``; decode-only ones of one composition fold into a
``vtprof.window`` of at most a second. At a lower level of detail all steps of a second are one window, or there are no
such spans at all. What closes a window is in the records, not in when they were read, so that a repeated run folds alike.
"""

from collections.abc import Mapping

from vtprof_agent.counters.meter import StepCounters
from vtprof_agent.decoding import lowest
from vtprof_agent.facts import RequestRef, StepFact, StepSpan, Value
from vtprof_agent.step_counters import Tally
from vtprof_agent.step_facts import StepRun
from vtprof_schemas import names
from vtprof_schemas.records import DETAIL_DEFAULT, STEP_COUNT_MASK, UNKNOWN

DETAIL_STEPS = 3
"""From this level on steps with prefill or encode work are spans of their own."""
DETAIL_WINDOWS = 2
"""From this level on there are windows, and GPU times are recorded."""
DETAIL_DECODE_STEPS = 1
"""From this level on steps of decoding alone are recorded."""
WINDOW_NS = 1_000_000_000
FULL_LINKS_EVERY_NS = 1_000_000_000
MAX_LINKS = 64
INT64_MAX = 2**63 - 1
_DOUBLE_LEVELS = frozenset((names.STEP_RUNNING, names.STEP_WAITING))
_KV_PEAK = (names.STEP_KV_USED_TOKENS_MAX, names.STEP_KV_VISUAL_TOKENS_MAX)
_PREFILL_SUMS = (
    names.STEP_PREFILL_VISUAL_TOKENS,
    names.STEP_PREFILL_ATTENTION_PAIRS,
    names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS,
)
_ENCODE_SUMS = (
    names.STEP_ENCODE_ITEMS,
    names.STEP_ENCODE_PATCHES,
    names.STEP_ENCODE_ATTENTION_PAIRS,
    names.STEP_ENCODE_NS,
    names.STEP_ENCODE_GPU_TIME_NS,
)
"""What every step with such work has, or the sum over steps says less than was done."""


class _Window:
    """Steps folded so far: sums, the levels weighed by time, and the KV held at its highest."""

    def __init__(self, fact: StepFact) -> None:
        self.first = fact
        self.last_sequence = fact.last_sequence
        self.end_ns = fact.end_ns
        self.needs = fact.needs
        self.count = 0
        self.sums: dict[str, int] = {}
        self.short: set[str] = set()
        """Sums that miss what a step did not tell."""
        self.levels: dict[str, tuple[int, int]] = {}
        """Integrals over the steps that tell a level, and their time, ns."""
        self.kv_peak: tuple[int, int] | None = None
        """Tokens held and the visual part (UNKNOWN when not told) after the step that held the most."""
        self.requests = fact.requests
        self._others: dict[RequestRef, None] = {}
        """Those of the steps whose requests were not those of the first."""
        self._counters: Tally | None = None
        self._latest: StepCounters | None = None
        self._alike = 0
        """Steps that have these, which are not in the tally yet."""
        self._gpus = 0
        self.add(fact)

    def add(self, fact: StepFact) -> None:
        self.last_sequence = fact.last_sequence
        self.end_ns = max(self.end_ns, fact.end_ns)
        self.count += fact.count
        if not fact.needs.keys() <= self.needs.keys():
            self.needs = {**fact.needs, **self.needs}
        if fact.requests is not self.requests and fact.requests != self.requests:
            self._others.update(dict.fromkeys(fact.requests))
        sums = self.sums
        for key, value in fact.sums.items():
            sums[key] = sums.get(key, 0) + value
        owed = (names.GPU_TIME_NS, names.STEP_DECODE_TOKENS, *(_owed(fact.sums) if fact.mixed else ()))
        self.short.update(key for key in owed if key not in fact.sums)
        for key, (level, told_ns) in fact.levels.items():
            before, before_ns = self.levels.get(key, (0, 0))
            self.levels[key] = (before + level, before_ns + told_ns)
        if fact.kv_peak is not None:
            self.kv_peak = fact.kv_peak if self.kv_peak is None else max(self.kv_peak, fact.kv_peak)
        if fact.counters is not None:
            if self._counters is None:
                self._counters = Tally()
            self._gpus = max(self._gpus, fact.counters.gpus)
            if fact.counters is not self._latest:
                self._gather()
                self._latest = fact.counters
            self._alike += fact.count

    def fits(self, fact: StepFact) -> bool:
        same = fact.requests is self.first.requests or fact.requests == self.first.requests
        return (
            not fact.mixed
            and same
            and fact.decode_requests == self.first.decode_requests
            and self.in_time(fact.start_ns)
        )

    def in_time(self, start_ns: int) -> bool:
        return self.first.start_ns <= start_ns < self.first.start_ns + WINDOW_NS

    def all_needs(self) -> Mapping[int, int]:
        if not self._others:
            return self.needs
        # Some may be exported before the window is; then their arrivals are needed for the links.
        return lowest((self.needs, *({ref.ring: ref.sequence} for ref in self.all_requests())))

    def all_requests(self) -> tuple[RequestRef, ...]:
        return tuple(dict.fromkeys((*self.requests, *self._others))) if self._others else self.requests

    def attributes(self) -> dict[str, Value]:
        values: dict[str, Value] = {
            names.STEP_INDEX: self.first.index & STEP_COUNT_MASK,  # the rank is in the resource
            names.STEP_COUNT: self.count,
        }
        for key, value in self.sums.items():
            # A sum that misses a step would be read as less work than was done.
            if key not in self.short:
                values[key] = min(value, INT64_MAX)
        if names.GPU_TIME_NS in values:
            values[names.GPU_TIME_QUALITY] = names.QUALITY_MEASURED
        for key, (level, told_ns) in self.levels.items():
            mean = level / told_ns
            values[key] = mean if key in _DOUBLE_LEVELS else min(round(mean), INT64_MAX)
        if self.kv_peak is not None:
            peak = zip(_KV_PEAK, self.kv_peak, strict=True)
            values.update((key, min(tokens, INT64_MAX)) for key, tokens in peak if tokens != UNKNOWN)
        self._gather()
        if self._counters is not None:
            gpu_ns = float((self.end_ns - self.first.start_ns) * self._gpus)
            values.update(self._counters.complete(self.count).attributes(gpu_ns))
        return values

    def _gather(self) -> None:
        if self._counters is not None and self._latest is not None:
            self._counters.add_steps(self._latest, self._alike)
        self._latest, self._alike = None, 0


def _owed(sums: Mapping[str, int]) -> tuple[str, ...]:
    """Return what the sums of a step hold if its work was told whole."""
    prefills = sums.get(names.STEP_PREFILL_TOKENS, 0) > 0 or sums.get(names.STEP_PREFILL_REQUESTS, 0) > 0
    encodes = sums.get(names.STEP_ENCODE_ITEMS, 0) > 0 or sums.get(names.STEP_ENCODE_NS, 0) > 0
    return (_PREFILL_SUMS if prefills else ()) + (_ENCODE_SUMS if encodes else ())


class Folding:
    """Turns the step facts of one rank, in order, into spans."""

    def __init__(self, skip_through: int = 0, detail: int = DETAIL_DEFAULT) -> None:
        """Start; steps up to this ring sequence were exported by an earlier agent and are left out."""
        self.exported_through = skip_through
        """Ring sequence of the last step that was handed over in a span, or left out for lack of detail."""
        self._detail = detail
        self._skip_through = self._left_out_through = skip_through
        self._window: _Window | None = None
        self._linked: dict[RequestRef, None] = {}
        self._full_second: int | None = None
        """Of the monotonic clock, in which a span named everybody."""
        self._done: list[StepSpan] = []

    @property
    def detail(self) -> int:
        """Return the level: 3 steps and windows, 2 windows of all steps, 1 and 0 neither."""
        return self._detail

    def set_detail(self, level: int) -> None:
        """Fold what follows at another level; the open window ends here."""
        if level != self._detail:
            self.close()
            self._detail = level

    def add_run(self, run: StepRun) -> None:
        """Take the next steps: as if one by one, but those together of which it is sure that one window takes them."""
        starts = [step.start_ns for step in run.steps]
        begin = 0
        while begin < len(starts):
            start_ns = window_ns = starts[begin]
            if self._window is not None and self._window.in_time(start_ns):
                window_ns = self._window.first.start_ns
            end_ns, end = window_ns + WINDOW_NS, begin + 1
            # What an earlier agent exported goes by itself.
            if run.steps[begin].sequence > self._skip_through:
                for later_ns in starts[end:]:
                    if not start_ns <= later_ns < end_ns:
                        break
                    end += 1
            self.add(run.fact(begin, end))
            begin = end

    def add(self, fact: StepFact) -> None:
        """Take the next step, or steps that do not reach beyond the second of the open window."""
        if fact.sequence <= self._skip_through:
            return
        if self._detail < DETAIL_WINDOWS:
            self._left_out_through = max(self._left_out_through, fact.last_sequence)
            self._full_second = None  # the next span to come names everybody
            return
        alone = fact.mixed and self._detail >= DETAIL_STEPS
        window = self._window
        if window is not None:
            if window.in_time(fact.start_ns) if self._detail < DETAIL_STEPS else window.fits(fact):
                window.add(fact)
                return
            self.close()
        self._window = _Window(fact)
        if alone:
            self.close()

    def close(self) -> None:
        """End the open window: something else follows, or nothing does."""
        window, self._window = self._window, None
        if window is None:
            return
        alone = window.first.mixed and self._detail >= DETAIL_STEPS
        name = names.SPAN_STEP if alone else names.SPAN_WINDOW
        start_ns = window.first.start_ns
        end_ns = max(start_ns, window.end_ns)
        links = self._links(window.all_requests(), start_ns)
        sequence, last = window.first.sequence, window.last_sequence
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
        through = max((span.last_sequence for span in done), default=0)
        self.exported_through = max(self.exported_through, self._left_out_through, through)
        return done

    @property
    def open_needs(self) -> Mapping[int, int]:
        """Return by ring the lowest sequence that the open window needs."""
        return {} if self._window is None else self._window.all_needs()

    def _links(self, requests: tuple[RequestRef, ...], start_ns: int) -> tuple[RequestRef, ...]:
        """Return who joined or left since the previous span; for the first span of each second everybody.

        Of the clock's seconds: with those since the agent's first span no repeat would be like what it repeats.
        """
        now = dict.fromkeys(requests)
        second = start_ns // FULL_LINKS_EVERY_NS
        if second != self._full_second:
            self._full_second = second
            links = tuple(now)
        else:
            joined = [ref for ref in now if ref not in self._linked]
            links = (*joined, *(ref for ref in self._linked if ref not in now))
        self._linked = now
        return links
