"""vLLM's hooks as data: where each target lies in which version, and which parameters the hook reads."""

from typing import Dict

from vtprof_probe.hooks.targets import Hook, Target

_RUNNER_V1 = "vllm.v1.worker.gpu_model_runner"
_RUNNER_V2 = "vllm.v1.worker.gpu.model_runner"
_RUNNER_ENCODER_ONLY = "vllm.v1.worker.mm_encoder_model_runner"
_ENCODER_V2 = "vllm.v1.worker.gpu.mm.encoder_runner"
_WORKER = ("worker",)
WORKER_HOOKS: Dict[str, Hook] = {
    "vllm.worker.execute.v1": Hook(
        "a step of model runner V1, on CPU too",
        (Target(_RUNNER_V1, "GPUModelRunner.execute_model", takes=("scheduler_output",)),),
        _WORKER,
    ),
    "vllm.worker.execute.v2": Hook(
        "a step of model runner V2",
        (Target(_RUNNER_V2, "GPUModelRunner.execute_model", since="0.12", takes=("scheduler_output",)),),
        _WORKER,
        optional=True,
    ),
    "vllm.worker.execute.encoder_only": Hook(
        "a step of an instance that runs encoders alone",
        (
            Target(
                _RUNNER_ENCODER_ONLY,
                "MMEncoderModelRunner.execute_model",
                since="0.29",
                takes=("scheduler_output",),
            ),
        ),
        _WORKER,
        optional=True,
    ),
    "vllm.worker.launch.v1": Hook(
        "where a step without encoder work goes to the GPU",
        (Target(_RUNNER_V1, "GPUModelRunner._model_forward", since="0.11.1"),),
        _WORKER,
        optional=True,
    ),
    "vllm.worker.launch.v2": Hook(
        "where a step goes to the GPU: V2 prepares its batch there",
        (Target(_RUNNER_V2, "GPUModelRunner.prepare_inputs", since="0.12"),),
        _WORKER,
        optional=True,
    ),
    "vllm.worker.sample.v1": Hook(
        "the sampling of a step; part of execute_model before",
        (Target(_RUNNER_V1, "GPUModelRunner.sample_tokens", since="0.11.1"),),
        _WORKER,
        optional=True,
    ),
    "vllm.worker.sample.v2": Hook(
        "the sampling of a step",
        (Target(_RUNNER_V2, "GPUModelRunner.sample_tokens", since="0.12"),),
        _WORKER,
        optional=True,
    ),
    "vllm.worker.encode.v1": Hook(
        "the encoder's run in a step; encoders in CUDA graphs run below it",
        (Target(_RUNNER_V1, "GPUModelRunner._execute_mm_encoder"),),
        _WORKER,
    ),
    "vllm.worker.encode.v2": Hook(
        "the encoder's run in a step; V2 had none before",
        (Target(_ENCODER_V2, "EncoderRunner.execute_mm_encoder", since="0.15", takes=("mm_kwargs",)),),
        _WORKER,
        optional=True,
    ),
}

_OUTPUTS = "vllm.v1.engine.output_processor"
_SERVING_OLD = "vllm.entrypoints.openai.serving_"
_SERVING_NEW = "vllm.entrypoints.openai."
_CONNECTORS = (("vllm.multimodal.utils", "", "0.16"), ("vllm.multimodal.media.connector", "0.16", ""))
_PROCESSOR = "vllm.multimodal.processing.processor"
_API = ("api",)


def _serving(what: str, old: str, new: str, method: str) -> Hook:
    """Return the hook of an endpoint, whose module moved in 0.15."""
    takes = ("request", "raw_request")
    return Hook(
        what,
        (
            Target(_SERVING_OLD + old, method, until="0.15", takes=takes),
            Target(_SERVING_NEW + new + ".serving", method, since="0.15", takes=takes),
        ),
        _API,
    )


def _connector(what: str, method: str) -> Hook:
    targets = (
        Target(module, "MediaConnector." + method, since, until, takes=("media_io",))
        for module, since, until in _CONNECTORS
    )
    return Hook(what, tuple(targets), _API)


def _decoder(modality: str) -> Hook:
    """Return the hook of a modality's decoder, whose module moved in 0.15."""
    method = modality.capitalize() + "MediaIO.load_bytes"
    return Hook(
        "decoding of a downloaded %s" % modality,
        (
            Target("vllm.multimodal." + modality, method, until="0.15"),
            Target("vllm.multimodal.media." + modality, method, since="0.15"),
        ),
        _API,
    )


