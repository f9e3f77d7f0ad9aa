"""Hooks in vLLM's workers: what both model runners encode and how long the GPU takes, on doubles of their calls."""

import gc
import itertools
import sys
import types
import weakref
from collections import UserDict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from probe_doubles import ListRing

from vtprof_probe.engines.vllm_encoder import item_size
from vtprof_probe.engines.vllm_hooks import HOOKS
from vtprof_probe.engines.vllm_shared import STEP_ATTRIBUTE
from vtprof_probe.engines.vllm_worker import MAX_UNNUMBERED, install_worker
from vtprof_probe.engines.vllm_worker_info import worker_rank
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import Recorder
from vtprof_schemas import names, records

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

CPU, CUDA = SimpleNamespace(type="cpu"), SimpleNamespace(type="cuda")
CONFIG = SimpleNamespace(vision_config=SimpleNamespace(patch_size=14))


class Inputs(UserDict[str, Any]):
    """One item's processed inputs: names to fields that hold ``data``, as vLLM's MultiModalKwargsItem."""

    modality = "image"

    def __init__(self, **fields: Any) -> None:
        super().__init__({name: SimpleNamespace(data=data) for name, data in fields.items()})


def image(rows: int, columns: int) -> Inputs:
    """A Qwen image of rows x columns patches: flat patches and a grid of three sizes."""
    return Inputs(
        pixel_values=torch.zeros(rows * columns, 1176), image_grid_thw=torch.tensor([1, rows, columns])
    )


def feature(data: Inputs | None, modality: str = "image") -> SimpleNamespace:
    return SimpleNamespace(data=data, modality=modality, identifier=f"hash-{id(data)}")


class Output(SimpleNamespace):
    """A SchedulerOutput; of a class of ours it may be referred to weakly."""


def scheduled(number: int | None, encode: dict[str, list[int]], **tokens: int) -> Output:
    """Schedule items for the encoder and tokens; without a number the scheduler's hook never saw it."""
    tokens = tokens or dict.fromkeys(encode, 1)
    output = Output(
        scheduled_encoder_inputs=encode,
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
    )
    if number is not None:
        setattr(output, STEP_ATTRIBUTE, number)
    return output


