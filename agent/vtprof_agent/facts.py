"""What the assembly hands on: finished requests, engine steps, and folded step spans. Times are monotonic ns.

``attributes`` are keyed by the constants of ``names``; a value that the engine does not tell is absent, never -1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vtprof_agent.counters.meter import StepCounters

Value = int | float | str


class Caller(NamedTuple):
    """The caller's trace context (W3C traceparent)."""

    trace_id: int
    span_id: int
    trace_flags: int


class RequestRef(NamedTuple):
    """Names a request: the ring sequence of its first record, and the caller's context if it has one."""

    sequence: int
    caller: Caller | None = None
    ring: int = 0
    """Within a family of rings: the one that told of its arrival, whose identity its ids derive from."""


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One span of one phase of a request."""

    phase: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request with its phases: disjoint, within ``start_ns..end_ns``, in order of time."""

    ref: RequestRef
    start_ns: int
    end_ns: int
    first_token_ns: int | None
    attributes: dict[str, Value]
    phases: tuple[PhaseSpan, ...]
    served_by: int = 0
    """The ring of the engine that served it, else its own: whose resource its spans carry."""


@dataclass(slots=True)
class StepFact:
    """Engine iterations of one rank: one, or several of decoding alone by the same requests.

    Not frozen because that takes three times as long to make.
    """

    sequence: int
    """Ring sequence of the first one's STEP record."""
    last_sequence: int
    index: int
    """Of the first one."""
    start_ns: int
    end_ns: int
    mixed: bool
    """True when it held prefill or encode work."""
    requests: tuple[RequestRef, ...]
    """Who took part, as far as known; decode-only steps of one composition share the very same tuple."""
    decode_requests: int
    """In each."""
    sums: dict[str, int]
    """Step attributes that add up over iterations."""
    levels: dict[str, tuple[int, int]]
    """Step attributes of which a span states the time mean: the integral over those that tell it, and their time, ns."""
    kv_peak: tuple[int, int] | None = None
    """Tokens held and the visual part (UNKNOWN when not told) after the one that held the most."""
    count: int = 1
    ring: int = 0
    needs: Mapping[int, int] = field(default_factory=dict)
    """By ring the lowest sequence from which this fact can be made again."""
    counters: StepCounters | None = None
    """What each was given of its GPUs' counters: the same, as it is of all of them."""


@dataclass(frozen=True, slots=True)
class StepSpan:
    """A ``vtprof.step`` or ``vtprof.window``, or (``part`` > 0) a continuation that carries further links only."""

    name: str
    sequence: int
    """Ring sequence of its first STEP record: what its ids derive from."""
    last_sequence: int
    part: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    links: tuple[RequestRef, ...]
