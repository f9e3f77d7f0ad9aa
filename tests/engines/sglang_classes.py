"""Drives the scheduler's hooks with SGLang's own classes: ``sglang_classes.py SOURCE`` prints the records as JSON.

SGLang's modules import where torch and their other packages are; its compiled kernels and a few packages that nothing
here calls are stood for by modules that hold anything. Run by test_sglang_classes.py in the engines' environment.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import types
from array import array
from types import SimpleNamespace
from typing import Any

ABSENT = ("sgl_kernel", "flashinfer", "deep_gemm", "deep_ep", "orjson", "IPython", "gguf")
KERNELS = ("sglang.kernels", "sglang.jit_kernel")


class Anything:
    """Is called, decorates, is subclassed, has every attribute; and does nothing."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else Anything("result")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __getitem__(self, key: Any) -> "Anything":
        return self

    def __or__(self, other: Any) -> "Anything":
        return self

    __ror__ = __or__

    def __bool__(self) -> bool:
        return False


class StandIn(types.ModuleType):
    """A module that holds anything."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for what is not there."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] in ABSENT or name.startswith(KERNELS):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def scheduler() -> Any:
    """What the hooks read of a scheduler, beside the classes that are SGLang's own."""
    config = SimpleNamespace(to_dict=lambda: {"model_type": "qwen2_5_vl"}, to_diff_dict=dict)
    return SimpleNamespace(
        forward_ct=0, server_args=SimpleNamespace(pp_size=1), tp_rank=0, pp_rank=0, dp_rank=None, attn_tp_rank=0,
        attn_dp_rank=0, waiting_queue=[], is_generation=True, page_size=1, max_total_num_tokens=100,
        model_config=SimpleNamespace(hf_config=config, dtype="torch.bfloat16"),
        token_to_kv_pool_allocator=SimpleNamespace(available_size=lambda: 40),
        tree_cache=SimpleNamespace(evictable_size=lambda: 0),
    )  # fmt: skip


def main(source: str) -> None:
    """Run a prompt of 60 tokens with an image, then one decode step that is its last."""
    sys.path.insert(0, source)
    sys.meta_path.insert(0, Finder())
    torch = importlib.import_module("torch")
    batches = importlib.import_module("sglang.srt.managers.schedule_batch")
    modes = importlib.import_module("sglang.srt.model_executor.forward_batch_info").ForwardMode
    sampling = importlib.import_module("sglang.srt.sampling.sampling_params").SamplingParams

    from probe_doubles import ListRing

    from vtprof_probe.engines.sglang_encoder import EncoderHooks
    from vtprof_probe.engines.sglang_scheduler import SchedulerHooks
    from vtprof_probe.hooks.patches import Patches
    from vtprof_probe.recorder import Recorder

    ring = ListRing()
    recorder = Recorder(lambda: ring)
    encoder = EncoderHooks(recorder, Patches(recorder.fault))
    hooks, engine = SchedulerHooks(recorder, encoder, recorder.close), scheduler()
    image = batches.MultimodalDataItem(
        modality=batches.Modality.IMAGE, offsets=[(10, 49)], feature=torch.zeros(160, 8), hash=5,
        model_specific_data={"image_grid_thw": torch.tensor([[1, 16, 10]])},
    )  # fmt: skip
    req = batches.Req(
        rid="a",
        origin_input_text="x",
        origin_input_ids=array("q", [1] * 60),
        sampling_params=sampling(max_new_tokens=2),
    )
    req.multimodal_inputs = batches.MultimodalInputs(mm_items=[image])
    batch = batches.ScheduleBatch(reqs=[req])

    def step(encoded: list[Any], ends: bool) -> None:
        token = hooks.run_begins(engine, (batch,), {})
        engine.forward_ct += 1
        if encoded:
            encoder.lookup_begins(None, (), {})
            encoder.features_end(encoder.features_begin(engine, (encoded,), {}), None, None)
        result = SimpleNamespace()
        hooks.run_ends(token, result, None)
        token = hooks.result_begins(engine, (batch.copy(), result), {})
        req.output_ids.append(7)
        if ends:
            req.finished_reason = batches.FINISH_LENGTH(length=2)
        hooks.result_ends(token, None, None)

    hooks.enqueue_begins(engine, (req,), {})
    batch.forward_mode, batch.prefix_lens, batch.extend_lens = modes.EXTEND, [0], [60]
    step([image], ends=False)
    batch.forward_mode, batch.seq_lens_sum, batch.seq_lens_cpu = modes.DECODE, None, torch.tensor([61])
    step([], ends=True)
    print(json.dumps({"errors": ring.hook_errors + recorder.state()[2], "rows": ring.rows}))


if __name__ == "__main__":
    main(sys.argv[1])
