"""An engine with continuous batching: decodes first, then chunks of prompts, the encoder before them in the same step.

The forms are vLLM's: a budget of tokens for each step, prompts in chunks, a request with media scheduled up to the first
item that the encoder's budget does not reach, preemption of the latest request by recomputation when the KV cache is full,
and caches of encoder outputs and of prefixes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from synthetic.asks import Ask, Item, causal_pairs
from synthetic.batch import BLOCK_TOKENS, Batch, TokenCache
from synthetic.kernels import PREFILL, Kernels, Load, StepTime
from synthetic.life import Chunk, Encode, Iteration, Life, Piece
from synthetic.placing import place_work
from synthetic.preprocess import Preprocessed
from synthetic.scenarios import EngineSetup

_NS = 1e9


@dataclass
class _Plan:
    """What the step being scheduled holds."""

    chunks: list[Chunk] = field(default_factory=list)
    encodes: list[Encode] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    budget: int = 0
    encoder_budget: int = 0
    context: int = 0
    sampled: int = 0
    preemptions: int = 0
    blocked: bool = False


class Engine:
    """One engine over a day."""

    def __init__(self, setup: EngineSetup, noise: float, rng: np.random.Generator) -> None:
        """Start with nothing to do."""
        self._setup, self._kernels = setup, Kernels(setup.model, setup.device, eager=setup.eager)
        self._noise, self._rng = noise, rng
        self._draws: list[float] = []
        self._batch = Batch()
        self._encoded = TokenCache(setup.encoder_cache_tokens)
        self._prefixes = TokenCache(setup.kv_capacity_tokens)
        self._shared_ns = 0
        """Running total of what each decoding request is given of the device's time."""
        self._gap_ns = int(setup.gap_s * _NS)
        self.iterations: list[Iteration] = []

    def run(self, asks: Iterable[Ask], before: dict[int, Preprocessed]) -> list[Life]:
        """Serve the requests, handed over when they are, until all are done; return them in order of number."""
        arriving = sorted(
            (Life(ask, before[ask.number]) for ask in asks),
            key=lambda life: (life.before.hand_over_ns, life.ask.number),
        )
        now, place = 0, 0
        while place < len(arriving) or self._batch.waiting or self._batch.running:
            while place < len(arriving) and arriving[place].before.hand_over_ns <= now:
                self._batch.waiting.append(arriving[place])
                place += 1
            plan = self._schedule(now)
            if plan is None:
                now = arriving[place].before.hand_over_ns
                continue
            now = self._execute(plan, now) + self._gap_ns
        return sorted(arriving, key=lambda life: life.ask.number)

    def _schedule(self, now: int) -> _Plan | None:
        """Choose what the next step computes; None when there is nothing to do."""
        batch, setup = self._batch, self._setup
        plan = _Plan(encoder_budget=setup.encoder_budget_tokens)
        while batch.kv_total + len(batch.decoding) > setup.kv_capacity_tokens:
            self._preempt(plan, now)
        plan.budget = setup.chunk_tokens - len(batch.decoding)
        while True:
            for number, life in list(batch.running.items()):
                if number not in batch.decoding:
                    self._chunk(plan, life, now)
            if plan.chunks or batch.decoding or not batch.running:
                break
            self._preempt(plan, now)  # parts of prompts fill the cache: nobody can go on
        if not plan.preemptions:
            self._admit(plan, now)
        plan.blocked |= bool(plan.preemptions)
        return plan if plan.chunks or batch.decoding else None

    def _admit(self, plan: _Plan, now: int) -> None:
        batch = self._batch
        while batch.waiting and plan.budget > 0:
            if len(batch.running) >= self._setup.most_sequences:
                plan.blocked = True
                break
            life = batch.waiting[0]
            reserve = int(self._setup.kv_capacity_tokens * self._setup.kv_reserve_ratio)
            if batch.running and self._room() < life.target + reserve:
                plan.blocked = True
                break
            batch.running[life.ask.number] = life
            if life.computed == 0 and not life.generated and not life.preemptions:
                self._find_prefix(life)
            if not self._chunk(plan, life, now):
                batch.free(life)
                if life.cached and life.ask.follows is not None:
                    self._prefixes.put(life.ask.follows, life.cached)
                life.computed = life.cached = 0
                break
            batch.waiting.popleft()

    def _room(self) -> int:
        """Return the tokens that the KV cache can still take, beside those that the step decodes."""
        return self._setup.kv_capacity_tokens - self._batch.kv_total - len(self._batch.decoding)

    def _find_prefix(self, life: Life) -> None:
        """Take over the blocks of the conversation so far, as far as they are still there and there is room."""
        self._prefixes.shrink(self._room())
        if not self._setup.prefix_cache or life.ask.follows is None:
            return
        known = min(self._prefixes.take(life.ask.follows), life.ask.prompt - 1)
        life.cached = known // BLOCK_TOKENS * BLOCK_TOKENS
        self._batch.hold(life, 0, life.cached)

    def _chunk(self, plan: _Plan, life: Life, now: int) -> bool:
        """Schedule as much of a prompt as fits; False when nothing does."""
        batch, room = self._batch, self._room()
        begin = life.computed
        end = min(begin + plan.budget, life.target)
        if end - begin > room:
            end, plan.blocked = begin + max(0, room), True
        if end <= begin:
            return False
        end, wanted, hits = self._media(plan, life, begin, end)
        if end <= begin:
            return False
        if wanted or hits:
            plan.frames += [frame for item in wanted for frame in item.frames]
            patches, pairs = sum(item.patches for item in wanted), sum(item.pairs for item in wanted)
            plan.encodes.append(Encode(life, len(wanted), patches, pairs, hits))
        self._resume(life, now)
        held = batch.hold(life, begin, end)
        pairs, visual = causal_pairs(begin, end), life.ask.visual_pairs(begin, end)
        plan.chunks.append(Chunk(life, begin, end, held, pairs, visual))
        plan.budget -= end - begin
        plan.context += begin
        plan.sampled += end == life.target
        return True

    def _media(self, plan: _Plan, life: Life, begin: int, end: int) -> tuple[int, list[Item], int]:
        """Return how far the chunk can reach, what has to be encoded for it, and how many items are cached."""
        wanted: list[Item] = []
        hits = 0
        items = life.ask.items
        place = life.next_item
        while place < len(items) and items[place].start < end:
            segment = items[place]
            item = segment.item
            assert item is not None
            if segment.end <= begin:
                pass  # its keys and values are in the prefix cache
            elif self._encoded.touch(item.key):
                hits += 1
            elif item.tokens <= plan.encoder_budget or (not plan.frames and not wanted):
                plan.encoder_budget -= item.tokens
                self._encoded.put(item.key, item.tokens)
                wanted.append(item)
            else:
                end = max(begin, segment.start)
                break
            place += 1
        life.next_item = place
        return end, wanted, hits

    def _resume(self, life: Life, now: int) -> None:
        """End a wait; one between two steps of a request counts as queue where it was passed over."""
        index = len(self.iterations)
        if life.queued_ns is not None:
            life.pieces.append(Piece("queue", life.queued_ns, now))
        elif life.last_index >= 0 and index > life.last_index + 1:
            life.pieces.append(Piece("queue", life.last_end_ns, now))
        life.queued_ns = None

    def _preempt(self, plan: _Plan, now: int) -> None:
        """Take the cache of the latest request; it starts over, ahead of all that wait."""
        batch = self._batch
        life = batch.running[next(reversed(batch.running))]
        if life.ask.number in batch.decoding:
            self._settle(life, self.iterations[-1].end_ns, preempted=1)
        else:
            life.preempted += 1
        batch.free(life)
        plan.chunks = [chunk for chunk in plan.chunks if chunk.life is not life]
        life.computed = life.next_item = 0
        life.target = life.ask.prompt + life.generated
        life.preemptions += 1
        life.queued_ns = now
        batch.waiting.appendleft(life)
        plan.preemptions += 1

    def _settle(self, life: Life, end_ns: int, preempted: int = 0) -> None:
        """End a stretch of decoding."""
        batch = self._batch
        if life.ask.number in batch.decoding:
            batch.leave(life)
        steps = batch.decode_steps - life.joined
        if steps:
            piece = Piece(
                "decode", life.decode_mark, end_ns, self._shared_ns - life.gpu_mark + life.gpu_extra
            )
            piece.sole = False
            piece.counts = {"steps": steps, "preemptions": preempted + life.preempted}
            life.preempted = 0
            life.pieces.append(piece)
        else:
            life.preempted += preempted
        life.gpu_extra = 0

    def _execute(self, plan: _Plan, start_ns: int) -> int:
        """Run a step; return when it ended."""
        batch = self._batch
        decoding, context, visual = len(batch.decoding), batch.context, batch.visual
        load = Load(
            tuple(plan.frames),
            sum(chunk.end - chunk.begin for chunk in plan.chunks),
            sum(chunk.pairs for chunk in plan.chunks),
            plan.context,
            decoding,
            context,
            decoding + plan.sampled,
        )
        time, noise = self._kernels.step(load), self._draw()
        encode_ns = int(time.encode_s * noise * _NS)
        language_ns = int(time.language_s * noise * _NS)
        prefill_ns = _share(language_ns, time)
        gpu_ns = encode_ns + language_ns
        end_ns = start_ns + gpu_ns + int(self._setup.host_s * _NS)
        if decoding:
            batch.decode()
        joined, left = batch.changes()
        iteration = Iteration(
            len(self.iterations), start_ns, end_ns, gpu_ns, encode_ns, prefill_ns,
            encode_ns + self._visual_language_ns(plan, load, noise, language_ns),
            plan.chunks, plan.encodes, decoding, context, visual, joined, left,
            (batch.kv[0], batch.kv[1], batch.kv[2], batch.kv[3]), batch.blocks,
            len(batch.running), len(batch.waiting), plan.preemptions, plan.blocked, time,
        )  # fmt: skip
        self.iterations.append(iteration)
        place_work(iteration)
        if decoding:
            self._share_decode(iteration)
        for life in batch.ended():
            self._finish(life, end_ns)
        for chunk in plan.chunks:
            self._completed(chunk, end_ns)
        return end_ns

    def _visual_language_ns(self, plan: _Plan, load: Load, noise: float, language_ns: int) -> int:
        """Return what the language model's part would take less without the visual positions of prompts."""
        visual = sum(chunk.held[1] + chunk.held[2] for chunk in plan.chunks)
        if not visual:
            return 0
        without = load._replace(
            frames=(),
            prefill_tokens=load.prefill_tokens - visual,
            prefill_pairs=load.prefill_pairs - sum(chunk.visual_pairs for chunk in plan.chunks),
        )
        return language_ns - int(self._kernels.step(without).language_s * noise * _NS)

    def _share_decode(self, iteration: Iteration) -> None:
        """Give all that decode the same part of the device's time; what is left over goes to the newest."""
        each, rest = divmod(iteration.decode_ns, iteration.decode_requests)
        self._shared_ns += each
        newest = next(reversed(self._batch.decoding))
        self._batch.decoding[newest].gpu_extra += rest

    def _completed(self, chunk: Chunk, end_ns: int) -> None:
        """Sample a token where a prompt is complete: the request decodes from here, or is done."""
        life = chunk.life
        if chunk.end < life.target:
            return
        life.generated += 1
        if life.first_token_ns is None:
            life.first_token_ns = end_ns
        if life.generated >= life.ask.output:
            self._finish(life, end_ns)
            return
        self._batch.join(life)
        life.decode_mark, life.gpu_mark = end_ns, self._shared_ns

    def _finish(self, life: Life, end_ns: int) -> None:
        if life.generated > 1 and life.joined != self._batch.decode_steps:
            self._settle(life, end_ns)
        life.end_ns = end_ns
        self._batch.free(life)
        self._prefixes.put(life.ask.number, life.computed)

    def _draw(self) -> float:
        if not self._draws:
            self._draws = np.exp(self._rng.normal(0.0, self._noise, 4096)).tolist()
        return self._draws.pop()


def _share(language_ns: int, time: StepTime) -> int:
    """Return the prefill's part of the language model's time, by the kernels."""
    if time.language_s <= 0:
        return 0
    return int(language_ns * time.parts[PREFILL].seconds / time.language_s)
