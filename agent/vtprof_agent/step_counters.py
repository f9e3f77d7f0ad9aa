"""Counters of steps on their way to spans: tallies that add up, each request's share, and what decoding requests gather.

Amounts and the ends of their intervals are sums, so a tally over steps is a sum too, and a difference of two is exact.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from vtprof_agent.counters.meter import CLASSES, COUNTERS, Share, StepCounters
from vtprof_agent.facts import Value
from vtprof_schemas import names

REBASE_STEPS = 65_536
"""After so many steps the sums of decoding begin anew, or they grow until differences of them lose precision."""
_KEYS = {key: (key, f"{key}.low", f"{key}.high", f"{key}.quality") for key in COUNTERS}
_AMOUNT, _LOW, _HIGH, _GPU_NS, _STEPS, _ATTRIBUTED, _ESTIMATED = range(7)
_PREFILL, _DECODE = CLASSES.index(names.PREFILL), CLASSES.index(names.DECODE)
_PLACES = {names.QUALITY_ATTRIBUTED: _ATTRIBUTED, names.QUALITY_ESTIMATED: _ESTIMATED}


class Tally:
    """Sums by counter over steps: amount, interval, GPU time that it is over (ns), and steps by quality."""

    __slots__ = ("rows", "steps")

    def __init__(self) -> None:
        """Start with no step."""
        self.steps = 0
        """Steps that could have been counted; a counter with fewer of them says less than all."""
        self.rows: dict[str, list[float]] = {}

    def add(
        self, key: str, share: Share, gpu_ns: float, quality: str, part: float = 1.0, steps: int = 1
    ) -> None:
        """Add a part of a share, over so much time of its GPUs; the steps themselves are counted by the caller."""
        self.add_amounts(
            key, share.amount * part, share.low * part, share.high * part, gpu_ns, quality, steps
        )

    def add_amounts(
        self, key: str, amount: float, low: float, high: float, gpu_ns: float, quality: str, steps: int = 1
    ) -> None:
        """Add an amount of one step, or of some together, and the ends of its interval."""
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = [0.0] * 7
        row[_AMOUNT] += amount
        row[_LOW] += low
        row[_HIGH] += high
        row[_GPU_NS] += gpu_ns
        row[_STEPS] += steps
        if (place := _PLACES.get(quality)) is not None:
            row[place] += steps

    def add_steps(self, counters: StepCounters, steps: int) -> None:
        """Add what so many of the steps were given that the counters are of, all classes of work together."""
        self.steps += steps
        part = steps / counters.steps
        for key, (one, two, three) in counters.shares.items():
            amount = (one.amount + two.amount + three.amount) * part
            low, high = (one.low + two.low + three.low) * part, (one.high + two.high + three.high) * part
            self.add_amounts(key, amount, low, high, 0.0, counters.quality[key], steps)

    def join(self, other: "Tally") -> None:
        """Add another tally."""
        self.steps += other.steps
        for key, more in other.rows.items():
            row = self.rows.setdefault(key, [0.0] * 7)
            self.rows[key] = [mine + theirs for mine, theirs in zip(row, more, strict=True)]

    def copy(self) -> "Tally":
        """Return the sums as they stand."""
        made = Tally()
        made.steps = self.steps
        made.rows = {key: row[:] for key, row in self.rows.items()}
        return made

    def since(self, earlier: "Tally") -> "Tally":
        """Return what was added since an earlier copy."""
        made = Tally()
        made.steps = self.steps - earlier.steps
        none = [0.0] * 7
        for key, row in self.rows.items():
            if row[_STEPS] > earlier.rows.get(key, none)[_STEPS]:
                before = earlier.rows.get(key, none)
                made.rows[key] = [max(now - then, 0.0) for now, then in zip(row, before, strict=True)]
        return made

    def complete(self, steps: int) -> "Tally":
        """Return the counters alone that all of so many steps have: a sum that misses one would be read as less."""
        made = Tally()
        made.steps = steps
        made.rows = {key: row for key, row in self.rows.items() if row[_STEPS] == steps}
        return made

    def attributes(self, gpu_ns: float | None = None) -> dict[str, Value]:
        """Return the span attributes; ratios are means over ``gpu_ns`` (wall time x GPUs), else over the steps' own."""
        values: dict[str, Value] = {}
        for key, row in self.rows.items():
            amount, low, high, own_ns, steps, attributed, estimated = row
            if key != names.GPU_ENERGY_MJ:
                over_ns = own_ns if gpu_ns is None else gpu_ns
                if over_ns <= 0:
                    continue
                scale = 1.0 / over_ns
                amount, low = amount * scale, low * scale
                # A ratio is at most 1, whatever the sums of ends say.
                high = max(amount, min(high * scale, 1.0))
            if not (isfinite(amount) and isfinite(low) and isfinite(high)):
                continue
            quality = names.QUALITY_ATTRIBUTED if attributed else names.QUALITY_MEASURED
            if estimated or steps < self.steps:
                quality = names.QUALITY_ESTIMATED
            told, told_low, told_high, told_quality = _KEYS[key]
            values[told], values[told_low], values[told_high] = amount, low, high
            values[told_quality] = quality
        return values


