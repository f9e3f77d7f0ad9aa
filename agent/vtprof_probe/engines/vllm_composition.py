"""What a step of vLLM's scheduler holds, and what is remembered of each sequence that it knows."""

from typing import List, NamedTuple, Optional, Sequence

from vtprof_probe.engines.vllm_positions import Positions
from vtprof_probe.engines.vllm_shared import number

UNSEEN = 0
"""``Member.waiting_since`` of one that was scheduled before it was seen to wait."""


class Member:
    """One sequence that the scheduler knows of."""

    __slots__ = (
        "admitted",
        "computed",
        "last_step",
        "number",
        "positions",
        "prompt",
        "target",
        "waiting_since",
    )

    def __init__(self, key: str) -> None:
        """Begin with a sequence that was never scheduled; ``key`` is the engine's request id."""
        self.number = number(key)
        self.positions: Optional[Positions] = None
        self.prompt = 0
        """Prompt tokens, as media positions were read for them."""
        self.target = 0
        """Tokens that make up its prefill: the prompt; after a preemption what was generated, too."""
        self.computed = 0
        """Tokens in the KV cache; while it decodes in every step, less the count of steps: see ``Batch``."""
        self.last_step = 0
        """The last step that held it; 0: none did."""
        self.admitted = False
        """Whether it was scheduled before."""
        self.waiting_since: Optional[int] = None
        """Monotonic ns; set and read in the order in which steps end."""


class Chunk(NamedTuple):
    """A part of a prompt that a step computes: the fields of a PREFILL record behind the step's number."""

    request: int
    tokens: int
    visual_tokens: int
    context_tokens: int
    cached_tokens: int
    attention_pairs: int
    visual_attention_pairs: int
    last: int


class Composition:
    """What one step holds."""

    __slots__ = (
        "chunks",
        "decode_context",
        "decode_requests",
        "decode_tokens",
        "decode_visual",
        "hits",
        "kv_tokens",
        "kv_visual",
        "preempted",
        "queued",
        "waits",
    )

    def __init__(self) -> None:
        """Begin empty."""
        self.chunks: List[Chunk] = []
        self.hits: List[Sequence[int]] = []
        """(request, items that came from the encoder cache)."""
        self.decode_requests = self.decode_context = self.decode_visual = 0
        self.decode_tokens = 0
        """Scheduled for those that decode: one each, and the drafts that are verified."""
        self.kv_tokens = self.kv_visual = 0
        self.queued: List[Member] = []
        """Those whose waiting ends with this step."""
        self.waits: List[Member] = []
        """Those that wait from this step on: it does not hold them."""
        self.preempted: List[int] = []
