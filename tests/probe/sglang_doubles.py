"""Stands for SGLang's modules: the classes that the hooks meet, with its names, and its two event loops.

What each class here has, SGLang's has too: tests/engines/test_sglang_source.py reads that in SGLang's own source.
"""

import enum
import sys
import types
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from probe_doubles import ListRing
from sglang_api_doubles import (
    MODEL_CONFIG,
    BaseMultimodalProcessor,
    GenerateReqInput,
    TokenizerManager,
    TypeBasedDispatcher,
)

from vtprof_probe.engines import sglang_server
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.recorder import Recorder

CHUNK = 100
"""Prompt tokens of a step at most (--chunked-prefill-size)."""
PAGE = 16
POOL = 4096


class Clock:
    """Counts nanoseconds: one more each time it is read."""

    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Modality(enum.Enum):
    IMAGE = 1
    VIDEO = 2
    AUDIO = 3


class Shaped:
    """A tensor of which only shape and small contents are known; reading one of a device fails."""

    def __init__(self, *shape: int, rows: list[list[int]] | None = None, cuda: bool = False) -> None:
        self.shape, self.is_cuda, self._rows = shape, cuda, rows

    def tolist(self) -> list[list[int]]:
        assert not self.is_cuda, "a tensor on the device was read"
        assert self._rows is not None
        return self._rows


def item(
    first: int, last: int, grid: tuple[int, int, int] | None = None, modality: Modality = Modality.IMAGE
) -> Any:
    """A media item at the prompt positions first to last, both included, as SGLang's offsets say it."""
    data = {}
    feature = Shaped(3, 28, 28)
    if grid is not None:
        frames, rows, columns = grid
        data["image_grid_thw"] = Shaped(1, 3, rows=[list(grid)])
        feature = Shaped(frames * rows * columns, 1176)
    return SimpleNamespace(
        modality=modality, offsets=[(first, last)], feature=feature, model_specific_data=data,
        precomputed_embeddings=None, hash=hash((first, last, grid)),
    )  # fmt: skip


class Mode(enum.Enum):
    EXTEND = 1
    DECODE = 2
    MIXED = 3
    IDLE = 4

    def is_extend(self) -> bool:
        return self in (Mode.EXTEND, Mode.MIXED)

    def is_mixed(self) -> bool:
        return self is Mode.MIXED

    def is_idle(self) -> bool:
        return self is Mode.IDLE


class Req:
    def __init__(
        self, rid: str, prompt: int, output: int = 3, items: list[Any] | None = None, stream: bool = True
    ) -> None:
        self.rid, self.stream = rid, stream
        self.origin_input_ids = [0] * prompt
        self.output_ids: list[int] = []
        self.sampling_params = SimpleNamespace(max_new_tokens=output)
        self.multimodal_inputs = SimpleNamespace(mm_items=items) if items else None
        self.finished_reason: Any = None
        self.cached = self.computed = 0
        """Tokens found in the prefix cache at its next start, and tokens in its KV."""


class ScheduleBatch:
    def __init__(self, reqs: list[Req], mode: Mode) -> None:
        self.reqs, self.forward_mode = reqs, mode
        self.prefix_lens: list[int] = []
        self.extend_lens: list[int] = []
        self.decoding_reqs: list[Req] | None = None
        self.seq_lens_sum: int | None = None
        self.seq_lens_cpu: Any = None
        self.spec_algorithm = SimpleNamespace(is_none=lambda: True)

    def copy(self) -> "ScheduleBatch":
        other = ScheduleBatch(self.reqs, self.forward_mode)
        other.__dict__.update(self.__dict__)
        return other

    def retract_decode(self) -> tuple[list[Req], float, list[Req]]:
        victim = self.reqs.pop()
        victim.computed = 0
        return [victim], 0.5, []