class Counted:
    """What counters are given to: a stretch of a phase of one request."""

    __slots__ = ("accounts", "tally")

    def __init__(self) -> None:
        """Start without any."""
        self.tally: Tally | None = None
        self.accounts: tuple[DecodeAccount, ...] = ()
        """Where the sums of the steps that it decodes in are kept until it decodes no more; one for each scheduler."""

    def gather(self, more: Tally) -> None:
        """Add to what it was given."""
        if self.tally is None:
            self.tally = Tally()
        self.tally.join(more)

    def close_account(self) -> None:
        """Take from the sums of decoding what is its own."""
        for account in self.accounts:
            account.leave(self)


class _Member:
    """The sums when a request joined, and its cached tokens then less the steps before."""

    __slots__ = ("base", "by_context", "then", "times")

    def __init__(self, then: Tally, by_context: tuple[float, ...], base: int | None, times: int) -> None:
        self.then, self.by_context, self.base, self.times = then, by_context, base, times


class DecodeAccount:
    """Running sums over the steps of one scheduler with decoding requests, of which each takes a difference.

    A step's energy goes by cached tokens. A request has one more of them with each step, so its share of a step k is
    energy / context x (base + k): with the sums of energy / context and of energy / context x k, and the base of each
    request, a step costs the same for one request as for hundreds. Where the cached tokens are unknown all count alike.
    """

    def __init__(self) -> None:
        """Start without requests."""
        self._tally = Tally()
        self._by_context = [0.0, 0.0, 0.0]
        self._members: dict[Counted, _Member] = {}
        self._latest: Sequence[Counted] | None = None
        self._step = 0
        self._base = self._unknown = 0

    def add(
        self,
        pieces: Sequence[Counted],
        contexts: Callable[[], Mapping[Counted, int | None]],
        strangers: int,
        counters: StepCounters | None,
        gpu_ns: float,
        shared: bool,
        steps: int = 1,
    ) -> None:
        """Count a step, or some that were alike: who decoded (a request of several sequences as often), what was given.

        ``contexts`` says how many tokens each has cached now; it is asked when they are others. ``strangers`` decode
        too, but nobody knows who they are. ``gpu_ns``: the time beside the encoder x GPUs. ``shared``: others had a part.
        """
        if self._step >= REBASE_STEPS:
            self._rebase()
        if pieces != self._latest:
            self._change(pieces, contexts)
        # Of each step its number: of the steps together their sum.
        numbers = steps * self._step + steps * (steps - 1) // 2
        self._step += steps
        self._tally.steps += steps
        if counters is None:
            return
        everybody = len(pieces) + strangers
        context = self._base * steps + len(pieces) * numbers
        by_context = everybody > 1 and strangers == 0 and self._unknown == 0 and context > 0
        for key, (_, prefill, decode) in counters.shares.items():
            quality = _own(counters.quality[key], prefill)
            if key != names.GPU_ENERGY_MJ:
                self._tally.add(key, decode, gpu_ns, quality, steps=steps)
                continue
            if quality == names.QUALITY_MEASURED and (shared or everybody > 1):
                quality = names.QUALITY_ATTRIBUTED
            part = numbers / context if by_context else 1 / everybody
            self._tally.add(key, decode, gpu_ns, quality, part, steps)
            if by_context:
                for place, end in enumerate(decode):
                    self._by_context[place] += end * steps / context

    def leave(self, piece: Counted) -> None:
        """Give a request what is its own, and forget it."""
        member = self._members.pop(piece, None)
        piece.accounts = tuple(account for account in piece.accounts if account is not self)
        self._latest = None
        if member is None:
            return
        if member.base is None:
            self._unknown -= 1
        else:
            self._base -= member.base * member.times
        mine = self._tally.since(member.then)
        energy = mine.rows.get(names.GPU_ENERGY_MJ)
        if energy is not None:
            base = member.base or 0
            now = zip(self._by_context, member.by_context, strict=True)
            # Anew from the sums: the part by steps alone may be negative before the part by the base is added.
            then = member.then.rows.get(names.GPU_ENERGY_MJ, [0.0] * 7)
            total = self._tally.rows[names.GPU_ENERGY_MJ]
            for place, (after, before) in enumerate(now):
                share = total[place] - then[place] + base * (after - before)
                energy[place] = max(share * member.times, 0.0)
        piece.gather(mine)

    def _change(self, pieces: Sequence[Counted], asked: Callable[[], Mapping[Counted, int | None]]) -> None:
        present = Counter(pieces)
        for piece in [p for p, member in self._members.items() if present.get(p) != member.times]:
            self.leave(piece)
        self._latest = list(pieces)
        contexts = asked()  # only now: who left has been given the steps that it decoded
        then: Tally | None = None
        for piece, times in present.items():
            if piece in self._members:
                continue
            then = self._tally.copy() if then is None else then
            context = contexts.get(piece)
            base = None if context is None else context - self._step
            self._members[piece] = _Member(then, tuple(self._by_context), base, times)
            piece.accounts = (*piece.accounts, self)
            if base is None:
                self._unknown += 1
            else:
                self._base += base * times

    def _rebase(self) -> None:
        kept = [(piece, m.base, m.times) for piece, m in self._members.items()]
        step = self._step
        for piece, _, _ in kept:
            self.leave(piece)
        self._tally, self._by_context, self._step = Tally(), [0.0, 0.0, 0.0], 0
        contexts = {piece: None if base is None else base + step for piece, base, _ in kept}
        self._change([piece for piece, _, times in kept for _ in range(times)], lambda: contexts)