class Stream:
    """Time on the GPU, moved on by what the doubles launch; ``passed_ms`` is how far it has got."""

    def __init__(self) -> None:
        self.launched_ms = 0.0
        self.passed_ms = float("inf")

    def event(self, enable_timing: bool = False) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    """A CUDA event; it knows no ``synchronize``."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def record(self) -> None:
        self.at_ms = self.stream.launched_ms

    def query(self) -> bool:
        return self.at_ms <= self.stream.passed_ms

    def elapsed_time(self, end: "Event") -> float:
        return end.at_ms - self.at_ms


class RunnerV1:
    """``GPUModelRunner`` of runner V1 as of 0.11.1: the batch on the host, the encoder, the model, then sampling."""

    def __init__(self, stream: Stream, device: Any = CPU, **parallel: int) -> None:
        self.stream, self.device = stream, device
        self.model_config = SimpleNamespace(hf_config=CONFIG, dtype=torch.bfloat16)
        self.parallel_config = SimpleNamespace(**parallel)
        self.requests: dict[str, Any] = {}
        self.returned: Any = None
        self.failure: Exception | None = None
        self.fails_in = "encoder"

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None) -> Any:
        self.stream.launched_ms += 100.0  # the host prepares, the GPU waits
        self._execute_mm_encoder(scheduler_output)
        self._model_forward()
        return self.returned

    def _execute_mm_encoder(self, scheduler_output: Any) -> list[Any]:
        if self.failure is not None and self.fails_in == "encoder":
            raise self.failure
        if scheduler_output.scheduled_encoder_inputs:
            self.stream.launched_ms += 2.0
        return []

    def _model_forward(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.stream.launched_ms += 5.0

    def sample_tokens(self, grammar_output: Any) -> str:
        self.stream.launched_ms += 1.0
        return "tokens"


class EncoderRunner:
    """The encoder of runner V2 since 0.17; what is in its cache is not encoded again."""

    def __init__(self, features: dict[str, list[Any]]) -> None:
        self.encoder_cache = SimpleNamespace(mm_features=features, encoder_outputs={})

    def execute_mm_encoder(self, mm_kwargs: list[Any]) -> list[int]:
        return [0] * len(mm_kwargs)

    def run(self, wanted: dict[str, list[int]]) -> None:
        cache = self.encoder_cache
        batch = [
            (item.modality, item.data)
            for request, numbers in wanted.items()
            for item in (cache.mm_features[request][number] for number in numbers)
            if item.data is not None and item.identifier not in cache.encoder_outputs
        ]
        if batch:
            self.execute_mm_encoder(batch)


class EncoderRunner016(EncoderRunner):
    """The encoder of runner V2 in 0.15 and 0.16: the model and the hashes first, plain inputs, called in any case."""

    def __init__(self, features: dict[str, list[Any]]) -> None:
        self.req_id_to_mm_features, self.encoder_cache = features, {}

    def execute_mm_encoder(self, model: Any, mm_hashes: Any, mm_kwargs: Any) -> list[int]:  # type: ignore[override]
        return [0] * len(mm_hashes)

    def run(self, wanted: dict[str, list[int]]) -> None:
        batch = [self.req_id_to_mm_features[key][n].data for key, numbers in wanted.items() for n in numbers]
        self.execute_mm_encoder("model", [str(id(data)) for data in batch], batch)


class RunnerV2:
    """``GPUModelRunner`` of runner V2."""

    def __init__(self, encoder: EncoderRunner, device: Any = CPU) -> None:
        self.encoder, self.device = encoder, device
        self.model_config = SimpleNamespace(hf_config=CONFIG, dtype=torch.bfloat16)

    def execute_model(
        self, scheduler_output: Any, intermediate_tensors: Any = None, dummy_run: bool = False
    ) -> Any:
        self.prepare_inputs(scheduler_output)
        self.encoder.run(scheduler_output.scheduled_encoder_inputs)
        return "intermediate tensors"

    def prepare_inputs(self, scheduler_output: Any) -> None: ...

    def sample_tokens(self, grammar_output: Any) -> None: ...


class Worker:
    """A process with the doubles in the place of vLLM's modules and the hooks of the real table on them."""

    def __init__(self, patch: pytest.MonkeyPatch, version: str, encoder: type[EncoderRunner]) -> None:
        self.ring, self.stream = ListRing(), Stream()
        self.recorder = Recorder(lambda: self.ring, clock=lambda: next(self.clock))
        self.clock = itertools.count(1_000)
        self.patches = Patches(self.recorder.fault)
        self.watcher = ImportWatcher(self.recorder.fault)
        self.v1 = type("GPUModelRunner", (RunnerV1,), dict(vars(RunnerV1)))
        self.v2 = type("GPUModelRunner", (RunnerV2,), dict(vars(RunnerV2)))
        self.encoder = type("EncoderRunner", (encoder,), dict(vars(encoder)))
        for name, members in {
            "vllm.v1.worker.gpu_model_runner": {"GPUModelRunner": self.v1},
            "vllm.v1.worker.gpu.model_runner": {"GPUModelRunner": self.v2},
            "vllm.v1.worker.gpu.mm.encoder_runner": {"EncoderRunner": self.encoder},
        }.items():
            module = types.ModuleType(name)
            vars(module).update(members)
            patch.setitem(sys.modules, name, module)
        patch.setattr(torch.cuda, "Event", self.stream.event)
        card = SimpleNamespace(name="NVIDIA H200", uuid="0b1c")
        patch.setattr(torch.cuda, "get_device_properties", lambda _device: card)
        self.setter = HookSetter(self.patches, self.watcher, self.recorder, version, HOOKS)
        install_worker(self.setter, self.recorder, self.detach)

    def detach(self) -> None:
        self.patches.undo()
        self.watcher.close()

    def runner_v1(self, device: Any = CPU, **parallel: int) -> Any:
        return self.v1(self.stream, device, **parallel)

    def runner_v2(self, features: dict[str, list[Any]]) -> Any:
        return self.v2(self.encoder(features))

    def encodes(self) -> dict[int, tuple[int, ...]]:
        """Return (step, items, patches, pairs, cache hits) by request number."""
        keys = ("step", "items", "patches", "attention_pairs", "cache_hits")
        return {row["request"]: tuple(row[key] for key in keys) for row in self.ring.of("encode")}


