"""How long to wait before the next try: twice as long each time up to a bound, shortened at random."""

import random
from collections.abc import Callable

FIRST_S = 1.0
MOST_S = 30.0
MOST_ASKED_S = 300.0
"""An endpoint may ask for so long a pause, and no longer."""


class Backoff:
    """The pauses between tries since the last success."""

    def __init__(
        self, first_s: float = FIRST_S, most_s: float = MOST_S, chance: Callable[[], float] = random.random
    ) -> None:
        """Start with a pause of at most ``first_s``; ``chance`` gives numbers from 0 to 1."""
        self._first_s = first_s
        self._most_s = most_s
        self._chance = chance
        self._next_s = first_s

    def pause_s(self, asked_s: float | None = None) -> float:
        """Return the pause before the next try, in seconds; at least what the endpoint asked for, within bounds."""
        # Half is fixed and half random: agents that lost the same endpoint must not come back to it all at once.
        pause = self._next_s * (1 + self._chance()) / 2
        self._next_s = min(self._next_s * 2, self._most_s)
        return max(pause, min(asked_s or 0.0, MOST_ASKED_S))

    def reset(self) -> None:
        """Begin anew: a try succeeded."""
        self._next_s = self._first_s
