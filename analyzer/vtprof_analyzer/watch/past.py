"""Blocks that were judged, in numbers: what they come to together, of which some may be taken out again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self


class Past(NamedTuple):
    """A block that was judged."""

    begin_ns: int
    mean: float
    """Of logarithms."""
    far: int
    """Requests beyond BASE's limit."""
    at_least: int
    """Requests under more load than BASE met."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> Self:
        """Read it from a state; raises ValueError or TypeError."""
        begin_ns, mean, far, at_least = values
        return cls(int(begin_ns), float(mean), int(far), int(at_least))


@dataclass
class Totals:
    """Sums over blocks."""

    blocks: int = 0
    whole: float = 0.0
    squares: float = 0.0
    far: int = 0
    at_least: int = 0

    @property
    def mean(self) -> float:
        """Return the mean of the blocks' values; 0 without any."""
        return self.whole / self.blocks if self.blocks else 0.0

    def variance(self, least_sd: float) -> float:
        """Return the variance of a block's value: as they scatter, or that of ``least_sd`` where that is more."""
        if self.blocks < 2:
            return least_sd**2
        return max(least_sd**2, (self.squares - self.blocks * self.mean**2) / (self.blocks - 1))

    def add(self, past: Past) -> None:
        """Take in a block."""
        self._count(past, 1)

    def leave_out(self, past: Past) -> None:
        """Take out a block again; the last one stays."""
        if self.blocks > 1:
            self._count(past, -1)

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        return asdict(self)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """Go on from a state; raises KeyError, TypeError or ValueError."""
        kinds = {name: type(value) for name, value in cls().state().items()}
        return cls(**{name: kind(state[name]) for name, kind in kinds.items()})

    def _count(self, past: Past, times: int) -> None:
        self.blocks += times
        self.whole += times * past.mean
        self.squares += times * past.mean**2
        self.far += times * past.far
        self.at_least += times * past.at_least


@dataclass
class Since(Totals):
    """Sums over the blocks since an alarm began."""

    before: float = 0.0
    """The stream's own mean before, and its variance."""
    before_variance: float = 0.0

    @classmethod
    def of(cls, past: Sequence[Past], before: float, before_variance: float) -> Self:
        """Begin with these blocks."""
        since = cls(before=before, before_variance=before_variance)
        for one in past:
            since.add(one)
        return since
