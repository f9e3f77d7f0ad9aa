"""The requests of a deployment, drawn the same way each time."""

from dataclasses import dataclass
from functools import cached_property
from random import Random

from deployments.deployment import Deployment, Traffic

MERGE = 4
"""Patches that become one token."""
PATCH_PIXELS = 14 * 14
_MS = 1e6


@dataclass(frozen=True)
class Media:
    """An image, a video or a clip of audio."""

    kind: str
    digest: str
    frames: tuple[int, ...]
    """Patches of an image, of each pair of frames, or positions of a clip: what attends to itself."""
    tokens: int
    pixels: int = 0
    video_frames: int = 0
    audio_ns: int = 0
    known: bool = False
    """Whether the same came before."""


@dataclass(frozen=True)
class Asked:
    """One request as its client sends it, and what the CPU side makes of it."""

    number: int
    replica: int
    arrival_ns: int
    text: int
    media: tuple[Media, ...]
    output: int
    fetch_ns: int
    cpu_ns: int
    wait_ns: int
    hits: int
    transfer_ns: int
    rejected: bool

    @cached_property
    def visual(self) -> int:
        """Return the positions filled from images and video."""
        return sum(item.tokens for item in self.media if item.kind != "audio")

    @cached_property
    def prompt(self) -> int:
        """Return the prompt's tokens."""
        return self.text + sum(item.tokens for item in self.media)

    def of(self, kind: str) -> tuple[Media, ...]:
        """Return the items of one kind."""
        return tuple(item for item in self.media if item.kind == kind)

    @property
    def processed_ns(self) -> int:
        """Return when the CPU side was done, and the way to the engine began."""
        return self.arrival_ns + self.fetch_ns + self.cpu_ns + self.wait_ns

    @property
    def hand_over_ns(self) -> int:
        """Return when the engine got it."""
        return self.processed_ns + self.transfer_ns


def requests(deployment: Deployment) -> list[Asked]:
    """Return the requests in order of arrival."""
    traffic, rng = deployment.traffic, Random(7)
    places = [place for place, share in enumerate(deployment.replicas) for _ in range(share)]
    seen: set[str] = set()
    found = []
    for number, arrival_ns in enumerate(_arrivals(traffic, rng)):
        media = _media(traffic, number, rng, seen)
        found.append(_asked(deployment, number, places[number % len(places)], arrival_ns, media, rng))
    return found


def _arrivals(traffic: Traffic, rng: Random) -> list[int]:
    groups = -(-(traffic.requests - traffic.crowd) // traffic.group)
    apart_ms = traffic.minutes * 60_000 / groups
    found = []
    for group in range(groups):
        begin_ms = (group + 0.4 * rng.random()) * apart_ms
        found += [begin_ms + traffic.group_ms * place / traffic.group for place in range(traffic.group)]
    middle_ms = traffic.minutes * 30_000
    found += [middle_ms + 2.0 * place for place in range(traffic.crowd)]
    return sorted(int(at_ms * _MS) for at_ms in found)


def _media(traffic: Traffic, number: int, rng: Random, seen: set[str]) -> tuple[Media, ...]:
    if traffic.audio_seconds:
        return (_clip(traffic, number),)
    if traffic.video_every and number % traffic.video_every == 0:
        rows, columns = traffic.video_grid
        pairs = (rows * columns,) * (traffic.frames // 2)
        pixels = rows * columns * PATCH_PIXELS * traffic.frames
        return (Media("video", f"v{number:015x}", pairs, sum(pairs) // MERGE, pixels, traffic.frames),)
    if not traffic.image_every or number % traffic.image_every != traffic.image_at:
        return ()
    items = []
    for place in range(traffic.images):
        index = number // traffic.image_every * traffic.images + place
        rows, columns = traffic.grids[index % len(traffic.grids)]
        key = rng.randrange(traffic.distinct_images) if traffic.distinct_images else index
        digest = f"{key + 1:016x}"
        patches = rows * columns
        pixels = int(patches * PATCH_PIXELS * traffic.received_ratio)
        known = digest in seen
        seen.add(digest)
        items.append(Media("image", digest, (patches,), patches // MERGE, pixels, known=known))
    return tuple(items)


def _clip(traffic: Traffic, number: int) -> Media:
    """Return a clip: the encoder pads it to a window of 30 s, or 1500 positions; 25 tokens stand for a second."""
    tokens = int(25 * traffic.audio_seconds)
    return Media("audio", f"a{number:015x}", (1500,), tokens, audio_ns=int(traffic.audio_seconds * 1e9))


def _asked(
    deployment: Deployment, number: int, replica: int, arrival_ns: int, media: tuple[Media, ...], rng: Random
) -> Asked:
    traffic, frontend = deployment.traffic, deployment.frontend
    median = traffic.text_tokens
    if media and traffic.image_text_tokens is not None:
        median = traffic.image_text_tokens
    text = max(4, int(median * rng.uniform(0.67, 1.33)))
    output = max(2, int(traffic.output_tokens * rng.uniform(0.67, 1.33)))
    hits = sum(item.known and rng.random() < frontend.hit_share for item in media)
    mpix = sum(item.pixels for item in media) / 1e6 * (1 - hits / len(media) if media else 1)
    rate = frontend.ms_per_mpix * rng.uniform(0.9, 1.1)
    slow = bool(frontend.slow_every) and number // max(1, traffic.image_every) % frontend.slow_every > 0
    rejected = bool(traffic.rejected_every) and number % traffic.rejected_every == 1
    return Asked(
        number, replica, arrival_ns, 200_000 if rejected else text, media, output,
        fetch_ns=int(frontend.fetch_ms * _MS * rng.uniform(0.8, 1.2)) if media else 0,
        cpu_ns=int((frontend.text_ms * rng.uniform(0.9, 1.1) + mpix * rate) * _MS),
        wait_ns=int((frontend.wait_ms * rng.uniform(0.8, 1.2) + 5 * slow * mpix * rate) * _MS),
        hits=hits, transfer_ns=int(frontend.transfer_ms * _MS), rejected=rejected,
    )  # fmt: skip
