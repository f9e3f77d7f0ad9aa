"""How long the loop leaves the rings alone between two turns."""

FAST_RECORDS = 2048
"""So many records in one turn, and the next turn comes as early as it may."""
ROOMY_RECORDS = 32_768
"""Rings of fewer records are read more often: a burst fills them soon."""


def next_pause_s(
    pause_s: float, records: int, *, filling: bool, capacity: int, least_s: float, most_s: float
) -> float:
    """Return the pause behind a turn that read so many ``records``, after one of ``pause_s``.

    ``filling``: a ring had filled far; ``capacity``: of the smallest ring, records; between ``least_s`` and ``most_s``.
    """
    if filling or records >= FAST_RECORDS:
        return least_s
    # A turn costs the same for one record as for fifty: wait longer unless they come fast.
    longest_s = max(least_s, most_s * min(1.0, capacity / ROOMY_RECORDS))
    return min(pause_s * 2, longest_s)
