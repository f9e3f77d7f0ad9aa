"""The engine's loop: steps with encoder batches, prefill chunks and decode together. The clock is in ms.

A step takes, one after the other, an encoder batch (requests whose images the cache lacks), a forward pass over prefill
chunks and one token of each sequence that decodes, and the host's time.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from regress_days.engine import Engine
from regress_days.traffic import FRESH, Asked

ROOFLINE_POWER = 4.0
"""Of the smooth corner between reading weights and computing."""
LONGEST_STRETCH_MS = 500.0
"""Steps that only decode are summed for so long at most: then the pace of clock and host is looked up again."""
KV_BLOCK = 16
WARM_LOOKUPS = 2_000
"""Images that the encoder's cache saw before the run."""


@dataclass(frozen=True)
class Change:
    """From an arrival on another engine serves."""

    first: int
    """Index of the first request that arrives at it."""
    engine: Engine


@dataclass
class Pace:
    """The noise of one run."""

    factors: dict[str, float]
    host: list[float]
    clock: list[float]
    step: list[float]
    """Factors of steps, used in turn."""
    stalls: list[float]
    """What hiccups of the host add to steps, relative, used in turn."""


@dataclass(frozen=True)
class Work:
    """Each request's own costs on an idle engine, noise included."""

    encode_ms: list[list[float]]
    """Per image."""
    prefill: list[float]
    """Factor on the prefill's costs."""
    images: list[list[tuple[int, int]]]
    """Identity and visual tokens."""
    prompt: list[int]


@dataclass
class Out:
    """What the loop fills in."""

    begin: list[float]
    encode: list[float]
    first: list[float]
    finish: list[float]
    hits: list[int]
    cached: list[int]