Start = Callable[..., Worker]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    started: list[Worker] = []

    def make(version: str = "0.32.0+cpu", encoder: type[EncoderRunner] = EncoderRunner) -> Worker:
        started.append(Worker(monkeypatch, version, encoder))
        return started[-1]

    yield make
    for worker in started:
        worker.detach()


def number(request: str) -> int:
    return names.request_number(request)


# --- Encoder runs ------------------------------------------------------------------------------------------


def test_one_image_is_one_record_with_its_patches_and_pairs(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(20, 40))])
    runner.execute_model(scheduled((3 << records.STEP_RANK_SHIFT) | 7, {"a": [0]}))
    row = worker.ring.one("encode")
    assert row["step"] == (3 << 48) + 7
    assert row["start_ns"] < row["end_ns"]
    # 20 x 40 patches attend to each other: 800 and 800 x 800.
    assert worker.encodes() == {number("a"): ((3 << 48) + 7, 1, 800, 640_000, -1)}
    assert (worker.ring.hook_errors, worker.ring.of("gpu_time")) == (0, [])


def test_requests_encoded_together_have_one_interval_and_their_own_items(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(2, 2)), feature(image(4, 4))])
    runner.requests["b"] = SimpleNamespace(mm_features=[feature(image(2, 4)), feature(image(6, 6))])
    runner.requests["text"] = SimpleNamespace(mm_features=[])
    runner.execute_model(scheduled(1, {"a": [0, 1], "b": [0]}, a=9, b=9, text=3))
    assert worker.encodes() == {
        number("a"): (1, 2, 4 + 16, 4**2 + 16**2, -1),
        number("b"): (1, 1, 8, 8**2, -1),
    }
    assert len({(row["start_ns"], row["end_ns"]) for row in worker.ring.of("encode")}) == 1


def test_items_that_no_encoder_sees_are_left_out(start: Start) -> None:
    """An item whose inputs stayed behind (its embedding is cached) and embeddings that the client sent."""
    worker = start()
    runner = worker.runner_v1()
    embedded = Inputs(image_embeds=torch.zeros(4, 8), image_grid_thw=torch.tensor([1, 4, 4]))
    runner.requests["a"] = SimpleNamespace(
        mm_features=[
            feature(None),
            feature(Inputs(embedding=torch.zeros(3, 8)), "prompt_embeds"),
            feature(image(2, 2)),
        ]
    )
    runner.requests["b"] = SimpleNamespace(mm_features=[feature(embedded)])
    runner.execute_model(scheduled(1, {"a": [0, 1, 2], "b": [0]}))
    assert worker.encodes() == {number("a"): (1, 1, 4, 16, -1)}


def test_state_of_0_10_holds_the_inputs_themselves(start: Start) -> None:
    worker = start("0.10.2")
    runner = worker.runner_v1()
    runner.requests["a"] = SimpleNamespace(mm_kwargs=[image(2, 2), image(2, 4)])
    runner.execute_model(scheduled(1, {"a": [1]}))
    assert worker.encodes() == {number("a"): (1, 1, 8, 64, -1)}


def test_runner_v2_records_what_its_encoder_is_given(start: Start) -> None:
    worker = start("0.33.0")
    features = {"a": [feature(image(2, 2)), feature(image(4, 4))], "b": [feature(image(2, 4))]}
    runner = worker.runner_v2(features)
    runner.encoder.encoder_cache.encoder_outputs[features["a"][0].identifier] = "in the cache"
    runner.execute_model(scheduled(5, {"a": [0, 1], "b": [0]}))
    assert worker.encodes() == {number("a"): (5, 1, 16, 256, -1), number("b"): (5, 1, 8, 64, -1)}


