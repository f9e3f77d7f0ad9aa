"""What an engine keeps of its requests and of its iterations: the records that spans and truth are made from."""

from dataclasses import dataclass, field
from typing import NamedTuple

from synthetic.asks import Ask
from synthetic.kernels import StepTime
from synthetic.preprocess import Preprocessed


@dataclass(slots=True)
class Piece:
    """A stretch of one phase of one request."""

    phase: str
    start_ns: int
    end_ns: int
    gpu_ns: int = 0
    sole: bool = True
    """Whether its steps held nobody else: then its device time is measured, not attributed."""
    counts: dict[str, int] = field(default_factory=dict)
    ratios: tuple[float, float, float] | None = None
    """Means of the device's counters over its part of its steps (`counters.note`): DRAM, tensor cores, SMs."""


class Life:
    """One request in its engine, from hand-over to end."""

    __slots__ = (
        "ask",
        "before",
        "cached",
        "computed",
        "decode_mark",
        "end_ns",
        "epoch",
        "first_token_ns",
        "generated",
        "gpu_extra",
        "gpu_mark",
        "joined",
        "last_end_ns",
        "last_index",
        "next_item",
        "pieces",
        "preempted",
        "preemptions",
        "queued_ns",
        "target",
    )  # fmt: skip

    def __init__(self, ask: Ask, before: Preprocessed) -> None:
        """Hand a request over."""
        self.ask, self.before = ask, before
        self.cached = self.computed = self.generated = self.next_item = self.preemptions = self.epoch = 0
        self.preempted = 0
        """Times since its last stretch of decoding: that count stands on the next one."""
        self.target = ask.prompt
        """Tokens to compute before the next one can be sampled."""
        self.joined = self.gpu_mark = self.gpu_extra = self.decode_mark = 0
        self.queued_ns: int | None = before.hand_over_ns
        """Since when it waits; None while it is served."""
        self.first_token_ns: int | None = None
        self.end_ns: int | None = None
        self.last_end_ns, self.last_index = 0, -1
        self.pieces: list[Piece] = []


class Chunk(NamedTuple):
    """A part of a prompt that an iteration computes."""

    life: Life
    begin: int
    end: int
    held: list[int]
    """Its tokens by modality."""
    pairs: int
    visual_pairs: int


class Encode(NamedTuple):
    """What the encoder does for a request in an iteration."""

    life: Life
    items: int
    patches: int
    pairs: int
    hits: int


@dataclass(slots=True)
class Iteration:
    """One engine step: what it held, what it took, and the levels after scheduling."""

    index: int
    start_ns: int
    end_ns: int
    gpu_ns: int
    encode_ns: int
    prefill_ns: int
    """Of the device's time, the prefill's part by the kernels."""
    visual_ns: int
    """What the step would take less without its visual work: encoding, and visual positions of prompts."""
    chunks: list[Chunk]
    encodes: list[Encode]
    decode_requests: int
    decode_context: int
    decode_visual: int
    joined: list[int]
    """Numbers of requests that decode here and did not in the iteration before; ``left``: the other way."""
    left: list[int]
    kv: tuple[int, int, int, int]
    """Tokens held by modality: text, image, video, output."""
    kv_blocks: int
    running: int
    waiting: int
    preemptions: int
    blocked: bool
    """Requests waited because the KV cache or the sequences were full."""
    time: StepTime

    @property
    def decode_ns(self) -> int:
        """Return the decode's part of the device's time."""
        return self.gpu_ns - self.encode_ns - self.prefill_ns

    @property
    def mixed(self) -> bool:
        """Tell whether it holds prefill or encode work: then it is a step span of its own."""
        return bool(self.chunks or self.encodes)
