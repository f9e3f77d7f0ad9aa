"""What an agent after us must read again of requests that we exported, so that what it repeats is identical.

It repeats a request when it reads its arrival again, and that it does while an earlier one is open.
"""

from collections import deque
from collections.abc import Mapping

MAX_KEPT = 4096
"""Beyond so many exported requests the two oldest count as one that needs what either does."""


class Reread:
    """Exported requests whose arrival may be read again, and what each needs of other rings."""

    def __init__(self) -> None:
        """Start without any."""
        self._kept: dict[int, deque[tuple[int, dict[int, int]]]] = {}

    def add(self, ring: int, sequence: int, needs: Mapping[int, int]) -> None:
        """Note an exported request: ring and sequence of its arrival, and by ring its lowest sequence."""
        others = {other: lowest for other, lowest in needs.items() if other != ring}
        if not others:
            return
        kept = self._kept.setdefault(ring, deque())
        kept.append((sequence, others))
        if len(kept) > MAX_KEPT:
            first, second = kept.popleft(), kept.popleft()
            both = {
                other: min(part[1][other] for part in (first, second) if other in part[1])
                for other in (*first[1], *second[1])
            }
            kept.appendleft((max(first[0], second[0]), both))

    def lower(self, cursors: dict[int, int]) -> None:
        """Lower cursors so that every request whose arrival lies at or above its ring's is read whole."""
        for ring, kept in self._kept.items():
            cursor = cursors.get(ring)
            if cursor is None:
                continue
            again = [one for one in kept if one[0] >= cursor]
            if len(again) < len(kept):
                kept.clear()
                kept.extend(again)
            for _, needs in again:
                for other, lowest in needs.items():
                    if lowest < cursors.get(other, 0):
                        cursors[other] = lowest
