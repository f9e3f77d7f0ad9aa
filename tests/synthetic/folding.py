"""Fold iterations as the agent does: those with prefill or encode work alone, like decode-only ones into windows.

A window holds at most a second of iterations with the same requests. Each span links the requests that joined or left since
the span before it, the first one of every second all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from synthetic.kernels import Part
from synthetic.life import Iteration

_WINDOW_NS = 1_000_000_000


@dataclass
class Folded:
    """Iterations that one span stands for."""

    iterations: list[Iteration]
    links: list[int]
    """Numbers of the requests that the span names."""

    @property
    def first(self) -> Iteration:
        """Return the first iteration, whose index is the span's."""
        return self.iterations[0]

    @property
    def end_ns(self) -> int:
        """Return the end of the last iteration."""
        return self.iterations[-1].end_ns

    def parts(self) -> tuple[Part, Part, Part]:
        """Return the sums of the phases' parts."""
        sums = (Part(), Part(), Part())
        for iteration in self.iterations:
            for total, part in zip(sums, iteration.time.parts, strict=True):
                total.add(part)
        return sums


def fold(iterations: list[Iteration], clock_offset_ns: int = 0) -> Iterator[Folded]:
    """Yield what becomes one step or window span; seconds are those of the host's clock."""
    decoding: dict[int, None] = {}
    links = _Links(clock_offset_ns)
    group: list[Iteration] = []
    at_group: dict[int, None] = {}
    for iteration in iterations:
        changed = bool(iteration.joined or iteration.left)
        for number in iteration.left:
            decoding.pop(number, None)
        decoding.update(dict.fromkeys(iteration.joined))
        like = group and not changed and not group[0].mixed and not iteration.mixed
        if like and iteration.start_ns < group[0].start_ns + _WINDOW_NS:
            group.append(iteration)
            continue
        if group:
            yield Folded(group, links.of(at_group, group[0].start_ns))
        group = [iteration]
        at_work = [encode.life.ask.number for encode in iteration.encodes]
        at_work += [chunk.life.ask.number for chunk in iteration.chunks]
        at_group = dict.fromkeys([*at_work, *decoding])
    if group:
        yield Folded(group, links.of(at_group, group[0].start_ns))


class _Links:
    """Who joined or left since the previous span; everybody in the first span of each second."""

    def __init__(self, clock_offset_ns: int) -> None:
        self._offset_ns = clock_offset_ns
        self._linked: dict[int, None] = {}
        self._second: int | None = None

    def of(self, now: dict[int, None], start_ns: int) -> list[int]:
        second = (start_ns + self._offset_ns) // _WINDOW_NS
        before, self._linked = self._linked, now
        if second != self._second:
            self._second = second
            return list(now)
        return [n for n in now if n not in before] + [n for n in before if n not in now]
