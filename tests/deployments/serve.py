"""Serve requests: continuous batching in which runs of like iterations are one stretch, however many there are."""

from dataclasses import dataclass, field

from synthetic.asks import causal_pairs
from synthetic.kernels import DECODE, PREFILL, Kernels, Load

from deployments.deployment import Deployment
from deployments.workload import Asked

_NS = 1e9
_MS = 1e6
_BLOCK_TOKENS = 16
_WINDOW_NS = 1_000_000_000


@dataclass
class Stretch:
    """What a request did for a while: one phase span."""

    phase: str
    start_ns: int
    end_ns: int
    gpu_ns: int | None = None
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class Served:
    """One request in its engine."""

    asked: Asked
    cached: int
    since_ns: int
    """Since when it waits."""
    target: int
    """Tokens to compute before the next one can be sampled."""
    computed: int = 0
    generated: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    first_token_ns: int | None = None
    end_ns: int = 0
    preempted: bool = False
    encoded: bool = False


@dataclass
class Step:
    """One iteration, or a window of iterations that only decode."""

    start_ns: int
    end_ns: int
    gpu_ns: int
    iterations: int
    requests: list[int]
    running: int
    waiting: int
    kv_tokens: int
    kv_visual_tokens: int
    decode_requests: int = 0
    """Summed over the iterations, as the next three are."""
    decode_context: int = 0
    decode_visual: int = 0
    decode_tokens: int = 0
    prefill_requests: int = 0
    prefill_tokens: int = 0
    prefill_visual: int = 0
    prefill_pairs: int = 0
    prefill_visual_pairs: int = 0
    encode_items: int = 0
    encode_patches: int = 0
    encode_pairs: int = 0
    encode_ns: int = 0
    encode_gpu_ns: int = 0
    preemptions: int = 0


