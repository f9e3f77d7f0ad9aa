"""What the parts of `vtprof watch` hand on: what was read since the last poll, and what the detector says of it."""

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from vtprof_analyzer.regress.requests import Requests

Kind = Literal["shift", "tail"]
"""shift: the whole distribution, given the workload; tail: more requests far beyond what their workload explains."""
Why = Literal["recovered", "no_longer_judged", "judged_anew", "no_longer_watched"]
"""Why an alert ended. recovered: what it told of is over. The others say nothing of that. no_longer_judged: what it is
judged by is recorded no longer. judged_anew: it is held against something else from now on, and may fire again.
no_longer_watched: the watch was started anew without it, or with another limit."""


@dataclass(frozen=True)
class Alarm:
    """A phase of a model costs more than BASE's model says of the same workload and load."""

    phase: str
    """preprocess, queue, encode, transfer, prefill, decode, kv or cache."""
    kind: Kind
    model: str
    """Served model; '' where none was recorded."""
    began_unix_nano: int
    """Estimate of when the change came: start of the block that it begins with."""
    time_unix_nano: int
    """Start of the newest request that the detector had seen when it fired."""
    effect_ratio: float
    """shift: change of the phase's time (kv: of bytes per token) at like work and load; tail and cache: of the share of
    requests beyond BASE's limit, or of the share that missed. 0.08 is 8 % more. More is worse."""
    ci_low: float
    """Ends of its interval, 95 %, of the blocks since it began: an alarm stops where the evidence is large, so that the
    estimate tends to lie too high."""
    ci_high: float
    requests: int
    """Requests since it began, those that the phase was judged by."""
    evidence: tuple[str, ...]
    """Ids of the requests that show it best, largest first."""
    statistic: float
    """Natural logarithm of the e-detector; it fires at ``threshold``."""
    threshold: float
    at_least: bool = False
    """Load was beyond BASE's: what it can explain at most is taken off, and the effect is at least that."""
    share_ratio: float | None = None
    """tail: of requests beyond BASE's limit, and of BASE's."""
    base_share_ratio: float | None = None


class Unlike(NamedTuple):
    """Columns by which requests and BASE cannot be compared, by the reason; columns of `Requests`."""

    base_alone: tuple[str, ...] = ()
    """BASE has them and the requests that come lack them."""
    requests_alone: tuple[str, ...] = ()
    """The other way round."""
    zero: tuple[str, ...] = ()
    """All zero in the requests, and hardly ever in BASE."""
    zero_in_base: tuple[str, ...] = ()
    """The other way round."""
    units: tuple[str, ...] = ()
    """Times that are a thousandfold, or a power of it, of what BASE's are."""


NOTHING: Final = Unlike()


@dataclass(frozen=True)
class Over:
    """What an alarm told of has ended: the phase is back within what BASE's model says, or can be held to it no longer."""

    phase: str
    kind: Kind
    model: str
    time_unix_nano: int
    """Start of the newest request that the detector had seen when it was sure."""
    ended_unix_nano: int
    """Estimate of when it ended."""
    requests: int
    """Requests since it ended, those that the phase was judged by."""
    last: Alarm | None = None
    """The alarm with what was known of it in the end."""
    why: Why = "recovered"
    unlike: Unlike = NOTHING
    """By what it can be judged no longer, or is judged no longer in this way; nothing where a column came back."""


Event = Alarm | Over


class Level(NamedTuple):
    """How one sequential test stands."""

    phase: str
    kind: str
    model: str
    statistic: float
    """Natural logarithm, as the threshold; -inf before the first block."""
    threshold: float
    effect_ratio: float | None
    """Of the alarm that is not over; None without one."""


class Standing(NamedTuple):
    """What is known of one phase of one model so far, alarm or not."""

    phase: str
    model: str
    blocks: int
    """That were judged."""
    blocks_not_comparable: int
    effect_ratio: float | None
    """Mean of all of them against BASE, and its 95 % interval, run-to-run noise included; None: no block yet."""
    ci_low: float | None
    ci_high: float | None


class LeftOut(NamedTuple):
    """What the requests of one model and BASE do not carry alike, so that it is left out of both."""

    model: str
    unlike: Unlike
    lost: tuple[str, ...]
    """Phases that are not judged for that reason."""
    judged: tuple[str, ...]
    """Phases that are judged, without these columns."""
    since: tuple[tuple[str, int], ...] = ()
    """Start of the request by which it was sure of a column, Unix time [ns], where that is known."""


class Gap(NamedTuple):
    """What was left out of one model's requests for a while, and is compared again."""

    model: str
    unlike: Unlike
    phases: tuple[str, ...]
    """That are judged again with it."""
    begin_ns: int
    """Start of the request by which it was sure, Unix time [ns], and of the one by which it was back."""
    end_ns: int


class KvSample(NamedTuple):
    """KV cache in use, as one span of the engine's told."""

    time_ns: int
    """End of the span, Unix time [ns]."""
    instance: str
    used_tokens: float
    """The most of the span, or its mean where no maximum was recorded."""
    capacity_tokens: float
    """NaN where it was not recorded."""


class LoadUnknown(NamedTuple):
    """Phases of a model that are judged though neither BASE nor its requests tell the load which they meet."""

    model: str
    columns: tuple[str, ...]
    """What would tell it."""
    phases: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """What came since the last poll."""

    requests: Requests
    """Complete requests, new ones alone, in order of start."""
    kv: tuple[KvSample, ...] = ()
    """In order of time."""
    settled_until_ns: int = 0
    """No request that starts before this is expected any more: what begins before it can be judged."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Requests, lines or files that were left out since the last poll, counted by reason, in words."""
    notes: tuple[str, ...] = ()
    """What else a user should know, a line each, said once."""
    caught_up: bool = True
    """Whether all that is there has been read; False: poll again at once."""


FOREVER_NS: Final = 2**63 - 1
"""``settled_until_ns`` of an input that has ended."""
