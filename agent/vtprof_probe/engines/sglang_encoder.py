"""SGLang's encoder, which runs in the scheduler's process: what it encodes for whom, cache hits, GPU time of a step.

What looks media up in the encoder cache, ``embed_mm_inputs``, is told apart from the model's ``get_image_feature`` and its
like, which run for those that are not in it. These are methods of each model's class: they are hooked when a model is
first seen to run.
"""

import functools
import re
import sys
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from vtprof_probe.engines.sglang_batch import Chunk, SequenceState
from vtprof_probe.engines.sglang_media import ItemWork, encoder_work, media_items
from vtprof_probe.gpu_timer import GpuTimer
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import DETAIL_GPU_TIME, Recorder
from vtprof_schemas import records

FEATURES = re.compile(r"\Aget_(\w+_)?features?\Z")
"""Names of the methods that run an encoder."""

_Owner = Tuple[SequenceState, int]
"""The request of a media item, and which of its items it is."""


class EncoderHooks:
    """Follows the encoder through the step that runs."""

    def __init__(self, recorder: Recorder, patches: Patches) -> None:
        """Begin between two steps."""
        self._recorder, self._patches = recorder, patches
        self._known: Set[type] = set()
        self._gpu: Optional[GpuTimer] = None
        self._forget()

    def _forget(self) -> None:
        self._step: Optional[int] = None
        self._chunks: Sequence[Tuple[Chunk, Any]] = ()
        self._owners: Dict[int, _Owner] = {}
        self._encode_ns = 0
        self._encoded: Set[Tuple[int, int]] = set()
        self._looked_up = False
        self._depth = self._forwards = 0

    # --- Called by the scheduler's hooks -------------------------------------------------------------------

    def begin_step(self, step: int, chunks: Sequence[Chunk], batch: Any) -> None:
        """Begin a step of these chunks, which are the batch's first requests in order."""
        self._forget()
        self._step = step
        with_media = [
            (chunk, req.multimodal_inputs)
            for chunk, req in zip(chunks, batch.reqs)
            if getattr(req, "multimodal_inputs", None) is not None
        ]
        self._chunks = with_media
        for chunk, inputs in with_media:
            for index, item in enumerate(media_items(inputs)):
                self._owners[id(item)] = (chunk.state, index)

    def end_step(self, failed: bool) -> Tuple[int, List[Tuple[int, int]]]:
        """End the step; return the encoder's wall time and, by request, the items found in the encoder cache."""
        step, hits = self._step, self._hits() if self._looked_up else []
        encode_ns = self._encode_ns
        if self._gpu is not None:
            self._gpu.close_step(None if failed else step)
            self._gpu.poll()
        self._forget()
        return encode_ns, hits

    def _hits(self) -> List[Tuple[int, int]]:
        """Count the items that a chunk is the first to need and that the encoder ran on neither now nor before."""
        found = []
        for chunk, inputs in self._chunks:
            state = chunk.state
            given = [
                index
                for index, item in enumerate(media_items(inputs))
                if (state.number, index) in self._encoded
                or getattr(item, "precomputed_embeddings", None) is not None
            ]
            hits = state.positions.first_needed(chunk.begin, chunk.begin + chunk.tokens, given)
            if hits:
                found.append((state.number, hits))
        return found

    # --- Hooks ---------------------------------------------------------------------------------------------

    def lookup_begins(self, module: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        """Note that the step's media were looked up."""
        self._looked_up = True

    def forward_begins(self, runner: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Mark the start of the model's run on the stream that it runs on; hook its encoders if it is new."""
        model = getattr(runner, "model", None)
        if model is not None and type(model) not in self._known:
            self._hook_model(type(model))
        if self._step is None:
            return None
        timer = self._timer()
        if timer is None:
            return None
        self._forwards += 1
        return timer, timer.mark()

    def forward_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Mark its end."""
        timer, begin = token
        self._forwards -= 1
        timer.add(begin, timer.mark(), encoder=False, nested=self._forwards > 0)

    def features_begin(self, model: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Note what the encoder is given; of calls within each other the outermost counts."""
        items = args[0] if args else next(iter(kwargs.values()), None)
        if self._step is None or self._depth or not isinstance(items, (list, tuple)):
            return None
        if not all(hasattr(item, "modality") for item in items):
            return None
        self._depth += 1
        config = getattr(model, "config", None)
        work: Dict[int, List[int]] = {}
        for item in items:
            owner = self._owners.get(id(item))
            if owner is not None:
                state, index = owner
                self._encoded.add((state.number, index))
                _add(work.setdefault(state.number, [0, 0, 0]), encoder_work(item, config))
        timer = self._timer()
        return work, self._recorder.now(), timer, None if timer is None else timer.mark()

    def features_end(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Write the encoder's run for each request in it."""
        work, start_ns, timer, mark = token
        now = self._recorder.now()
        self._depth -= 1
        if timer is not None:
            timer.add(mark, timer.mark(), encoder=True, nested=self._forwards > 0)
        if error is not None:
            return
        self._encode_ns += now - start_ns
        for request, (items, patches, pairs) in work.items():
            self._recorder.write(records.ENCODE, self._step, request, start_ns, now, items, patches, pairs, 0)

    def _hook_model(self, cls: type) -> None:
        self._known.add(cls)
        for owner in cls.__mro__:
            if owner.__module__.startswith("torch."):
                continue
            for name, value in list(vars(owner).items()):
                if (
                    FEATURES.match(name)
                    and callable(value)
                    and not isinstance(value, (staticmethod, classmethod))
                ):
                    self._patches.wrap(owner, name, self.features_begin, self.features_end)

    def _timer(self) -> Optional[GpuTimer]:
        torch = sys.modules.get("torch")
        if self._recorder.detail < DETAIL_GPU_TIME or torch is None or not torch.cuda.is_initialized():
            return None
        if self._gpu is None:
            recorder = self._recorder
            new_event = functools.partial(torch.cuda.Event, enable_timing=True)
            self._gpu = GpuTimer(new_event, lambda *values: recorder.write(records.GPU_TIME, *values))
        return self._gpu


def install_encoder(setter: HookSetter, hooks: EncoderHooks) -> None:
    """Set the hooks of the model's run and its encoders."""
    setter.set("sglang.embed", hooks.lookup_begins, _nothing)
    setter.set("sglang.forward", hooks.forward_begins, hooks.forward_ends)


def _add(sums: List[int], work: ItemWork) -> None:
    for position, value in enumerate(work):
        unknown = value < 0 or sums[position] < 0
        sums[position] = records.UNKNOWN if unknown else sums[position] + value


def _nothing(token: Any, result: Any, error: Optional[BaseException]) -> None:
    """End of a hook that only looks in at the beginning."""
