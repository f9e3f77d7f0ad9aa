"""What attribution works on, and what it answers: work of steps, windows of counters, shares by class of work.

An amount is additive over time and over work: energy in mJ, and for a ratio (bandwidth, tensor or SM activity) the
integral of the ratio over time, in ns. Amounts of several GPUs are added up: a mean ratio is amount / (time x GPUs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from vtprof_schemas import names

CLASSES: Final = (names.ENCODE, names.PREFILL, names.DECODE)
"""Classes of work, in the order of ``StepCounters``."""
COUNTERS: Final = (
    names.GPU_DRAM_BANDWIDTH_RATIO,
    names.GPU_TENSOR_ACTIVE_RATIO,
    names.GPU_SM_ACTIVE_RATIO,
    names.GPU_ENERGY_MJ,
)
"""Counters that are attributed."""


class Work(NamedTuple):
    """The work of one engine step, as the records tell it; unknown counts are 0. Times are monotonic ns."""

    start_ns: int
    end_ns: int
    patches: int = 0
    encode_pairs: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    decode_requests: int = 0
    decode_context_tokens: int = 0
    encode_ns: int = 0
    """GPU time (else wall time) of the encoder within the step, which stands at its begin."""
    decode_tokens: int = 0
    """Tokens that the decoding requests compute, more than one each with speculative decoding; 0: one each."""


@dataclass(frozen=True, slots=True)
class CounterWindow:
    """One counter of one GPU over a window of time, monotonic ns."""

    hw_id: str
    key: str
    """One of ``COUNTERS``."""
    start_ns: int
    end_ns: int
    amount: float
    """mJ, or the ratio's integral in ns."""
    exact_edges: bool = True
    """False where the source latches its values by a clock of its own: the edges may be off by a period."""


class Share(NamedTuple):
    """A part of an amount with its interval (90 %)."""

    amount: float
    low: float
    high: float


class StepCounters(NamedTuple):
    """What a step is given of each counter."""

    shares: Mapping[str, tuple[Share, Share, Share]]
    """By key: of encode, prefill and decode, as in ``CLASSES``."""
    quality: Mapping[str, str]
    """By key: measured (nothing else was in its windows), attributed or estimated."""
    gpus: int
    """How many GPUs the amounts were added over."""
    steps: int = 1
    """Iterations that the amounts are of, all together."""


class Meter(Protocol):
    """Gives counters to steps. ``line`` names the scheduler that ran them, among those on the same GPUs."""

    def add(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> None:
        """Take the work of a step that ran on these GPUs, soon after it ended and in order of time for each line."""

    def await_step(self, gpus: tuple[str, ...], line: int, awaited: bool) -> None:
        """Tell whether a scheduler has requests, so that a step may be under way that is told once it ended."""

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        """Tell whether nothing more is to come for steps that ended by then: their windows are closed, or never were."""

    def of(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> StepCounters | None:
        """Return the shares of a step that was added; None when no counter covers it."""

    def of_run(self, gpus: tuple[str, ...], works: Sequence[Work], line: int = 0) -> StepCounters | None:
        """Return what steps of decoding alone that follow each other are given together, of which all were added."""
