"""The CPU side before an engine: media are fetched, wait for a worker, are decoded and processed, or found in a cache."""

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from synthetic.asks import Ask
from synthetic.scenarios import EngineSetup


@dataclass(frozen=True)
class Preprocessed:
    """What preprocessing took, and when the engine got the request."""

    hand_over_ns: int
    cpu_ns: int
    fetch_ns: int
    decode_ns: int
    cache_hits: int
    pixels: int


def preprocess(setup: EngineSetup, asks: list[Ask]) -> dict[int, Preprocessed]:
    """Return by number what became of each request of an engine, first fetched first served."""
    free = [0] * setup.processor_workers
    cache: OrderedDict[int, None] = OrderedDict()
    done: dict[int, Preprocessed] = {}
    for ask in sorted(asks, key=lambda ask: (ask.arrival_ns + ask.fetch_ns, ask.number)):
        pixels, hits, missed = 0, 0, 0
        for segment in ask.items:
            item = segment.item
            assert item is not None
            pixels += item.pixels
            if item.key in cache:
                cache.move_to_end(item.key)
                hits += 1
                continue
            missed += item.pixels
            cache[item.key] = None
            if len(cache) > setup.processor_cache_items:
                cache.popitem(last=False)
        share = missed / pixels if pixels else 1.0
        decode_ns = int(ask.decode_ns * share)
        cpu_ns = decode_ns + int(ask.processor_ns * (0.1 + 0.9 * share))
        begin_ns = max(ask.arrival_ns + ask.fetch_ns, heapq.heappop(free))
        heapq.heappush(free, begin_ns + cpu_ns)
        done[ask.number] = Preprocessed(begin_ns + cpu_ns, cpu_ns, ask.fetch_ns, decode_ns, hits, pixels)
    return done