def embed_mm_inputs(mm_inputs_list: list[Any], scheduler: Any, rows: list[tuple[Req, int, int]]) -> None:
    """Encode the items that the chunks need and the cache lacks, all in one call."""
    missing = [
        one
        for req, begin, end in rows
        if req.multimodal_inputs
        for one in req.multimodal_inputs.mm_items
        if one.offsets[0][0] < end and begin <= one.offsets[0][1] and one.hash not in scheduler.encoder_cache
    ]
    if missing:
        scheduler.tp_worker.model_runner.model.get_image_feature(missing)
        scheduler.encoder_cache.update(one.hash for one in missing)


class Model:
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=14))

    def get_image_feature(self, items: list[Any]) -> None: ...


class ModelRunner:
    kv_cache_dtype = "torch.bfloat16"

    def __init__(self) -> None:
        self.model = Model()

    def forward(self, batch: ScheduleBatch, scheduler: Any) -> None:
        if batch.forward_mode.is_extend():
            rows = [
                (req, begin, begin + tokens)
                for req, begin, tokens in zip(batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True)
            ]
            sys.modules["sglang.srt.managers.mm_utils"].embed_mm_inputs([], scheduler, rows)


class Scheduler:
    """Chunked prefill first, decode else; the last request may be retracted."""

    def __init__(self, **attributes: Any) -> None:
        self.forward_ct = 0
        self.waiting_queue: list[Req] = []
        self.running: list[Req] = []
        self.chunked: Req | None = None
        self.is_generation = True
        self.page_size, self.max_total_num_tokens = PAGE, POOL
        self.tp_rank = self.pp_rank = self.attn_tp_rank = self.attn_dp_rank = 0
        self.dp_rank: int | None = None
        self.encoder_cache: set[int] = set()
        self.tp_worker = SimpleNamespace(model_runner=ModelRunner())
        used = lambda: sum(req.computed for req in {*self.running, self.chunked} if req)  # noqa: E731
        self.token_to_kv_pool_allocator = SimpleNamespace(available_size=lambda: POOL - 64 - used())
        self.tree_cache = SimpleNamespace(evictable_size=lambda: 64)
        self.server_args = SimpleNamespace(model_path="/models/tiny", tp_size=1, schedule_policy="lpm")
        self.model_config = MODEL_CONFIG
        self.results: deque[tuple[ScheduleBatch, Any]] = deque()
        self.result: Callable[[], Any] = SimpleNamespace
        """Makes what ``run_batch`` returns."""
        self.__dict__.update(attributes)

    def _add_request_to_queue(self, req: Req, is_retracted: bool = False) -> None:
        self.waiting_queue.append(req)

    def run_batch(self, batch: ScheduleBatch, pp_proxy_tensors: Any = None) -> Any:
        self.forward_ct += 1
        if not batch.forward_mode.is_idle():
            self.tp_worker.model_runner.forward(batch, self)
        return self.result()

    def process_batch_result(self, batch: ScheduleBatch, result: Any) -> None:
        for req in batch.reqs:
            # A chunk that leaves some of the prompt gives no token; an overlapped step may come too late for one.
            if req.finished_reason is None and req.computed >= len(req.origin_input_ids) + len(
                req.output_ids
            ):
                req.output_ids.append(7)
                if len(req.output_ids) >= req.sampling_params.max_new_tokens:
                    req.finished_reason = {"type": "length"}
        self.running = [req for req in self.running if req.finished_reason is None]

    # --- How SGLang goes on: prefill while anybody waits, else decode ----------------------------------------

    def next_batch(self, mixed: bool = False) -> ScheduleBatch | None:
        self.running = [req for req in self.running if req.finished_reason is None]
        budget, rows = CHUNK, []
        waiting = [self.chunked] if self.chunked else []
        for req in [*waiting, *self.waiting_queue]:
            begin = req.computed or req.cached
            tokens = min(budget, len(req.origin_input_ids) + len(req.output_ids) - begin)
            if tokens:
                rows.append((req, begin, tokens))
                budget -= tokens
        if rows:
            return self._extend(rows, mixed)
        return self.decode_batch()

    def _extend(self, rows: list[tuple[Req, int, int]], mixed: bool) -> ScheduleBatch:
        batch = ScheduleBatch([req for req, _, _ in rows], Mode.EXTEND)
        batch.prefix_lens = [begin for _, begin, _ in rows]
        batch.extend_lens = [tokens for _, _, tokens in rows]
        self.chunked = None
        for req, begin, tokens in rows:
            req.computed = begin + tokens
            if req in self.waiting_queue:
                self.waiting_queue.remove(req)
            if req.computed < len(req.origin_input_ids) + len(req.output_ids):
                self.chunked = req
        if mixed and self.running:
            batch.forward_mode, batch.decoding_reqs = Mode.MIXED, self.running
            batch.reqs = batch.reqs + self.running
            batch.prefix_lens = batch.prefix_lens + [req.computed for req in self.running]
            batch.extend_lens = batch.extend_lens + [1] * len(self.running)
            for req in self.running:
                req.computed += 1
        self.running = self.running + [req for req, _, _ in rows if req is not self.chunked]
        return batch

    def decode_batch(self) -> ScheduleBatch | None:
        if not self.running:
            return None
        batch = ScheduleBatch(self.running, Mode.DECODE)
        for req in self.running:
            req.computed += 1
        batch.seq_lens_sum = sum(req.computed for req in self.running)
        return batch

    def step(self, mixed: bool = False) -> None:
        """One turn of event_loop_normal."""
        batch = self.next_batch(mixed)
        if batch is not None:
            self.process_batch_result(batch, self.run_batch(batch))

    def step_overlapped(self) -> None:
        """One turn of event_loop_overlap: the result of a step is taken after the next one was launched."""
        batch = self.next_batch()
        if batch is not None:
            self.results.append((batch.copy(), self.run_batch(batch)))
        if len(self.results) > 1 or (batch is None and self.results):
            self.process_batch_result(*self.results.popleft())

    def retract(self) -> None:
        """What update_running_batch does when the pool is full."""
        batch = ScheduleBatch(self.running, Mode.DECODE)
        retracted, _, _ = batch.retract_decode()
        for req in retracted:
            self._add_request_to_queue(req, is_retracted=True)