def run(
    engine: Engine,
    asked: Asked,
    work: Work,
    ready: list[float],
    pace: Pace,
    rng: np.random.Generator,
    change: Change | None,
) -> Out:
    """Run the engine's loop until the last request is served."""
    count = len(ready)
    order = sorted(range(count), key=ready.__getitem__)
    out = Out([0.0] * count, [0.0] * count, [0.0] * count, [0.0] * count, [0] * count, [0] * count)
    outputs, prefix, prefix_tokens = (
        column.tolist() for column in (asked.output_tokens, asked.prefix, asked.prefix_tokens)
    )
    encoder_cache = Cache(engine.encoder_cache_images)
    if len(asked.image_ids):
        for identity in rng.choice(asked.image_ids, WARM_LOOKUPS).tolist():
            # What is seen once goes by another name: nobody asks for that one again.
            encoder_cache.lookup(identity if identity < FRESH else -identity)
    prefix_cache = Cache(engine.prefix_cache_prompts)
    for each in prefix[::-1]:
        prefix_cache.lookup(each)
    faults = rng.random(4_096).tolist()

    factors, host, clock, step_noise, stalls = pace.factors, pace.host, pace.clock, pace.step, pace.stalls
    encode_factor, prefill_factor, decode_factor = (factors[name] for name in ("encode", "prefill", "decode"))
    last_second, noises, stall_count = len(host) - 1, len(step_noise), len(stalls)
    changes_ms = float(asked.arrival_ms[change.first]) if change else float("inf")
    limits = engine

    now, head, served, steps, turn = 0.0, 0, 0, 0, 0
    decoding: list[tuple[int, int]] = []
    """Step after which a sequence ends, and whose it is."""
    context = 0
    """Tokens that the next decode reads."""
    reserved, prefilling = 0, deque[list[int]]()
    """Request, tokens to prefill, tokens that are in the cache."""
    while served < count:
        if now >= changes_ms and change:
            limits, changes_ms = change.engine, float("inf")
            encoder_cache.capacity = limits.encoder_cache_images
            prefix_cache.capacity = limits.prefix_cache_prompts
        sequences = len(decoding)
        second = min(int(now / 1e3), last_second)
        host_ms = (limits.step_host_ms + limits.step_host_ms_per_sequence * sequences) * host[second]
        read_ms = limits.decode_ms_per_sequence * sequences + limits.decode_ms_per_context_token * context
        chunks: list[tuple[list[int], int]] = []
        room = limits.budget_tokens - sequences
        for going in prefilling:
            if room <= 0:
                break
            taken = min(room, going[1])
            chunks.append((going, taken))
            room -= taken
        encode_ms, encoder_tokens = 0.0, 0
        encoding: list[int] = []
        launched = False
        while room > 0 and head < count and ready[order[head]] <= now:
            one = order[head]
            needed = work.prompt[one] + outputs[one]
            running = sequences + len(prefilling)
            if running and (running >= limits.max_sequences or reserved + needed > limits.kv_capacity_tokens):
                break
            images = work.images[one]
            if images:
                tokens = sum([each[1] for each in images])
                if encoding and encoder_tokens + tokens > limits.encode_budget_tokens:
                    break
                encoder_tokens += tokens
                encoding.append(one)
                for (identity, size), cost in zip(images, work.encode_ms[one], strict=True):
                    fault = faults[(turn := turn + 1) % 4_096] < limits.encoder_cache_fault_ratio
                    if encoder_cache.lookup(identity) and not fault:
                        out.hits[one] += 1
                        encode_ms += limits.encode_hit_ms + limits.encode_hit_ms_per_token * size
                    else:
                        launched = True
                        encode_ms += cost
            head += 1
            reserved += needed
            out.begin[one] = now
            cached = 0
            if prefix_cache.lookup(prefix[one]):
                cached = prefix_tokens[one] // KV_BLOCK * KV_BLOCK
            out.cached[one] = cached
            going = [one, work.prompt[one] - cached, cached]
            prefilling.append(going)
            taken = min(room, going[1])
            chunks.append((going, taken))
            room -= taken
        if not chunks:
            if not sequences:
                now = max(now, ready[order[head]])
                continue
            step_ms = (limits.decode_weights_ms + read_ms) * clock[
                second
            ] * decode_factor + host_ms * decode_factor
            span = decoding[0][0] - steps
            wait_ms = LONGEST_STRETCH_MS
            if head < count and ready[order[head]] > now:
                wait_ms = min(wait_ms, ready[order[head]] - now)
            span = max(1, min(span, int(wait_ms / step_ms) + 1))
            grown = limits.decode_ms_per_context_token * sequences * span * (span - 1) / 2
            now += span * step_ms + grown
            for _ in range(span // 16 + 1):
                turn += 1
                now += stalls[turn % stall_count] * step_ms * 4
        else:
            turn += 1
            spent_ms = 0.0
            if encoding:
                if launched:
                    encode_ms = max(limits.encode_weights_ms, limits.encode_ms + encode_ms)
                spent_ms = encode_ms * clock[second] * encode_factor * step_noise[turn % noises]
                for one in encoding:
                    out.encode[one] = spent_ms
            linear = attention = 0.0
            for (one, _, done), taken in chunks:
                own = work.prefill[one]
                linear += own * taken
                attention += own * taken * (done + taken / 2)
            forward_ms = (
                limits.prefill_weights_ms**ROOFLINE_POWER
                + (limits.prefill_ms_per_token * linear) ** ROOFLINE_POWER
            ) ** (1 / ROOFLINE_POWER) + limits.prefill_ms_per_token_context * attention
            spent_ms += forward_ms * clock[second] * prefill_factor * step_noise[(turn * 7) % noises]
            now += spent_ms + read_ms * clock[second] * decode_factor + host_ms
            now += stalls[turn % stall_count] * forward_ms
            span = 1
        steps += span
        context += sequences * span
        for going, taken in chunks:
            one = going[0]
            going[1] -= taken
            going[2] += taken
            if going[1] <= 0:
                prefilling.remove(going)
                out.first[one] = now
                heappush(decoding, (steps + outputs[one] - 1, one))
                context += work.prompt[one] + 1
        while decoding and decoding[0][0] <= steps:
            _, one = heappop(decoding)
            out.finish[one] = now
            context -= work.prompt[one] + outputs[one]
            reserved -= work.prompt[one] + outputs[one]
            served += 1
    return out


class Cache:
    """Least recently used goes first."""

    def __init__(self, capacity: int) -> None:
        """Begin empty."""
        self.capacity = capacity
        self._entries: OrderedDict[int, None] = OrderedDict()

    def lookup(self, identity: int) -> bool:
        """Tell whether it is there; afterwards it is."""
        entries = self._entries
        if identity in entries:
            entries.move_to_end(identity)
            return True
        entries[identity] = None
        while len(entries) > self.capacity:
            entries.popitem(last=False)
        return False
