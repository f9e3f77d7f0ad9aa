"""SGLang's hooks as data: where each target lies in which version, and which parameters the hook reads."""

from typing import Dict

from vtprof_probe.hooks.targets import Hook, Target

FIRST = "0.5.4"
"""Before it the overlap schedule ran the model in a thread of its own, beside the scheduler."""

_TOKENIZER = "sglang.srt.managers.tokenizer_manager"
_SCHEDULER = "sglang.srt.managers.scheduler"
_IO = "sglang.srt.managers.io_struct"
_PROCESSOR = "sglang.srt.multimodal.processors.base_processor"

HOOKS: Dict[str, Hook] = {
    "sglang.arrival": Hook(
        "a client's call reaches the tokenizer manager",
        (Target(_TOKENIZER, "TokenizerManager.generate_request", FIRST, takes=("obj", "request")),),
        ("api",),
    ),
    "sglang.batch_arrival": Hook(
        "a call of several prompts or samples has its ids",
        (Target(_TOKENIZER, "TokenizerManager._handle_batch_request", FIRST, takes=("obj",)),),
        ("api",),
    ),
    "sglang.normalize": Hook(
        "a call is refused before it has an id",
        (Target(_IO, "GenerateReqInput.normalize_batch_and_arguments", FIRST),),
        ("api",),
    ),
    "sglang.tokenize": Hook(
        "tokens and media items of a request, or its rejection",
        (Target(_TOKENIZER, "TokenizerManager._tokenize_one_request", FIRST, takes=("obj",)),),
        ("api",),
    ),
    "sglang.load_media": Hook(
        "media download and decoding",
        (Target(_PROCESSOR, "BaseMultimodalProcessor.load_mm_data", FIRST),),
        ("api",),
    ),
    "sglang.process_media": Hook(
        "the Hugging Face processor's CPU time",
        (Target(_PROCESSOR, "BaseMultimodalProcessor.process_mm_data", FIRST),),
        ("api",),
    ),
    "sglang.sample_id": Hook(
        "a sample of a request (n > 1) gets its own id",
        (Target(_IO, "GenerateReqInput.regenerate_rid", FIRST),),
        ("api",),
    ),
    "sglang.send": Hook(
        "hand-over of a request to the scheduler",
        (Target(_TOKENIZER, "TokenizerManager._send_one_request", FIRST, takes=("tokenized_obj",)),),
        ("api",),
    ),
    "sglang.send_batch": Hook(
        "hand-over of a batch to the scheduler",
        (Target(_TOKENIZER, "TokenizerManager._send_batch_request", FIRST, takes=("tokenized_objs",)),),
        ("api",),
    ),
    "sglang.output": Hook(
        "first token, finish reason and output tokens",
        # Before, the dispatcher below brought them.
        (Target(_TOKENIZER, "TokenizerManager._handle_batch_output", "0.5.11", takes=("recv_obj",)),),
        ("api",),
        optional=True,
    ),
    "sglang.results": Hook(
        "the scheduler's word that it dropped a request; up to 0.5.10 outputs too",
        # Its handlers are methods bound at start-up: on a running server only its own class can be hooked.
        (Target("sglang.utils", "TypeBasedDispatcher.__call__", FIRST, takes=("obj",)),),
        ("api",),
    ),
    "sglang.enqueue": Hook(
        "a request joins the waiting queue, anew after a retraction",
        (Target(_SCHEDULER, "Scheduler._add_request_to_queue", FIRST, takes=("req",)),),
        ("engine",),
    ),
    "sglang.retract": Hook(
        "requests that lose their KV",
        (Target("sglang.srt.managers.schedule_batch", "ScheduleBatch.retract_decode", FIRST),),
        ("engine",),
    ),
    "sglang.run_batch": Hook(
        "a step begins: who is in it",
        (Target(_SCHEDULER, "Scheduler.run_batch", FIRST, takes=("batch",)),),
        ("engine", "worker"),
    ),
    "sglang.batch_result": Hook(
        "a step ends: who is finished, what the KV cache holds",
        (Target(_SCHEDULER, "Scheduler.process_batch_result", FIRST, takes=("batch", "result")),),
        ("engine",),
    ),
    "sglang.forward": Hook(
        "the model's run of a step, for its GPU time",
        (Target("sglang.srt.model_executor.model_runner", "ModelRunner.forward", FIRST),),
        ("engine", "worker"),
    ),
    "sglang.embed": Hook(
        "media of a step are looked up in the encoder cache",
        (Target("sglang.srt.managers.mm_utils", "embed_mm_inputs", FIRST),),
        ("engine", "worker"),
    ),
}
