"""One request, or a batch of like ones, through encode, prefill and one decode step: the cost model without a trace."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.parts import StepCosts
from vtprof_analyzer.cost.steps import ONE_DEVICE, step_costs
from vtprof_analyzer.cost.towers import TowerWork, work_of_items
from vtprof_analyzer.cost.work import Precision, StepWork
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid


@dataclass(frozen=True)
class Workload:
    """A request: text, media, and what is cached when it decodes. ``batch`` of them run together in every phase."""

    text_tokens: int
    """Of the prompt, without the tags around media: these come with the items."""
    visual_items: tuple[ItemTokens, ...] = ()
    audio_items: tuple[ItemTokens, ...] = ()
    context_tokens: int | None = None
    """Tokens cached before the decode step; None: the prompt."""
    cached_tokens: int = 0
    """Tokens of the prompt that a prefix cache already holds (C11)."""
    batch: int = 1

    @property
    def tag_tokens(self) -> int:
        """Return the text tokens around the media, that nobody types."""
        return sum(item.extra_tokens for item in (*self.visual_items, *self.audio_items))

    @property
    def visual_tokens(self) -> int:
        """Return the positions of image and video."""
        return sum(item.tokens for item in self.visual_items)

    @property
    def audio_tokens(self) -> int:
        """Return the positions of audio."""
        return sum(item.tokens for item in self.audio_items)


def square_item(spec: ModelSpec, tokens: int) -> ItemTokens:
    """Return an image of ``tokens`` visual tokens whose size is not known: one sequence, as square as its patches allow."""
    if spec.vision is None or tokens < 1:
        return ItemTokens(tokens)
    patches = max(1, round(tokens * spec.vision.patches_per_token))
    height = max(side for side in range(1, int(patches**0.5) + 1) if patches % side == 0)
    return ItemTokens(tokens, 0, (PatchGrid(1, height, patches // height),))


def has_cross_attention(spec: ModelSpec) -> bool:
    """Tell whether visual positions stand beside the sequence, in cross-attention, and not in it."""
    return any(group.attention.cross for group in spec.language.groups)


def sequence_tokens(spec: ModelSpec, workload: Workload) -> int:
    """Return the positions of the prompt: text, tags and media, or without the media where they stand beside it."""
    beside = has_cross_attention(spec)
    text = workload.text_tokens + workload.tag_tokens
    return text + (0 if beside else workload.visual_tokens + workload.audio_tokens)


def estimate(
    spec: ModelSpec,
    precision: Precision,
    workload: Workload,
    *,
    parallel: Parallel = ONE_DEVICE,
    full_attention: bool = False,
) -> StepCosts:
    """Return the cost of encode, prefill (output head on the last position) and one decode step, arrays of one entry.

    Prefill runs text, visual and audio tokens together; with cross-attention only the text, which looks at the visual
    positions. Decode reads ``context_tokens`` of each request. A cached prefix holds the media first.
    """
    visual, batch = workload.visual_tokens, workload.batch
    cross = has_cross_attention(spec)
    beside = visual + workload.audio_tokens if cross else 0
    prompt = sequence_tokens(spec, workload)
    cached = min(workload.cached_tokens, max(0, prompt - 1))
    new = prompt - cached
    context = prompt if workload.context_tokens is None else workload.context_tokens
    # Image tokens come first in a prompt, so that a cached prefix holds them before any text.
    new_visual = 0 if cross else max(0, visual - cached)
    seen = 0 if cross else min(visual, context)
    both_ways = (
        sum(item.tokens * (item.tokens - 1) // 2 for item in workload.visual_items)
        if spec.language.prefix_bidirectional == "visual" and new_visual
        else 0
    )
    prompts = StepWork.of(
        prefill_requests=batch if new else 0,
        prefill_tokens=batch * new,
        prefill_visual_tokens=batch * new_visual,
        prefill_attention_pairs=batch * (new * cached + new * (new + 1) // 2),
        prefill_visual_attention_pairs=batch * (new_visual * cached + new_visual * (new_visual + 1) // 2),
        prefill_extra_pairs=batch * both_ways,
        prefill_cross_tokens=batch * beside,
        prefill_cross_pairs=batch * beside * new,
    )
    decodes = StepWork.of(
        decode_requests=batch,
        decode_context_tokens=batch * context,
        decode_visual_tokens=batch * seen,
        decode_cross_tokens=batch * beside,
    )
    # Steps of their own: in one step they would share the weights that it reads.
    first = step_costs(
        spec,
        prompts,
        precision,
        full_attention=full_attention,
        parallel=parallel,
        vision=_encoded(_uncached(workload.visual_items, cached), batch),
        audio=_encoded(workload.audio_items, batch),
    )
    then = step_costs(spec, decodes, precision, parallel=parallel)
    return StepCosts(first.encode, first.prefill, then.decode)


def _uncached(items: Sequence[ItemTokens], cached: int) -> list[ItemTokens]:
    """Return the items of which a cached prefix does not hold all: the others' encoder run is not needed (C11)."""
    left, end = [], 0
    for item in items:
        end += item.tokens
        if end > cached:
            left.append(item)
    return left


def _encoded(items: Sequence[ItemTokens], batch: int) -> TowerWork:
    return work_of_items(items, float(batch)) if items else _NOTHING


_ZERO = np.zeros(1)
_NOTHING = TowerWork(_ZERO, _ZERO, _ZERO, _ZERO, ())