def test_runner_v2_of_0_16_keeps_the_items_in_its_encoder(start: Start) -> None:
    worker = start("0.16.0", EncoderRunner016)
    runner = worker.runner_v2({"a": [feature(image(2, 2))]})
    runner.execute_model(scheduled(5, {"a": [0]}))
    runner.execute_model(scheduled(6, {}, a=1))
    assert worker.encodes() == {number("a"): (5, 1, 4, 16, -1)}


def test_request_that_the_runner_does_not_know_costs_no_other_its_record(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    runner.requests["b"] = SimpleNamespace(mm_features=[feature(image(2, 2))])
    runner.execute_model(scheduled(1, {"gone": [0], "b": [0]}))
    assert set(worker.encodes()) == {number("b")}


# --- What is no step ---------------------------------------------------------------------------------------


def test_unnumbered_steps_write_nothing_and_are_counted_once_when_they_go_on(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA)
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(2, 2))])

    def steps(count: int) -> int:
        for _ in range(count):
            runner.execute_model(scheduled(None, {"a": [0]}))
            runner.sample_tokens(None)
        return worker.recorder.state()[2]

    # Attaching reaches the worker first: that is no fault.
    assert steps(MAX_UNNUMBERED - 1) == 0
    assert [steps(1), steps(1), steps(MAX_UNNUMBERED)] == [1, 1, 1]
    assert worker.ring.rows == []
    assert not worker.recorder.state()[0]


def test_numbered_step_ends_the_row_of_unnumbered_ones(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    for _ in range(3):
        for _ in range(MAX_UNNUMBERED - 1):
            runner.execute_model(scheduled(None, {}, a=1))
        runner.execute_model(scheduled(1, {}, a=1))
    assert worker.ring.hook_errors == 0


def test_warm_up_and_empty_steps_are_no_fault(start: Start) -> None:
    worker = start()
    runner = worker.runner_v2({})
    runner.execute_model(scheduled(None, {}, _warmup_0_=2))
    runner.execute_model(scheduled(None, {}, _v2_mixed_warmup_decode_=1))
    runner.execute_model(SimpleNamespace(num_scheduled_tokens={}, scheduled_encoder_inputs={}))
    assert (worker.ring.rows, worker.recorder.state()[2]) == ([], 0)


def test_run_of_an_encoder_outside_of_a_step_is_profiling(start: Start) -> None:
    worker = start()
    item = feature(image(2, 2))
    runner = worker.runner_v2({"a": [item]})
    runner.encoder.execute_mm_encoder([("image", item.data)])
    runner.execute_model(scheduled(1, {"a": [0]}))
    runner.encoder.execute_mm_encoder([("image", item.data)])
    assert len(worker.ring.of("encode")) == 1


@pytest.mark.parametrize(("place", "encoded"), [("encoder", [2]), ("model", [1, 2])])
def test_error_passes_through_and_the_next_step_is_whole(
    start: Start, place: str, encoded: list[int]
) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA)
    runner.fails_in = place
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(2, 2))])
    runner.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.execute_model(scheduled(1, {"a": [0]}))
    runner.failure, runner.returned = None, "output"
    runner.execute_model(scheduled(2, {"a": [0]}))
    assert [row["step"] for row in worker.ring.of("encode")] == encoded
    assert worker.ring.of("gpu_time") == [
        {"step": 2, "gpu_time_ns": 7_000_000, "encode_gpu_time_ns": 2_000_000}
    ]
    assert worker.ring.hook_errors == 0


# --- GPU time ----------------------------------------------------------------------------------------------


def test_gpu_time_holds_encoder_model_and_sampling_but_no_waiting_for_the_host(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA)
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(2, 2))])
    runner.execute_model(scheduled(1, {"a": [0]}))
    assert runner.sample_tokens(None) == "tokens"
    runner.execute_model(scheduled(2, {}, a=1))
    runner.sample_tokens(None)
    # The doubles launch 2 ms of encoder, 5 ms of model, 1 ms of sampling behind 100 ms of waiting.
    assert worker.ring.of("gpu_time") == [
        {"step": 1, "gpu_time_ns": 8_000_000, "encode_gpu_time_ns": 2_000_000},
        {"step": 2, "gpu_time_ns": 6_000_000, "encode_gpu_time_ns": 0},
    ]
    assert worker.ring.hook_errors == 0


