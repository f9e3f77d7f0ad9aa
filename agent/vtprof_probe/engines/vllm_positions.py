"""Where media lie in a prompt: visual tokens and causal pairs of any chunk of it, and the items that a chunk needs."""

from bisect import bisect_right
from typing import Any, List, Sequence, Set, Tuple

Run = Tuple[int, int]
"""Positions from the first to behind the last."""

_VISUAL = ("image", "video", "vision")


class Positions:
    """The positions of one prompt that hold media features. Keeps numbers only, no object of the engine."""

    __slots__ = ("_items", "_runs", "_starts", "_sums", "_unseen")

    def __init__(self, visual: List[Run], items: List[List[Run]]) -> None:
        """Prepare for runs of image and video positions and the runs of every item, in the request's order."""
        self._runs = _merged(visual)
        self._starts = [run[0] for run in self._runs]
        count = pairs = 0
        self._sums = []
        for start, stop in self._runs:
            self._sums.append((count, pairs))
            count += stop - start
            pairs += (stop - start) * (start + stop + 1) // 2
        self._items = items
        self._unseen: Set[int] = set(range(len(items)))

    def visual_before(self, position: int) -> Tuple[int, int]:
        """Return the visual tokens before a position, and the causal query-key pairs whose query they are."""
        index = bisect_right(self._starts, position) - 1
        if index < 0:
            return 0, 0
        start, stop = self._runs[index]
        count, pairs = self._sums[index]
        if position < stop:
            stop = position
        return count + stop - start, pairs + (stop - start) * (start + stop + 1) // 2

    def first_needed(self, start: int, stop: int, encoded: Sequence[int]) -> int:
        """Count the items that a chunk is the first to need and that are not ``encoded`` for it: cache hits."""
        unseen = self._unseen
        if not unseen:
            return 0
        unseen.difference_update(encoded)
        hits = [
            index
            for index in unseen
            if any(first < stop and start < behind for first, behind in self._items[index])
        ]
        unseen.difference_update(hits)
        return len(hits)


def causal_pairs(start: int, stop: int) -> int:
    """Return the query-key pairs of queries at these positions, each of which sees itself and all before it."""
    return (stop - start) * (start + stop + 1) // 2


def read_positions(features: Sequence[Any]) -> Positions:
    """Read vLLM's ``mm_features`` of a request: each item's placeholder range and the mask of those it embeds."""
    visual: List[Run] = []
    items: List[List[Run]] = []
    for feature in features:
        runs = _embedded_runs(feature.mm_position)
        items.append(runs)
        if feature.modality.startswith(_VISUAL):
            visual += runs
    return Positions(visual, items)


def _embedded_runs(place: Any) -> List[Run]:
    offset, length = place.offset, place.length
    mask = place.is_embed
    if mask is None or getattr(mask, "is_cuda", False):
        return [(offset, offset + length)] if length > 0 else []
    cells = _mask_bytes(mask)
    runs: List[Run] = []
    start = cells.find(1)
    while start >= 0:
        stop = cells.find(0, start)
        stop = len(cells) if stop < 0 else stop
        runs.append((offset + start, offset + stop))
        start = cells.find(1, stop)
    return runs


def _mask_bytes(mask: Any) -> bytes:
    """Return a mask as one byte for each position, 0 or 1; a tensor's through numpy, which copies it as it lies."""
    try:
        cells: bytes = mask.numpy().astype(bool).tobytes()
        return cells
    except (AttributeError, TypeError, RuntimeError):
        return bytes(bool(cell) for cell in (mask.tolist() if hasattr(mask, "tolist") else mask))


def _merged(runs: List[Run]) -> List[Run]:
    """Return the runs in order, those that touch or overlap as one."""
    merged: List[Run] = []
    for start, stop in sorted(runs) if len(runs) > 1 else runs:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged
