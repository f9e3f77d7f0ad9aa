"""Kernels of one engine step on a GPU: how long they take, and which resource held each part of the step.

Not the analyzer's cost model: GEMMs lose efficiency when small, tiles are padded, weights come again when they fall out of
the cache, and no kernel ends before the next can be launched. What bounds a part is told twice: by architecture, section 7,
from its true FLOPs, bytes and waits, and, knowing no ridge, by what held most of its kernels: each is held by exactly one of
arithmetic, memory and its launch. A kernel that prefill and decode share is split by tokens.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from synthetic.models import Device, Model

ENCODE, PREFILL, DECODE = range(3)
PARTS = ("encode", "prefill", "decode")
COMPUTE_BOUND, MEMORY_BOUND, OVERHEAD_BOUND, HYBRID = (
    "compute_bound",
    "memory_bound",
    "overhead_bound",
    "hybrid",
)
RIDGE_BAND = 0.20
"""Intensity within 1 ± this of the ridge is hybrid: architecture, section 7, and the analyzer's default band."""
_DOUBT = 0.06
"""So near an end of that band a step is not clear."""
_DOUBTFUL_OVERHEAD = (0.4, 0.72)
"""Shares of a step's time spent waiting for launches between which it is not clear whether these or the work dominate."""
_BYTES = 2
_MERGE = 4


class Load(NamedTuple):
    """What one step computes."""

    frames: tuple[int, ...] = ()
    """Patches of each image, and of each pair of frames of a video: what attends to itself."""
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    prefill_context: int = 0
    """Cached tokens that the chunks attend to besides their own."""
    decode_requests: int = 0
    decode_context: int = 0
    sampled: int = 0
    """Sequences that get a token."""


@dataclass(slots=True)
class Part:
    """One phase's part of a step [s]."""

    seconds: float = 0.0
    compute_s: float = 0.0
    """Of the kernels that arithmetic held, their padding and lost efficiency counted."""
    memory_s: float = 0.0
    """Of those that memory held."""
    launch_s: float = 0.0
    """Of those that ended before the next was launched, and of that:"""
    overhead_s: float = 0.0
    """In which the device waited for a launch."""
    flops: float = 0.0
    """Asked for: without what padding adds."""
    bytes: float = 0.0

    def add(self, other: "Part", share: float = 1.0) -> None:
        """Add a share of another part."""
        self.seconds += other.seconds * share
        self.compute_s += other.compute_s * share
        self.memory_s += other.memory_s * share
        self.launch_s += other.launch_s * share
        self.overhead_s += other.overhead_s * share
        self.flops += other.flops * share
        self.bytes += other.bytes * share

    def bound(self, ridge: float) -> str:
        """Return what bounds the part by architecture, section 7, on a device with this ridge [FLOP/B]; empty without work.

        More waiting than work is overhead; else the intensity tells, of what was asked for over what was moved.
        """
        if self.seconds <= 0:
            return ""
        return OVERHEAD_BOUND if self.overhead_s > 0.5 * self.seconds else self._by_intensity(ridge)

    def rival(self, ridge: float) -> str:
        """Return what comes so near the bound that nobody could tell them apart; empty where it is beyond doubt."""
        if self.seconds <= 0:
            return ""
        bound, by_intensity = self.bound(ridge), self._by_intensity(ridge)
        if _DOUBTFUL_OVERHEAD[0] < self.overhead_s / self.seconds < _DOUBTFUL_OVERHEAD[1]:
            return by_intensity if bound == OVERHEAD_BOUND else OVERHEAD_BOUND
        beyond = self.flops / self.bytes / ridge - 1
        if bound == OVERHEAD_BOUND or abs(abs(beyond) - RIDGE_BAND) >= _DOUBT:
            return ""
        if bound != HYBRID:
            return HYBRID
        return COMPUTE_BOUND if beyond > 0 else MEMORY_BOUND

    def held(self) -> str:
        """Return what held most of its kernels' time; empty without work."""
        times = {
            OVERHEAD_BOUND: self.launch_s,
            COMPUTE_BOUND: self.compute_s,
            MEMORY_BOUND: self.memory_s,
        }
        return max(times, key=times.__getitem__) if self.seconds > 0 else ""

    def _by_intensity(self, ridge: float) -> str:
        beyond = self.flops / self.bytes / ridge - 1
        if abs(beyond) <= RIDGE_BAND:
            return HYBRID
        return COMPUTE_BOUND if beyond > 0 else MEMORY_BOUND


@dataclass(slots=True)
class StepTime:
    """The parts of a step, by phase, before noise."""

    parts: tuple[Part, Part, Part] = field(default_factory=lambda: (Part(), Part(), Part()))

    @property
    def encode_s(self) -> float:
        """Return the encoder's time."""
        return self.parts[ENCODE].seconds

    @property
    def language_s(self) -> float:
        """Return the language model's time."""
        return self.parts[PREFILL].seconds + self.parts[DECODE].seconds

    def whole(self) -> Part:
        """Return the step as one part."""
        whole = Part()
        for part in self.parts:
            whole.add(part)
        return whole