def share_by_weight(
    pieces: Sequence[Counted], weights: Sequence[int], place: int, counters: StepCounters | None, gpu_ns: float,
    shared: bool,
) -> None:  # fmt: skip
    """Give a step's counters to the pieces of one class (``place`` in ``CLASSES``).

    Energy goes by weight, alike without a positive one; of ratios, which lie over ``gpu_ns``, each piece has the class's.
    """
    usable = [max(weight, 0) for weight in weights]
    whole = sum(usable)
    for piece, weight in zip(pieces, usable, strict=True):
        if piece.tally is None:
            piece.tally = Tally()
        tally = piece.tally
        tally.steps += 1
        if counters is None:
            continue
        for key, shares in counters.shares.items():
            quality = (
                _own(counters.quality[key], shares[_DECODE]) if place == _PREFILL else counters.quality[key]
            )
            if key != names.GPU_ENERGY_MJ:
                tally.add(key, shares[place], gpu_ns, quality)
                continue
            if quality == names.QUALITY_MEASURED and (shared or len(pieces) > 1):
                quality = names.QUALITY_ATTRIBUTED
            tally.add(key, shares[place], gpu_ns, quality, weight / whole if whole else 1 / len(pieces))


def _own(quality: str, other: Share) -> str:
    """Return the label of a class's share: windows that hold another's too, however little, do not measure it."""
    return names.QUALITY_ATTRIBUTED if quality == names.QUALITY_MEASURED and other.amount > 0 else quality
