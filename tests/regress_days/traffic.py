"""Who asks what and when: arrivals with bursts and a swing over the day, prompts, images with identities, outputs."""

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np

from vtprof_analyzer.regress.requests import Floats, Integers

CATALOGUE_IMAGES = 300
"""Images that are asked about again and again."""
SYSTEM_PROMPTS = 12
MAX_IMAGES = 8
GRID_S = 0.25
FRESH: Final = 1_000_000
"""Identities from here on are seen once."""


@dataclass(frozen=True)
class Traffic:
    """What users of one model send. Two kinds of requests take turns over the day: chat, and work on images."""

    rate_per_s: float = 3.0
    burst_ratio: float = 2.5
    """Rate in a burst over the usual one."""
    burst_s: float = 4.0
    burst_every_s: float = 60.0
    swing: float = 0.15
    """Amplitude of the rate over the run, relative."""
    mix_swing: float = 0.1
    """Amplitude of the share of work on images."""
    periods: int = 1
    """Days in a run."""
    vision_share: float = 0.55
    """Requests that are work on images; of the chat a part has images too."""
    chat_image_share: float = 0.35
    image_tokens: float = 600.0
    """Median of an image's visual tokens; lognormal."""
    image_tokens_sd: float = 0.6
    max_image_tokens: int = 6144
    more_images_ratio: float = 0.3
    """Another image follows with this probability (geometric)."""
    catalogue_share: float = 0.45
    """Of the images, those from the catalogue; its popularity is Zipf's."""
    zipf: float = 0.9
    vision_text_tokens: float = 90.0
    chat_text_tokens: float = 260.0
    text_tokens_sd: float = 0.8
    max_text_tokens: int = 8192
    vision_output_tokens: float = 90.0
    chat_output_tokens: float = 180.0
    output_tokens_sd: float = 0.7
    max_output_tokens: int = 1536


@dataclass(frozen=True)
class Asked:
    """Requests in order of arrival."""

    arrival_ms: Floats
    text_tokens: Integers
    """System prompt included."""
    prefix: Integers
    """Which system prompt."""
    prefix_tokens: Integers
    output_tokens: Integers
    image_count: Integers
    image_ids: Integers
    """Of all images, one request after the other."""
    image_tokens: Integers

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrival_ms)

    def then(self, other: Self, first: int) -> Self:
        """Return ``first`` of these requests, and behind them ``other`` ones."""
        images = int(self.image_count[:first].sum())
        kept = {
            one.name: getattr(self, one.name)[
                : images if one.name in ("image_ids", "image_tokens") else first
            ]
            for one in fields(self)
        }
        begin_ms = float(kept["arrival_ms"][-1]) if first else 0.0
        added = {one.name: getattr(other, one.name) for one in fields(self)}
        added["arrival_ms"] = added["arrival_ms"] + begin_ms
        added["image_ids"] = np.where(added["image_ids"] < FRESH, 0, len(self.image_ids)) + added["image_ids"]
        return type(self)(**{name: np.concatenate([kept[name], added[name]]) for name in kept})


@dataclass(frozen=True)
class Library:
    """What both sides of a case share: the catalogue's images and the system prompts, as relative sizes."""

    image_logs: Floats
    """Standard normal: an image's place in the distribution of sizes."""
    prefix_tokens: Integers
    prefix_share: Floats


def draw_library(rng: np.random.Generator) -> Library:
    """Draw a service's images and system prompts."""
    share = 1 / np.arange(1, SYSTEM_PROMPTS + 1) ** 0.8
    return Library(
        rng.standard_normal(CATALOGUE_IMAGES),
        rng.integers(0, 40, SYSTEM_PROMPTS) * 16,
        share / share.sum(),
    )


def draw(traffic: Traffic, library: Library, count: int, rng: np.random.Generator) -> Asked:
    """Draw so many requests."""
    duration_s = count / traffic.rate_per_s
    phase = rng.uniform(0, 2 * np.pi)
    arrival_s = _arrivals(traffic, count, duration_s, phase, rng)
    day = np.sin(2 * np.pi * traffic.periods * arrival_s / duration_s + phase)
    vision = rng.random(count) < traffic.vision_share + traffic.mix_swing * day
    pictured = vision | (rng.random(count) < traffic.chat_image_share)
    images = np.minimum(rng.geometric(1 - traffic.more_images_ratio, count), MAX_IMAGES) * pictured
    identities, image_tokens = _images(traffic, library, int(images.sum()), rng)
    prefix = rng.choice(SYSTEM_PROMPTS, count, p=library.prefix_share)
    prefix_tokens = library.prefix_tokens[prefix]
    text = np.where(vision, traffic.vision_text_tokens, traffic.chat_text_tokens)
    output = np.where(vision, traffic.vision_output_tokens, traffic.chat_output_tokens)
    return Asked(
        arrival_s * 1e3,
        _sizes(text, traffic.text_tokens_sd, 4, traffic.max_text_tokens, rng) + prefix_tokens,
        prefix,
        prefix_tokens,
        _sizes(output, traffic.output_tokens_sd, 1, traffic.max_output_tokens, rng),
        images.astype(np.int64),
        identities,
        image_tokens,
    )


def _arrivals(
    traffic: Traffic, count: int, duration_s: float, phase: float, rng: np.random.Generator
) -> Floats:
    at = np.arange(0, 2 * duration_s + 60, GRID_S)
    rate = 1 + traffic.swing * np.sin(2 * np.pi * traffic.periods * at / duration_s + phase)
    if traffic.burst_ratio > 1:
        begins = np.cumsum(
            rng.exponential(traffic.burst_every_s, 4 + int(3 * at[-1] / traffic.burst_every_s))
        )
        ends = begins + rng.exponential(traffic.burst_s, len(begins))
        bursting = np.searchsorted(begins, at) > np.searchsorted(np.sort(ends), at)
        rate = rate * np.where(bursting, traffic.burst_ratio, 1.0)
        rate /= 1 + (traffic.burst_ratio - 1) * traffic.burst_s / (traffic.burst_every_s + traffic.burst_s)
    expected = np.concatenate([[0.0], np.cumsum(rate * traffic.rate_per_s * GRID_S)])
    found = np.interp(np.cumsum(rng.exponential(1, count)), expected, np.append(at, at[-1] + GRID_S))
    return np.asarray(found, dtype=np.float64)


def _images(
    traffic: Traffic, library: Library, count: int, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    popularity = 1 / np.arange(1, CATALOGUE_IMAGES + 1) ** traffic.zipf
    known = rng.choice(CATALOGUE_IMAGES, count, p=popularity / popularity.sum())
    from_catalogue = rng.random(count) < traffic.catalogue_share
    place = np.where(from_catalogue, library.image_logs[known], rng.standard_normal(count))
    identities = np.where(from_catalogue, known, FRESH + np.arange(count))
    tokens = np.exp(np.log(traffic.image_tokens) + traffic.image_tokens_sd * place)
    return identities, np.clip(np.rint(tokens), 32, traffic.max_image_tokens).astype(np.int64)


def _sizes(median: Floats, sd: float, least: int, most: int, rng: np.random.Generator) -> Integers:
    sizes = median * np.exp(sd * rng.standard_normal(len(median)))
    return np.clip(np.rint(sizes), least, most).astype(np.int64)
