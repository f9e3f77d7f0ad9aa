"""Hooks around ``generate``, ``forward`` and the encoders: they find out what runs and feed the call's state machine."""

import functools
import threading
import weakref
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from vtprof_probe.engines.transformers_cache import cached_length, read_layout
from vtprof_probe.engines.transformers_calls import Encoding, GenerateCall, Preprocessing
from vtprof_probe.engines.transformers_info import describe, model_name
from vtprof_probe.engines.transformers_media import encoder_items, items_by_row, media_by_row
from vtprof_probe.engines.transformers_preprocess import PendingInputs
from vtprof_probe.engines.transformers_prompt import AUDIO, IMAGE, VIDEO, Prompt, output_tokens
from vtprof_probe.gpu_timer import GpuTimer
from vtprof_probe.hooks.patches import around, never
from vtprof_probe.recorder import DETAIL_FOREIGN_STEPS, Recorder
from vtprof_probe.request_context import current
from vtprof_schemas import names, records

FEATURES = {IMAGE: "get_image_features", VIDEO: "get_video_features", AUDIO: "get_audio_features"}

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]


class _Generating(NamedTuple):
    call: GenerateCall
    prompt_columns: int
    eos_ids: Sequence[int]
    pad_id: Optional[int]
    trim_pads: bool


_NESTED: Any = object()


class _Thread:
    """What a thread is in the middle of."""

    def __init__(self) -> None:
        self.call: Optional[GenerateCall] = None
        self.in_forward = False
        self.in_features = False
        self.nested = 0
        self.encode_ns = 0
        self.gpu: Optional[GpuTimer] = None


class _Local(threading.local):
    """Leads to this thread's own; looked up once in each hook."""

    def __init__(self) -> None:
        self.thread = _Thread()