_MODULES: dict[str, dict[str, Any]] = {
    "sglang": {"__version__": "0.5.23"},
    "sglang.utils": {"TypeBasedDispatcher": TypeBasedDispatcher},
    "sglang.srt.managers.io_struct": {"GenerateReqInput": GenerateReqInput},
    "sglang.srt.managers.tokenizer_manager": {"TokenizerManager": TokenizerManager},
    "sglang.srt.managers.scheduler": {"Scheduler": Scheduler},
    "sglang.srt.managers.schedule_batch": {"ScheduleBatch": ScheduleBatch},
    "sglang.srt.managers.mm_utils": {"embed_mm_inputs": embed_mm_inputs},
    "sglang.srt.model_executor.model_runner": {"ModelRunner": ModelRunner},
    "sglang.srt.multimodal.processors.base_processor": {"BaseMultimodalProcessor": BaseMultimodalProcessor},
}


class Probe:
    """The hooks on the doubles, and what they wrote."""

    def __init__(self) -> None:
        self.ring, self.clock = ListRing(), Clock()
        self.recorder = Recorder(lambda: self.ring, clock=self.clock)
        self.patches = Patches(self.recorder.fault)
        self.watcher = ImportWatcher(self.recorder.fault)

    def attach(self) -> None:
        """Set the hooks; on objects that may be at work already."""
        sglang_server.install(self.patches, self.watcher, self.recorder, self.detach)

    def detach(self) -> None:
        """Take them away."""
        self.watcher.close()
        self.patches.undo()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process with SGLang's modules imported and no hook set yet; no hook may fail in the test."""
    for name, attributes in _MODULES.items():
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    probe = Probe()
    yield probe
    probe.detach()
    assert probe.ring.hook_errors == 0 and probe.recorder.state()[2] == 0
