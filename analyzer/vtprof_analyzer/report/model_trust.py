"""The integrity part of the report object beyond counts: how far each area can be trusted, what is wrong, which clocks.

Rows of the stages ``trust``, ``span_faults`` and ``clock_offsets``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrustRow:
    """One area of the report and one reason to trust it less; an area without any has one row, "ok"."""

    area: str  # tokens, phases, steps, counters, kv, clock or sampling
    state: str  # ok, weak or refused
    reason: str  # in words, with the counts
    factor: float  # what is left of the trust, 0..1: the share of the data that is as it should be
    counter: str | None = None  # energy, dram or tensor: known for part of the time; None for another reason


@dataclass(frozen=True)
class SpanFaultRow:
    """One kind of fault in the spans or in what the agents exported; kinds that did not occur have no row."""

    kind: str  # as in the stage `span_faults`
    count: int
    time_share: (
        float | None
    )  # part of the time of its kind of span that it spoils, 0..1; None: no matter of time


@dataclass(frozen=True)
class ClockOffsetRow:
    """Two clocks that met in requests: how far one is ahead of the other, from what must come before what."""

    host_name: str
    against: str  # the host whose clock is taken as the right one of the two
    offset_ms: float | None  # was subtracted from the times of `host_name`; None where the bounds contradict
    low_ms: float | None  # at least; None where nothing bounds it
    high_ms: float | None  # at most
    pairs: int  # spans with a cause on the other host