class Server:
    """One engine process."""

    def __init__(self, deployment: Deployment) -> None:
        """Start with nothing to do."""
        self._setup = deployment.engine
        self._kernels = Kernels(deployment.model, deployment.device)
        self._speed = deployment.engine.tp * (
            deployment.engine.tp_efficiency if deployment.engine.tp > 1 else 1
        )
        self._waiting: list[Served] = []
        self._running: list[Served] = []
        self.steps: list[Step] = []

    def run(self, asked: list[Asked]) -> list[Served]:
        """Serve all requests; return them in order of number."""
        arriving = [self._handed_over(one) for one in asked if not one.rejected]
        arriving.sort(key=lambda one: (one.since_ns, one.asked.number))
        done, now, place = list(arriving), 0, 0
        while place < len(arriving) or self._waiting or self._running:
            while place < len(arriving) and arriving[place].since_ns <= now:
                self._waiting.append(arriving[place])
                place += 1
            coming_ns = arriving[place].since_ns if place < len(arriving) else None
            held = [self._ready_ns(one) for one in self._waiting if self._ready_ns(one) > now]
            chunks = self._schedule(now)
            decoding = [one for one in self._running if one.computed >= one.target]
            if chunks:
                now = self._mixed(now, chunks, decoding)
            elif decoding:
                now = self._window(
                    now, decoding, min([at for at in (coming_ns, *held) if at is not None], default=None)
                )
            else:
                now = min(at for at in (coming_ns, *held) if at is not None)
        return sorted(done, key=lambda one: one.asked.number)

    def _handed_over(self, one: Asked) -> Served:
        cached = (
            int(one.text * self._setup.prefix_share) // _BLOCK_TOKENS * _BLOCK_TOKENS if not one.media else 0
        )
        return Served(one, cached, one.hand_over_ns, one.prompt)

    def _ready_ns(self, one: Served) -> int:
        held = one.asked.number % self._setup.hold_every == 0
        return one.since_ns + int(self._setup.hold_ms * _MS) if held and not one.preempted else one.since_ns

    def _schedule(self, now: int) -> list[tuple[Served, int, int]]:
        """Return the parts of prompts that the next step computes."""
        budget = self._setup.chunk_tokens - sum(one.computed >= one.target for one in self._running)
        chunks = []
        for one in self._running:
            if one.computed < one.target and budget > 0:
                end = min(one.target, one.computed + budget)
                chunks.append((one, one.computed, end))
                budget -= end - one.computed
        for one in list(self._waiting):
            room = self._setup.kv_capacity_tokens - sum(
                max(other.target, other.computed) for other in self._running
            )
            if budget <= 0 or len(self._running) >= self._setup.most_sequences or one.target > room:
                break
            if self._ready_ns(one) > now:
                continue
            self._waiting.remove(one)
            self._running.append(one)
            one.stretches.append(Stretch("queue", one.since_ns, now))
            one.computed = 0 if one.preempted else one.cached
            end = min(one.target, one.computed + budget)
            chunks.append((one, one.computed, end))
            budget -= end - one.computed
        return chunks

    def _mixed(self, now: int, chunks: list[tuple[Served, int, int]], decoding: list[Served]) -> int:
        """Run one step with prompt work; return its end."""
        setup = self._setup
        new = [one for one, _, _ in chunks if one.asked.media and not one.encoded]
        wanted = [item for one in new for item in one.asked.media if not (item.known and setup.encoder_hits)]
        tokens = sum(end - begin for _, begin, end in chunks)
        load = Load(
            tuple(count for item in wanted for count in item.frames), tokens,
            sum(causal_pairs(begin, end) for _, begin, end in chunks), sum(begin for _, begin, _ in chunks),
            len(decoding), sum(one.computed for one in decoding), len(chunks) + len(decoding),
        )  # fmt: skip
        time = self._kernels.step(load)
        encode_gpu_ns = int(time.encode_s * setup.encode_ratio / self._speed * _NS)
        encode_ns = int(encode_gpu_ns / (1 - setup.encode_host_ratio))
        prefill_s, decode_s = time.parts[PREFILL].seconds, time.parts[DECODE].seconds
        language_ns = int(
            (prefill_s * setup.prefill_ratio + decode_s * setup.decode_ratio) / self._speed * _NS
        )
        cold_ms = setup.cold_ms if now < 60 * _NS else 0.0
        end_ns = now + encode_ns + language_ns + int((setup.host_ms + cold_ms) * _MS)
        step = self._step(
            now, end_ns, encode_gpu_ns + language_ns, 1, [*(one for one, _, _ in chunks), *decoding]
        )
        step.encode_ns, step.encode_gpu_ns = encode_ns, encode_gpu_ns
        step.encode_items, step.encode_patches = len(wanted), sum(sum(item.frames) for item in wanted)
        step.encode_pairs = sum(count * count for item in wanted for count in item.frames)
        self._add_decode(step, decoding, 1)
        prefill_ns = int(language_ns * prefill_s / (prefill_s + decode_s)) if prefill_s else 0
        for one, begin, end in chunks:
            self._chunk(step, one, begin, end, prefill_ns * (end - begin) // tokens)
        for one in decoding:
            self._token(one, end_ns, 1, language_ns - prefill_ns)
        for one, _, _ in chunks:
            if one.computed >= one.target:
                one.generated += 1
                if one.first_token_ns is None:
                    one.first_token_ns = end_ns + int(setup.late_ms * _MS)
        self._end(end_ns)
        return end_ns

    def _chunk(self, step: Step, one: Served, begin: int, end: int, gpu_ns: int) -> None:
        setup, media = self._setup, one.asked.media
        start_ns = step.start_ns
        if media and not one.encoded:
            wanted = [item for item in media if not (item.known and setup.encoder_hits)]
            patches = sum(sum(item.frames) for item in wanted)
            start_ns += step.encode_ns if wanted else 0
            share = step.encode_gpu_ns * patches // step.encode_patches if wanted else None
            counts = {"items": len(wanted), "patches": patches, "hits": len(media) - len(wanted)}
            one.stretches.append(Stretch("encode", step.start_ns, start_ns, share, counts))
            one.encoded = True
        visual = _visual_part(one.asked, begin, end)
        last = one.stretches[-1]
        if last.phase != "prefill" or last.end_ns != start_ns:
            last = Stretch(
                "prefill", start_ns, start_ns, 0, {"chunks": 0, "tokens": 0, "visual": 0, "cached": begin}
            )
            one.stretches.append(last)
        last.end_ns, last.gpu_ns = step.end_ns, (last.gpu_ns or 0) + gpu_ns
        for key, more in (("chunks", 1), ("tokens", end - begin), ("visual", visual)):
            last.counts[key] += more
        one.computed = end
        step.prefill_requests += 1
        step.prefill_tokens += end - begin
        step.prefill_visual += visual
        step.prefill_pairs += causal_pairs(begin, end)
        step.prefill_visual_pairs += causal_pairs(begin, begin + visual)

    def _window(self, now: int, decoding: list[Served], until_ns: int | None) -> int:
        """Decode until somebody ends or comes, or for a second; return its end."""
        setup = self._setup
        left = min(self._until(one) for one in decoding)
        time = self._kernels.step(
            Load(
                decode_requests=len(decoding),
                decode_context=sum(one.computed for one in decoding),
                sampled=len(decoding),
            )
        )
        gpu_ns = int(time.language_s * setup.decode_ratio / self._speed * _NS)
        each_ns = gpu_ns + int(setup.host_ms * _MS)
        count = min(left, setup.window_steps, max(1, _WINDOW_NS // each_ns))
        if until_ns is not None:
            count = min(count, max(1, -(-(until_ns - now) // each_ns)))
        end_ns = now + count * each_ns
        self._add_decode(self._step(now, end_ns, count * gpu_ns, count, decoding), decoding, count)
        for one in decoding:
            self._token(one, end_ns, count, count * gpu_ns // len(decoding))
        self._end(end_ns)
        return end_ns + int(setup.gap_ms * _MS)

    def _until(self, one: Served) -> int:
        """Return the iterations until a request ends, or is preempted."""
        rest = one.asked.output - one.generated
        every = self._setup.preempt_every
        if every and one.asked.number % every == 0 and not one.preempted:
            rest = min(rest, max(1, one.asked.output // 3 - one.generated))
        return max(1, -int(-rest // self._setup.accepted))

    def _step(self, start_ns: int, end_ns: int, gpu_ns: int, count: int, requests: list[Served]) -> Step:
        held = [one.computed for one in self._running]
        visual = [_visual_part(one.asked, 0, one.computed) for one in self._running]
        step = Step(
            start_ns, end_ns, gpu_ns, count, [one.asked.number for one in requests],
            len(self._running), len(self._waiting), sum(held), sum(visual),
        )  # fmt: skip
        self.steps.append(step)
        return step

    def _add_decode(self, step: Step, decoding: list[Served], count: int) -> None:
        step.decode_requests = len(decoding) * count
        step.decode_tokens = step.decode_requests * (1 + self._setup.drafts)
        step.decode_context = (
            sum(one.computed for one in decoding) * count + len(decoding) * count * (count - 1) // 2
        )
        step.decode_visual = sum(one.asked.visual for one in decoding) * count

    def _token(self, one: Served, end_ns: int, count: int, gpu_ns: int) -> None:
        """Let a request decode for so many iterations."""
        last = one.stretches[-1]
        if last.phase != "decode":
            last = Stretch("decode", last.end_ns, end_ns, 0, {"steps": 0, "preemptions": 0})
            one.stretches.append(last)
        tokens = min(one.asked.output - one.generated, int(count * self._setup.accepted + 0.5))
        one.generated += max(0, tokens)
        one.computed += max(0, tokens)
        last.end_ns, last.gpu_ns = end_ns, (last.gpu_ns or 0) + gpu_ns
        last.counts["steps"] += count

    def _end(self, end_ns: int) -> None:
        """Let those go who are done, or lose their KV."""
        every = self._setup.preempt_every
        for one in list(self._running):
            if one.computed < one.target:
                continue
            if one.generated >= one.asked.output:
                one.end_ns = max(end_ns, one.first_token_ns)
                self._running.remove(one)
            elif (
                every
                and one.asked.number % every == 0
                and not one.preempted
                and one.generated >= one.asked.output // 3
            ):
                one.preempted, one.since_ns, one.computed, one.target = True, end_ns, 0, one.computed + 1
                one.stretches[-1].counts["preemptions"] = 1
                self.steps[-1].preemptions += 1
                self._running.remove(one)
                self._waiting.insert(0, one)


def _visual_part(asked: Asked, begin: int, end: int) -> int:
    """Return the visual positions between two: media stand at the beginning of the prompt."""
    return max(0, min(asked.visual, end) - begin)
