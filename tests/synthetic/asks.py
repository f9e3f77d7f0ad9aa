"""Draw the requests of a day, with everything about them that does not depend on the engines."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from synthetic.scenarios import Scenario, Traffic

TEXT, IMAGE, VIDEO, OUTPUT = range(4)
MODALITIES = ("text", "image", "video", "output")
OK, ABORTED, REJECTED = "ok", "aborted", "rejected"
_MERGE = 4
_PATCH_PIXELS = 14 * 14
_GRIDS = ((16, 16), (26, 36), (32, 32), (48, 48), (64, 48), (96, 72))
_GRID_SHARES = (0.1, 0.25, 0.25, 0.2, 0.15, 0.05)
_FRAME = 20 * 36
_POPULAR = 300
_THINK_S = 15.0
_NS = 1e9


@dataclass(frozen=True)
class Item:
    """An image, or a video, whose pairs of frames attend each to itself."""

    key: int
    kind: int
    frames: tuple[int, ...]
    """Patches of the image, or of each pair of frames."""
    pixels: int

    @property
    def patches(self) -> int:
        """Return the patches that enter the tower."""
        return sum(self.frames)

    @property
    def tokens(self) -> int:
        """Return the positions that it takes in the prompt: four patches become one."""
        return sum(self.frames) // _MERGE

    @property
    def pairs(self) -> int:
        """Return the query-key pairs of a layer with full attention."""
        return sum(count * count for count in self.frames)


class Segment(NamedTuple):
    """A run of prompt positions of one modality."""

    kind: int
    start: int
    end: int
    item: Item | None


@dataclass(frozen=True)
class Ask:
    """One request as its client sends it."""

    number: int
    engine: int
    arrival_ns: int
    segments: tuple[Segment, ...]
    output: int
    status: str
    follows: int | None
    """The request whose prompt and answer this one begins with."""
    fetch_ns: int
    decode_ns: int
    processor_ns: int
    """Of the processor and tokenizer, for all that is new."""

    @property
    def prompt(self) -> int:
        """Return the prompt's tokens."""
        return self.segments[-1].end

    @cached_property
    def items(self) -> tuple[Segment, ...]:
        """Return the segments with media."""
        return tuple(segment for segment in self.segments if segment.item is not None)

    def without_media(self) -> "Ask":
        """Return the same request with its images and videos taken out of the prompt."""
        segments, at = [], 0
        for kind, start, end, item in self.segments:
            if item is None:
                segments.append(Segment(kind, at, at + end - start, None))
                at += end - start
        return replace(self, segments=tuple(segments))

    def tokens(self, kind: int) -> int:
        """Return the prompt's positions of one modality."""
        return sum(segment.end - segment.start for segment in self.segments if segment.kind == kind)

    def held(self, begin: int, end: int) -> list[int]:
        """Return the positions from ``begin`` to ``end`` by modality; beyond the prompt they are the answer's."""
        counts = [0, 0, 0, max(0, end - max(begin, self.prompt))]
        for kind, start, stop, _ in self.segments:
            overlap = min(stop, end) - max(start, begin)
            if overlap > 0:
                counts[kind] += overlap
        return counts

    def visual_pairs(self, begin: int, end: int) -> int:
        """Return the causal query-key pairs whose query is visual, of the positions from ``begin`` to ``end``."""
        return sum(
            causal_pairs(max(start, begin), min(stop, end))
            for kind, start, stop, _ in self.segments
            if kind != TEXT and min(stop, end) > max(start, begin)
        )


def causal_pairs(begin: int, end: int) -> int:
    """Return the pairs of queries at ``begin`` to ``end`` with all keys up to themselves."""
    return (end * (end + 1) - begin * (begin + 1)) // 2


def draw_asks(scenario: Scenario, rng: np.random.Generator) -> list[Ask]:
    """Draw the requests of the day in order of arrival."""
    traffic = scenario.traffic
    weights = np.array([engine.share for engine in scenario.engines])
    asks: list[Ask] = []
    open_ends: list[list[Ask]] = [[] for _ in scenario.engines]
    for at_s in _arrivals(traffic, scenario.seconds, rng):
        engine = int(rng.choice(len(weights), p=weights / weights.sum()))
        followed = _choose(open_ends[engine], at_s, traffic, rng)
        ask = _draw(len(asks), engine, int(at_s * _NS), followed, traffic, rng)
        asks.append(ask)
        if ask.status == OK:
            open_ends[engine].append(ask)
    return asks