class Kernels:
    """The kernels of one model on one device."""

    def __init__(self, model: Model, device: Device, *, eager: bool = False) -> None:
        """Prepare the sizes that do not change; ``eager``: decoding has its kernels launched one by one, too."""
        self._decode_launch_s = device.eager_launch_s if eager else device.graph_launch_s
        self._device = device
        self._model = model
        self._linear, self._head = model.linear_parameters, model.head_parameters
        self._kv_bytes = model.kv_bytes_per_token
        self._attention_width = model.heads * model.head_width
        vision = model.vision
        self._tower, self._merger = model.tower_parameters, model.merger_parameters
        self._depth, self._width = vision["depth"], vision["hidden_size"]
        self._full_layers = len(vision["fullatt_block_indexes"])
        self._window_patches = (vision["window_size"] // vision["patch_size"]) ** 2

    def step(self, load: Load) -> StepTime:
        """Return what a step takes with the device to itself."""
        time = StepTime()
        encode, prefill, decode = time.parts
        if load.frames:
            self._encode(encode, load.frames)
        tokens = load.prefill_tokens + load.decode_requests
        if not tokens:
            return time
        launch_s = self._device.eager_launch_s if load.prefill_tokens else self._decode_launch_s
        shared = Part()
        self._gemms(shared, tokens, launch_s)
        self._run(shared, 2 * self._head * load.sampled, _BYTES * self._head, 0.8, 4, launch_s)
        prefill.add(shared, load.prefill_tokens / tokens)
        decode.add(shared, load.decode_requests / tokens)
        layers, width = self._model.layers, self._attention_width
        if load.prefill_tokens:
            # Keys and values of the context come again for each tile of 256 queries, half of it from the L2 cache.
            again = 0.5 + 0.5 * -(-load.prefill_tokens // 256)
            moved = (load.prefill_tokens + load.prefill_context * again) * self._kv_bytes
            moved += load.prefill_tokens * layers * 2 * width * _BYTES
            self._run(prefill, 4.0 * width * layers * load.prefill_pairs, moved, 0.62, layers, launch_s)
        if load.decode_requests:
            read = (load.decode_context + load.decode_requests) * self._kv_bytes
            # The queries of a group of heads fill a part of the tensor core's tile only.
            flops = 4.0 * width * layers * load.decode_context
            self._run(decode, flops, read * 1.04, 0.25, 2 * layers, launch_s)
        return time

    def _gemms(self, part: Part, tokens: int, launch_s: float) -> None:
        """Add the linear layers and what stands between them; tiles of 64 rows, fewer rows in a tile of 16."""
        rows = 64 if tokens > 16 else 16
        padded = -(-tokens // rows) * rows
        # Beyond some thousand tokens the weights do not stay in the cache between the tiles of a layer.
        weights = _BYTES * self._linear * (1 + 0.05 * max(0.0, padded / 2048 - 1))
        layers, model = self._model.layers, self._model
        wide = 6 * model.hidden + 2 * model.intermediate
        ratio = padded / (padded + 24) * tokens / padded
        flops = 2 * self._linear * tokens
        self._run(part, flops, weights + tokens * layers * wide, ratio, 4 * layers, launch_s)
        self._run(part, 0.0, 2.0 * tokens * layers * 4 * model.hidden, 1.0, 3 * layers, launch_s)

    def _encode(self, part: Part, frames: tuple[int, ...]) -> None:
        launch_s, depth, width = self._device.eager_launch_s, self._depth, self._width
        patches = sum(frames)
        padded = -(-patches // 64) * 64
        ratio = 0.92 * padded / (padded + 96) * patches / padded
        flops = 2 * (self._tower + self._merger / _MERGE) * patches
        moved = _BYTES * (self._tower + self._merger) + patches * depth * 9.0 * width * _BYTES
        self._run(part, flops, moved, ratio, 5 * depth, launch_s)
        full = sum(count * count for count in frames) * self._full_layers
        windowed = patches * min(self._window_patches, max(frames)) * (depth - self._full_layers)
        moved = patches * depth * 4.0 * width * _BYTES
        self._run(part, 4.0 * width * (full + windowed), moved, 0.55, depth, launch_s)
        self._run(part, 0.0, patches * depth * 8.0 * width * _BYTES, 1.0, 4 * depth, launch_s)

    def _run(
        self, part: Part, flops: float, moved: float, ratio: float, launches: int, launch_s: float
    ) -> None:
        """Add a group of like kernels; ``ratio``: the part of the best GEMM's rate that they attain, padding counted."""
        compute_s = flops / (self._device.attainable_flops_per_s * ratio)
        memory_s = moved / self._device.attainable_bytes_per_s
        busy_s = max(compute_s, memory_s)
        seconds = max(busy_s, launches * launch_s)
        part.seconds += seconds
        if seconds > busy_s:
            part.launch_s += seconds
        elif compute_s > memory_s:
            part.compute_s += seconds
        else:
            part.memory_s += seconds
        part.overhead_s += seconds - busy_s
        part.flops += flops
        part.bytes += moved