class GenerateHooks:
    """The begin and end functions of the hooks on models."""

    def __init__(
        self, recorder: Recorder, pending: PendingInputs, detach: Callable[[], None], torch: Any
    ) -> None:
        self._recorder = recorder
        self._pending = pending
        self._detach = detach
        self._torch = torch
        self._local = _Local()
        self._described: "Optional[weakref.ref[Any]]" = None
        self._models: "weakref.WeakSet[Any]" = weakref.WeakSet()
        self._several_models = False
        self._cached_visual: "weakref.WeakKeyDictionary[Any, List[int]]" = weakref.WeakKeyDictionary()

    # --- generate ------------------------------------------------------------------------------------------

    def generate_begins(self, model: Any, args: Args, kwargs: Kwargs) -> Any:
        """Open the requests of a call; None for a call within another and for models that are not ours."""
        thread, recorder = self._local.thread, self._recorder
        if thread.call is not None and not thread.in_forward:
            # A call within a call, by the same model or an assistant: its steps are not the outer call's.
            thread.nested += 1
            return _NESTED
        if thread.in_forward or not recorder.active:
            return None
        ids: Any = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        # Prompts that are given as embeddings only cannot be counted; encoder-decoder models work in other phases.
        if not has_encoder(model) or getattr(ids, "ndim", 0) != 2 or ids.is_floating_point():
            return None
        now = recorder.now()
        if self._told_to_stop(now):
            return None
        self._describe(model)
        cache = kwargs.get("past_key_values")
        cached = 0 if cache is None else int(cache.get_seq_length())
        known = self._cached_visual.get(cache) if cached else None
        prompt = Prompt(ids, kwargs.get("attention_mask"), model.config, cached, known)
        ran = self._pending.take(ids)
        thread.gpu = self._timer(model)
        media = self._media(prompt, ran, kwargs, model)
        name = model_name(model) if self._several_models else None
        call = GenerateCall(recorder, model, prompt, now, ran, current(), thread.gpu, name)
        call.write_inputs(media)
        thread.call = call
        return _Generating(call, int(ids.shape[1]), *_endings(model, args, kwargs))

    def _media(
        self, prompt: Prompt, ran: Optional[Preprocessing], kwargs: Kwargs, model: Any
    ) -> Dict[str, Sequence[int]]:
        """Return the media items of each row by modality; none where the inputs are of a kind we cannot read."""
        media: Dict[str, Sequence[int]] = {}
        for modality in (IMAGE, VIDEO, AUDIO):
            known_rows, total = None, None
            if modality == IMAGE and ran is not None and ran.pixels:
                known_rows, total = ran.images_by_row, len(ran.pixels)
            try:
                items = len(encoder_items(modality, (), kwargs, model.config)) if total is None else total
                media[modality] = items_by_row(prompt, modality, items, known_rows)
            except Exception:
                self._recorder.fault()
        return media

    def generate_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Close the requests with what was generated."""
        thread, recorder = self._local.thread, self._recorder
        if token is _NESTED:
            thread.nested -= 1
            return
        call = token.call
        thread.nested = 0
        now = recorder.now()
        thread.call, thread.in_forward, thread.in_features = None, False, False
        if error is not None:
            wanted = isinstance(error, (KeyboardInterrupt, GeneratorExit, SystemExit))
            call.finish(now, names.STATUS_ABORTED if wanted else names.STATUS_ERROR, None)
            return
        outputs = None
        try:
            outputs = _outputs(token, result)
            if outputs is not None:
                call.sequences = max(len(getattr(result, "sequences", result)) // max(len(outputs), 1), 1)
        finally:
            call.finish(now, names.STATUS_OK, outputs)
        cache = getattr(result, "past_key_values", None)
        if cache is not None:
            self._cached_visual[cache] = call.prompt.visual
        recorder.publish_spent()

    # --- forward -------------------------------------------------------------------------------------------

    def forward_begins(self, model: Any, args: Args, kwargs: Kwargs) -> Any:
        """Begin a step; None within another forward pass and for another model, such as an assistant."""
        thread, recorder = self._local.thread, self._recorder
        call = thread.call
        if thread.in_forward or not recorder.active:
            return None
        if call is not None and (thread.nested or call.model is not model):
            return None
        shape = _query_shape(args, kwargs)
        if shape is None or (
            call is None and (recorder.detail < DETAIL_FOREIGN_STEPS or not has_encoder(model))
        ):
            return None
        now = recorder.now()
        if now >= recorder.control_due and self._told_to_stop(now):
            return None
        cache = kwargs.get("past_key_values")
        mark = None
        if call is not None:
            call.forward(now, shape[0], shape[1], cache)
            mark = None if thread.gpu is None else thread.gpu.mark()
        thread.in_forward = True
        thread.encode_ns = 0
        return thread, model, now, shape, cache, mark

    def forward_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Mark the end of the pass; its step runs on until the next one begins."""
        thread, model, start_ns, shape, cache, mark = token
        thread.in_forward = False
        if mark is not None and thread.gpu is not None:
            thread.gpu.add(mark, thread.gpu.mark(), encoder=False, nested=False)
        if error is not None:
            return
        call = thread.call
        if call is not None and not call.layout_read:
            self._read_layout(call, cache if cache is not None else getattr(result, "past_key_values", None))
        if call is None:
            self._foreign_step(model, start_ns, shape, cache, thread.encode_ns)

    def compiled_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``get_compiled_call`` so that the compiled function it returns is a step as a whole."""

        def get_compiled_call(model: Any, *args: Any, **kwargs: Any) -> Any:
            compiled = original(model, *args, **kwargs)
            if not has_encoder(model):
                return compiled

            def run(_model: Any, *args: Any, **kwargs: Any) -> Any:
                return compiled(*args, **kwargs)

            recorder = self._recorder
            step = around(run, self.forward_begins, self.forward_ends, recorder.fault, never, recorder.spent)
            return functools.partial(step, model)

        return get_compiled_call

    def _foreign_step(
        self, model: Any, start_ns: int, shape: Tuple[int, int], cache: Any, encode_ns: int
    ) -> None:
        """Record a forward pass outside ``generate``: a step without requests, whose modalities are not known."""
        recorder = self._recorder
        self._describe(model)
        rows, columns = shape
        total = cached_length(cache) or 0
        past = max(total - columns, 0)
        decodes = past > 0 and columns == 1
        recorder.write(
            records.STEP, next(recorder.step_numbers), start_ns, recorder.now(),
            0 if decodes else rows * columns, rows if decodes else 0, rows * past if decodes else 0,
            records.UNKNOWN if decodes else 0, encode_ns,
            rows * total, records.UNKNOWN, records.UNKNOWN, rows, 0, 0, rows if decodes else 0,
        )  # fmt: skip

    # --- Encoders ------------------------------------------------------------------------------------------

    def features_begin(self, model: Any, args: Args, kwargs: Kwargs) -> Any:
        """Begin an encoder run; None for the inner one of two that delegate."""
        thread = self._local.thread
        if thread.in_features or thread.nested or not self._recorder.active:
            return None
        mark = None if thread.gpu is None or thread.call is None else thread.gpu.mark()
        thread.in_features = True
        return thread, model, self._recorder.now(), args, kwargs, mark

    def features_end(self, modality: str, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Add the run to the step that it lies in."""
        thread, model, start_ns, args, kwargs, mark = token
        end_ns = self._recorder.now()
        thread.in_features = False
        thread.encode_ns += end_ns - start_ns
        if mark is not None and thread.gpu is not None:
            thread.gpu.add(mark, thread.gpu.mark(), encoder=True, nested=thread.in_forward)
        call = thread.call
        if error is None and call is not None:
            prompt, ran = call.prompt, call.preprocessing
            items = encoder_items(modality, args, kwargs, model.config)
            known = ran.images_by_row if ran is not None and modality == IMAGE else None
            total = len(ran.pixels) if ran is not None and modality == IMAGE and ran.pixels else len(items)
            rows = items_by_row(prompt, modality, total, known)
            call.encoded(Encoding(start_ns, end_ns, media_by_row(prompt, modality, items, rows)))

    # --- Around the model ----------------------------------------------------------------------------------

    def _told_to_stop(self, now: int) -> bool:
        if self._recorder.poll_control(now):
            self._detach()
            return True
        return False

    def _describe(self, model: Any) -> None:
        """Publish the model's description when it is another one than before."""
        if self._described is not None and self._described() is model:
            return
        self._described = weakref.ref(model)
        self._models.add(model)
        self._several_models = self._several_models or len(self._models) > 1
        info = describe(model)
        if self._several_models:
            # One header cannot describe steps of several models: better no physics than those of another model.
            info[names.MODEL_CONFIG] = ""
        self._recorder.set_info(info)

    def _read_layout(self, call: GenerateCall, cache: Any) -> None:
        """Read once a call what its own cache costs: caches differ by model, and by call."""
        call.layout_read, call.layout = True, read_layout(cache)
        if call.layout is not None:
            self._recorder.set_info(
                {
                    names.KV_BYTES_PER_TOKEN: call.layout.bytes_per_token,
                    names.KV_FIXED_BYTES: call.layout.fixed_bytes,
                    names.KV_DTYPE: call.layout.dtype,
                }
            )

    def _timer(self, model: Any) -> Optional[GpuTimer]:
        if model.device.type != "cuda":
            return None
        thread, recorder = self._local.thread, self._recorder
        if thread.gpu is None:
            new_event = functools.partial(self._torch.cuda.Event, enable_timing=True)
            thread.gpu = GpuTimer(new_event, lambda *values: recorder.write(records.GPU_TIME, *values))
        return thread.gpu