def _arrivals(traffic: Traffic, seconds: float, rng: np.random.Generator) -> list[float]:
    """Draw a Poisson process whose rate follows the day's curve, by thinning."""
    most = traffic.requests_per_s * (1 + traffic.daily_swing)
    at = np.cumsum(rng.exponential(1 / most, int(most * seconds * 1.2 + 50)))
    at = at[at < seconds]
    rate = traffic.requests_per_s * (1 - traffic.daily_swing * np.cos(2 * np.pi * at / seconds))
    kept: list[float] = at[rng.random(len(at)) * most < rate].tolist()
    return kept


def _choose(ends: list[Ask], at_s: float, traffic: Traffic, rng: np.random.Generator) -> Ask | None:
    """Take out one of the conversations that can go on."""
    if rng.random() >= traffic.followup_share:
        return None
    before_ns = (at_s - _THINK_S) * _NS
    fit = [
        place
        for place, ask in enumerate(ends[-400:])
        if ask.arrival_ns < before_ns and 2 * ask.prompt < traffic.most_prompt_tokens
    ]
    if not fit:
        return None
    first = max(0, len(ends) - 400)
    return ends.pop(first + fit[int(rng.integers(len(fit)))])


def _draw(
    number: int,
    engine: int,
    arrival_ns: int,
    followed: Ask | None,
    traffic: Traffic,
    rng: np.random.Generator,
) -> Ask:
    segments = list(followed.segments) if followed is not None else []
    at = segments[-1].end if segments else 0
    if followed is not None:
        segments.append(Segment(TEXT, at, at + followed.output, None))
        at += followed.output
    new_items = _draw_items(traffic, rng)
    pieces: list[tuple[int, int, Item | None]] = [(TEXT, 12, None)]
    pieces += [(item.kind, item.tokens, item) for item in new_items]
    pieces.append((TEXT, 1 + int(rng.lognormal(np.log(traffic.text_tokens), traffic.text_spread)), None))
    for kind, tokens, item in pieces:
        tokens = tokens if item else min(tokens, max(1, traffic.most_prompt_tokens - at))
        if at + tokens <= traffic.most_prompt_tokens or not item:
            segments.append(Segment(kind, at, at + tokens, item))
            at += tokens
    output = 1 + int(rng.lognormal(np.log(traffic.output_tokens), traffic.output_spread))
    chance = rng.random()
    status = REJECTED if chance < traffic.reject_share else OK
    if traffic.reject_share <= chance < traffic.reject_share + traffic.abort_share:
        status, output = ABORTED, max(1, int(output * rng.random()))
    pixels = sum(item.pixels for item in new_items)
    new_tokens = sum(tokens for kind, tokens, _ in pieces if kind == TEXT)
    return Ask(
        number,
        engine,
        arrival_ns,
        tuple(segments),
        min(output, 4000),
        status,
        followed.number if followed is not None else None,
        fetch_ns=sum(int(rng.lognormal(np.log(25e6), 0.5)) for _ in new_items),
        decode_ns=int(pixels * rng.uniform(7, 11)),
        processor_ns=int(400_000 + new_tokens * 2_500 + pixels * rng.uniform(9, 13)),
    )


def _draw_items(traffic: Traffic, rng: np.random.Generator) -> list[Item]:
    chance = rng.random()
    if chance < traffic.video_share:
        frames = (_FRAME,) * int(rng.integers(4, 13))
        return [Item(int(rng.integers(2**40)), VIDEO, frames, len(frames) * 2 * _FRAME * _PATCH_PIXELS)]
    if chance >= traffic.video_share + traffic.image_share:
        return []
    return [
        _draw_image(traffic, rng) for _ in range(1 + int(rng.integers(traffic.most_images) * rng.random()))
    ]


def _draw_image(traffic: Traffic, rng: np.random.Generator) -> Item:
    popular = rng.random() < traffic.popular_share
    key = int(_POPULAR * rng.random() ** 3) if popular else _POPULAR + int(rng.integers(2**40))
    # What an image is follows from its key, so that a popular one is always the same.
    own = np.random.default_rng(key)
    rows, columns = _GRIDS[int(own.choice(len(_GRIDS), p=_GRID_SHARES))]
    return Item(key, IMAGE, (rows * columns,), int(rows * columns * _PATCH_PIXELS * own.uniform(1.0, 2.5)))