API_HOOKS: Dict[str, Hook] = {
    "vllm.http": Hook(
        "an HTTP request, before any task of it; of the web framework",
        (Target("starlette.applications", "Starlette.__call__", takes=("scope",)),),
        _API,
    ),
    "vllm.chat": _serving(
        "a chat call arrives, or ends refused",
        "chat", "chat_completion", "OpenAIServingChat.create_chat_completion",
    ),
    "vllm.completion": _serving(
        "a completion call arrives, or ends refused",
        "completion", "completion", "OpenAIServingCompletion.create_completion",
    ),
    "vllm.responses": _serving(
        "a call of the responses API arrives, or ends refused",
        "responses", "responses", "OpenAIServingResponses.create_responses",
    ),
    "vllm.add_request": Hook(
        "the engine client takes a request, or refuses it",
        (Target("vllm.v1.engine.async_llm", "AsyncLLM.add_request", takes=("request_id",)),),
        _API,
    ),
    "vllm.add_request_offline": Hook(
        "the offline LLM takes a request, or refuses it",
        (Target("vllm.v1.engine.llm_engine", "LLMEngine.add_request", takes=("request_id",)),),
        _API,
    ),
    "vllm.load_media": _connector("whose media a pool's thread decodes", "load_from_url_async"),
    "vllm.fetch_media": Hook(
        "a download",
        (Target("vllm.connections", "HTTPConnection.async_get_bytes"),),
        _API,
    ),
    "vllm.decode_data_url": _connector("decoding of a data: URL", "_load_data_url"),
    "vllm.decode_file_url": _connector("reading and decoding of a local file", "_load_file_url"),
    "vllm.decode_image": _decoder("image"),
    "vllm.decode_video": _decoder("video"),
    "vllm.decode_audio": _decoder("audio"),
    "vllm.process_media": Hook(
        "a run of the multimodal processor",
        (
            Target("vllm.multimodal.processing", "BaseMultiModalProcessor.apply", until="0.15", takes=("mm_data",)),
            Target(_PROCESSOR, "BaseMultiModalProcessor.apply", "0.15", "0.16", takes=("mm_data",)),
            Target(_PROCESSOR, "BaseMultiModalProcessor.apply", "0.16", "0.17", takes=("mm_items",)),
            Target(_PROCESSOR, "BaseMultiModalProcessor.apply", "0.17", takes=("inputs",)),
        ),
        _API,
    ),
    "vllm.processor_cache": Hook(
        "which items the multimodal processor's cache holds",
        (
            Target(
                "vllm.multimodal.processing", "BaseMultiModalProcessor._get_cache_missing_items",
                until="0.15", takes=("mm_hashes",),
            ),
            Target(
                _PROCESSOR, "BaseMultiModalProcessor._get_cache_missing_items",
                since="0.15", takes=("mm_hashes",),
            ),
        ),
        _API,
    ),
    "vllm.hand_over": Hook(
        "a sequence goes to the engine",
        (Target(_OUTPUTS, "OutputProcessor.add_request", takes=("request", "parent_req")),),
        _API,
    ),
    "vllm.outputs": Hook(
        "outputs of a step: first tokens and ends",
        (Target(_OUTPUTS, "OutputProcessor.process_outputs", takes=("engine_core_outputs",)),),
        _API,
    ),
    "vllm.abort": Hook(
        "sequences are aborted",
        (Target(_OUTPUTS, "OutputProcessor.abort_requests", takes=("request_ids",)),),
        _API,
    ),
    "vllm.engine_died": Hook(
        "all requests fail",
        (Target(_OUTPUTS, "OutputProcessor.propagate_error"),),
        _API,
    ),
}  # fmt: skip

_SCHEDULER = "vllm.v1.core.sched.scheduler"
_ENGINE = ("engine",)
SCHEDULER_HOOKS: Dict[str, Hook] = {
    "vllm.scheduler.add": Hook(
        "a request comes to the scheduler",
        (Target(_SCHEDULER, "Scheduler.add_request", takes=("request",)),),
        _ENGINE,
    ),
    "vllm.scheduler.schedule": Hook(
        "a step is composed; the argument that came with 0.24 is not read",
        (Target(_SCHEDULER, "Scheduler.schedule"),),
        _ENGINE,
    ),
    "vllm.scheduler.update": Hook(
        "a step has ended",
        (Target(_SCHEDULER, "Scheduler.update_from_output", takes=("scheduler_output",)),),
        _ENGINE,
    ),
    "vllm.scheduler.free": Hook(
        "a request leaves the scheduler",
        (Target(_SCHEDULER, "Scheduler._free_request", takes=("request",)),),
        _ENGINE,
    ),
}

HOOKS: Dict[str, Hook] = {**API_HOOKS, **SCHEDULER_HOOKS, **WORKER_HOOKS}
