"""A continuous-batching scheduler for synthetic GPU days: chunked prefill mixed with decode, images, a prefix cache."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from attribution_kernels import StepLoad
from attribution_scenarios import Scenario

MOST_SEQUENCES = 256
IMAGE_COUNTS = (0.2, 0.5, 0.15, 0.1, 0.05)
"""Shares of prompts with none, one, … images."""


@dataclass
class Prompt:
    images: list[int]
    image_at: list[int]
    """Prompt position at which each image begins."""
    tokens: int
    output: int
    done: int = 0


class Engine:
    """Continuous batching with chunked prefill: decodes first, then prompts as far as the chunk's tokens go."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self.scenario, self._rng = scenario, rng
        self.waiting: deque[Prompt] = deque()
        self._left = np.zeros(MOST_SEQUENCES, np.int64)
        """Tokens still to generate, by place in the batch; 0: free."""
        self._context = np.zeros(MOST_SEQUENCES, np.int64)
        self._joining: list[tuple[int, int]] = []

    def prompt(self) -> Prompt:
        """Make a request: text, up to four images, an answer; perhaps a part of it is in the prefix cache."""
        rng = self._rng
        tokens = 12 + int(rng.lognormal(4.6, 1.0))
        images = [
            int(size) for size in rng.choice(self.scenario.image_patches, rng.choice(5, p=IMAGE_COUNTS))
        ]
        at = []
        for size in images:
            at.append(tokens // 2)
            tokens += size // 4
        prompt = Prompt(images, at, min(tokens, 30_000), max(1, int(rng.lognormal(5.2, 0.8))))
        if rng.random() < self.scenario.cached_ratio:
            prompt.done = min(int(prompt.tokens * rng.uniform(0.3, 0.95)) // 16 * 16, prompt.tokens - 1)
            kept = [place for place, begin in enumerate(at) if begin >= prompt.done]
            prompt.images, prompt.image_at = [images[place] for place in kept], [at[place] for place in kept]
        return prompt

    def compose(self) -> StepLoad | None:
        """Choose what the next step computes; None when there is nothing to do."""
        running = self._left > 0
        decode_requests, decode_context = int(running.sum()), int(self._context[running].sum())
        drafted = 1 + self.scenario.model.drafts
        room = self.scenario.chunk_tokens - decode_requests * drafted
        tokens = pairs = context = completed = 0
        images: list[int] = []
        self._joining = []
        while self.waiting and room > 0 and decode_requests + completed < MOST_SEQUENCES:
            prompt = self.waiting[0]
            chunk = min(room, prompt.tokens - prompt.done)
            while prompt.images and prompt.image_at[0] < prompt.done + chunk:
                images.append(prompt.images.pop(0))
                prompt.image_at.pop(0)
            tokens += chunk
            pairs += chunk * prompt.done + chunk * (chunk + 1) // 2
            context += prompt.done
            prompt.done += chunk
            room -= chunk
            if prompt.done < prompt.tokens:
                break
            completed += 1
            self._joining.append((prompt.tokens, prompt.output - 1))
            self.waiting.popleft()
        if not tokens and not decode_requests:
            return None
        return StepLoad(
            tuple(images),
            tokens,
            pairs,
            context,
            decode_requests,
            decode_context,
            decode_requests * drafted + completed,
        )

    def advance(self, load: StepLoad) -> None:
        """Generate the step's tokens; those with their last one leave, those with a whole prompt join."""
        running = self._left > 0
        gained = np.ones(MOST_SEQUENCES, np.int64)
        alive = np.ones(MOST_SEQUENCES, bool)
        for _ in range(self.scenario.model.drafts):
            alive &= self._rng.random(MOST_SEQUENCES) < self.scenario.accepted
            gained += alive
        gained = np.minimum(gained, self._left) * running
        self._left -= gained
        self._context += gained
        free = np.flatnonzero(self._left == 0)
        joining = [(context, left) for context, left in self._joining if left > 0]
        for place, (context, left) in zip(free, joining, strict=False):
            self._context[place], self._left[place] = context, left