def test_step_that_returns_is_over_without_sampling(start: Start) -> None:
    """A pipeline rank that passes on, and every step before 0.11.1; a later ``sample_tokens`` only receives."""
    worker = start()
    runner = worker.runner_v1(CUDA)
    runner.returned = "intermediate tensors"
    runner.execute_model(scheduled(1, {}, a=1))
    runner.sample_tokens(None)
    assert worker.ring.of("gpu_time") == [{"step": 1, "gpu_time_ns": 5_000_000, "encode_gpu_time_ns": 0}]


def test_before_0_11_1_the_whole_call_is_the_step(start: Start) -> None:
    worker = start("0.10.2")
    runner = worker.runner_v1(CUDA)
    runner.returned = "output"
    runner.execute_model(scheduled(1, {}, a=1))
    # Nothing tells where the model begins: 100 ms of waiting are in it.
    assert worker.ring.one("gpu_time")["gpu_time_ns"] == 105_000_000


def test_step_never_sampled_is_closed_by_the_next(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA)
    runner.execute_model(scheduled(1, {}, a=1))
    assert worker.ring.of("gpu_time") == []
    runner.execute_model(scheduled(2, {}, a=1))
    assert [row["step"] for row in worker.ring.of("gpu_time")] == [1]


def test_gpu_time_is_read_when_the_stream_has_passed_and_never_waited_for(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA)
    worker.stream.passed_ms = 0.0
    for step in (1, 2):
        runner.execute_model(scheduled(step, {}, a=1))
        runner.sample_tokens(None)
    assert worker.ring.of("gpu_time") == []
    worker.stream.passed_ms = float("inf")
    runner.execute_model(scheduled(3, {}, a=1))
    assert [row["step"] for row in worker.ring.of("gpu_time")] == [1, 2]


@pytest.mark.parametrize("detail", [0, 1])
def test_no_event_is_recorded_below_the_level_of_gpu_time(start: Start, detail: int) -> None:
    worker = start()
    worker.ring.word = (detail, False)
    runner = worker.runner_v1(CUDA)
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(2, 2))])
    for step in (1, 2):
        runner.execute_model(scheduled(step, {"a": [0]}))
        runner.sample_tokens(None)
    assert worker.ring.of("gpu_time") == []
    assert len(worker.ring.of("encode")) == 2


# --- The process -------------------------------------------------------------------------------------------


def test_worker_says_who_it_is_at_its_first_step(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA, rank=3, world_size=4, data_parallel_index=2)
    assert names.ROLE not in worker.ring.info
    runner.execute_model(scheduled(1, {}, a=1))
    expected = {
        names.ROLE: "worker", names.RANK: 11, names.DEVICE_KIND: "cuda", names.HW_NAME: "NVIDIA H200",
        names.HW_ID: "GPU-0b1c", names.WEIGHTS_DTYPE: "bfloat16",
    }  # fmt: skip
    assert {key: worker.ring.info[key] for key in expected} == expected
    assert worker.ring.info[names.DEVICE_CORES] >= 1


def test_engine_that_runs_its_worker_itself_stays_an_engine(start: Start) -> None:
    worker = start()
    worker.recorder.identify("engine", 0)
    worker.runner_v1().execute_model(scheduled(1, {}, a=1))
    assert worker.ring.info[names.ROLE] == "engine"


@pytest.mark.parametrize(
    ("parallel", "rank"),
    [
        ({}, 0),
        ({"rank": 1, "world_size": 2}, 1),
        # Before 0.14 replicas have no index; since then those of dense models all hold rank 0.
        ({"rank": 1, "world_size": 2, "data_parallel_rank": 3}, 7),
        ({"rank": 1, "world_size": 2, "data_parallel_rank": 0, "data_parallel_index": 3}, 7),
    ],
)
def test_rank_counts_on_over_the_replicas(parallel: dict[str, int], rank: int) -> None:
    assert worker_rank(SimpleNamespace(parallel_config=SimpleNamespace(**parallel))) == rank