def has_encoder(model: Any) -> bool:
    """Tell whether a model is a decoder with an encoder for images, video or audio."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return False
    kinds = (type(model), type(getattr(model, "base_model", model)))
    return any(hasattr(kind, name) for kind in kinds for name in FEATURES.values())


def _query_shape(args: Args, kwargs: Kwargs) -> Optional[Tuple[int, int]]:
    """Return (rows, new columns) of a forward pass."""
    given = kwargs.get("input_ids")
    if given is None:
        given = args[0] if args and args[0] is not None else kwargs.get("inputs_embeds")
    shape: Tuple[int, ...] = getattr(given, "shape", ())
    return (int(shape[0]), int(shape[1])) if len(shape) >= 2 else None


def _endings(model: Any, args: Sequence[Any], kwargs: Kwargs) -> Tuple[List[int], Optional[int], bool]:
    """Return the EOS ids, the pad id, and whether rows may end without an EOS."""
    given = kwargs.get("generation_config", next(iter(list(args)[1:2]), None))
    configs = [config for config in (given, getattr(model, "generation_config", None)) if config is not None]

    def setting(name: str) -> Any:
        values = [kwargs.get(name)] + [getattr(config, name, None) for config in configs]
        return next((value for value in values if value is not None), None)

    eos = setting("eos_token_id")
    if hasattr(eos, "tolist"):
        eos = eos.tolist()
    eos_ids = (
        [int(value) for value in eos] if isinstance(eos, (list, tuple)) else [] if eos is None else [int(eos)]
    )
    pad = setting("pad_token_id")
    trim = any(setting(name) for name in ("stop_strings", "stopping_criteria", "max_time"))
    return eos_ids, int(pad) if isinstance(pad, int) else None, trim


def _outputs(token: _Generating, result: Any) -> Optional[List[int]]:
    """Count the generated tokens of each request; of several sequences for one request the sum."""
    sequences = getattr(result, "sequences", result)
    if getattr(sequences, "ndim", 0) != 2:
        return None
    counts = output_tokens(sequences[:, token.prompt_columns :], token.eos_ids, token.pad_id, token.trim_pads)
    rows = token.call.prompt.rows
    each = len(counts) // rows
    return [sum(counts[row * each : (row + 1) * each]) for row in range(rows)]