def test_agents_word_takes_the_hooks_away(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    worker.ring.word = (records.DETAIL_DEFAULT, True)
    runner.returned = "output"
    assert runner.execute_model(scheduled(1, {"a": [0]})) == "output"
    assert not hasattr(worker.v1.execute_model, "__vtprof_wrapper__")
    assert not hasattr(worker.encoder.execute_mm_encoder, "__vtprof_wrapper__")
    assert worker.ring.rows == []


def test_agents_word_is_heard_after_the_scheduler_was_left(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    runner.execute_model(scheduled(1, {}, a=1))
    worker.ring.word = (records.DETAIL_DEFAULT, True)
    worker.recorder.control_due = 0
    runner.execute_model(scheduled(None, {}, a=1))
    assert not hasattr(worker.v1.execute_model, "__vtprof_wrapper__")


def test_nothing_of_the_engine_is_kept_after_a_step(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1(CUDA)
    runner.requests["a"] = Output(mm_features=[feature(image(2, 2))])
    output = scheduled(1, {"a": [0]})
    runner.execute_model(output)
    gone = [weakref.ref(output), weakref.ref(runner.requests.pop("a"))]
    gone.append(weakref.ref(runner))
    del output, runner
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]


# --- Sizes -------------------------------------------------------------------------------------------------


def named(**fields: Any) -> dict[str, Any]:
    return fields


@pytest.mark.parametrize(
    ("modality", "fields", "expected"),
    [
        # A video attends within each of its frames: 3 frames of 2 x 4 patches.
        ("video", named(pixel_values_videos=torch.zeros(24, 8), video_grid_thw=torch.tensor([[3, 2, 4]])), (24, 3 * 64)),
        # Tiles of 28 x 42 pixels at 14 pixels a patch: 2 x 3 patches each, alone with themselves.
        ("image", named(pixel_values_flat=torch.zeros(5, 3, 28, 42)), (30, 5 * 36)),
        ("image", named(pixel_values=torch.zeros(3, 28, 28)), (4, 16)),
        ("image", named(pixel_values=torch.zeros(1, 3, 28, 28), images_crop=torch.zeros(2, 3, 28, 42)), (16, 88)),
        ("image", named(pixel_values=[torch.zeros(3, 28, 28), torch.zeros(3, 28, 42)]), (10, 52)),
        ("image", named(pixel_values=torch.zeros(9, 588)), (9, 81)),
        ("video", named(pixel_values_videos=torch.zeros(4, 3, 28, 28)), (16, 4 * 16)),
        ("audio", named(input_features=torch.zeros(128, 3000)), (3000, 9_000_000)),
        ("audio", named(input_features=torch.zeros(2, 80, 100)), (200, 20_000)),
        ("audio", named(input_audio_features=torch.zeros(100, 80)), (100, 10_000)),
        # Neither dimension says which one is time; crops of flat patches; a name that is not known.
        ("audio", named(input_features=torch.zeros(100, 100)), None),
        ("image", named(images=torch.zeros(5, 576, 588)), None),
        ("image", named(pictures=torch.zeros(3, 28, 28)), None),
        ("image", named(pixel_values=[[torch.zeros(3, 28, 28)]]), None),
    ],
)  # fmt: skip
def test_size_of_an_item_by_the_shapes_of_its_inputs(
    modality: str, fields: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    assert item_size(modality, fields, CONFIG) == expected


def test_grid_on_the_device_is_not_read() -> None:
    class OnDevice:
        device = CUDA
        shape = (3,)

    assert item_size("image", named(image_grid_thw=OnDevice()), CONFIG) is None
    assert item_size("image", named(image_grid_thw=OnDevice(), pixel_values=torch.zeros(9, 8)), CONFIG) == (
        9,
        81,
    )


def test_sizes_that_no_shape_tells_are_unknown_but_the_items_are_counted(start: Start) -> None:
    worker = start()
    runner = worker.runner_v1()
    odd = Inputs(pictures=torch.zeros(3, 28, 28))
    runner.requests["a"] = SimpleNamespace(mm_features=[feature(image(2, 2)), feature(odd)])
    runner.execute_model(scheduled(1, {"a": [0, 1]}))
    assert worker.encodes() == {number("a"): (1, 2, -1, -1, -1)}
