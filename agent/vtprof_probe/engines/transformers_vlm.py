"""Hooks for vision-language and audio-language models of Hugging Face transformers: what is hooked, and when.

Hooked: processor calls and image decoding (preprocess), ``get_<modality>_features`` (encode), ``forward`` (steps) and
``generate`` (requests) of decoders with an encoder for images, video or audio. Text-only and encoder-decoder models
pass through. Compiled code is not entered: there the compiled call as a whole is the step.
"""

import functools
import sys
from typing import Any, Callable, Dict, Iterator, Optional, Set, Tuple

from vtprof_probe.engines.transformers_generate import FEATURES, GenerateHooks, has_encoder
from vtprof_probe.engines.transformers_preprocess import PendingInputs, PreprocessHooks
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.hooks.targets import SET, WAITING
from vtprof_probe.recorder import Recorder

_PROCESSOR_CALLS = ("__call__", "apply_chat_template")
_IMAGE_LOAD, _PROCESSOR, _MODEL = "transformers.image_load", "transformers.processor", "transformers.model"


class _Account:
    """Tells of each hook whether it is set; one on classes is when it is on one of them."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._states: Dict[str, str] = {}
        for name in (_IMAGE_LOAD, _PROCESSOR, _MODEL):
            self._note(name, WAITING)

    def tell(self, name: str, done: bool, owner: Any, method: str) -> None:
        """Note a hook on a method; those on what models have are known once there is a model class."""
        state = SET if done else "%s.%s cannot be wrapped" % (getattr(owner, "__qualname__", owner), method)
        if self._states.get(name) not in (SET, state):
            self._note(name, state)

    def _note(self, name: str, state: str) -> None:
        self._states[name] = state
        self._recorder.note_hook(name, state)


def install(patches: Patches, watcher: ImportWatcher, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks as soon as the modules they belong to are imported; ``detach`` takes them all away."""
    pending = PendingInputs()
    account = _Account(recorder)
    preprocess = PreprocessHooks(recorder, pending)

    def hook_pillow(module: Any) -> None:
        done = patches.wrap(module.ImageFile, "load", preprocess.decoding_begins, preprocess.decoding_ends)
        account.tell(_IMAGE_LOAD, done, module.ImageFile, "load")

    def hook_processors(module: Any) -> None:
        hook = functools.partial(_hook_processor_class, patches, preprocess)

        def built(processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
            hook(type(processor))

        # The constructor meets every subclass before its first call, those too that are defined later.
        done = patches.wrap(module.ProcessorMixin, "__init__", built, _nothing)
        account.tell(_PROCESSOR, done, module.ProcessorMixin, "__init__")
        for known in _subclasses(module.ProcessorMixin):
            hook(known)

    def hook_models(module: Any) -> None:
        torch = sys.modules.get("torch")
        compiling = getattr(getattr(torch, "compiler", None), "is_compiling", None)
        if compiling is not None:
            patches.bypass = compiling
        generate = GenerateHooks(recorder, pending, detach, torch)
        hook = functools.partial(_hook_model_class, patches, generate, account, set())

        def built(model: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
            if has_encoder(model):
                hook(type(model))

        done = patches.wrap(module.PreTrainedModel, "post_init", built, _nothing)
        account.tell(_MODEL, done, module.PreTrainedModel, "post_init")
        patches.replace(module.PreTrainedModel, "get_compiled_call", generate.compiled_call)
        for known in _subclasses(module.PreTrainedModel):
            if any(hasattr(known, name) for name in FEATURES.values()):
                hook(known)

    watcher.when_imported("PIL.ImageFile", hook_pillow)
    watcher.when_imported("transformers.processing_utils", hook_processors)
    watcher.when_imported("transformers.modeling_utils", hook_models)


def _hook_processor_class(patches: Patches, preprocess: PreprocessHooks, cls: type) -> None:
    for owner in cls.__mro__:
        for name in _PROCESSOR_CALLS:
            if name in vars(owner):
                patches.wrap(owner, name, preprocess.processor_begins, preprocess.processor_ends)


def _hook_model_class(
    patches: Patches, hooks: GenerateHooks, account: _Account, known: Set[type], cls: type
) -> None:
    """Hook a class with an encoder: its encoders' methods, and, if it generates, its passes and calls."""
    if cls in known:
        return
    known.add(cls)
    for modality, name in FEATURES.items():
        for owner in cls.__mro__:
            if name in vars(owner):
                done = patches.wrap(
                    owner, name, hooks.features_begin, functools.partial(hooks.features_end, modality)
                )
                account.tell("transformers.encode_" + modality, done, owner, name)
    # `generate` tells the class that is called step by step from the bare model inside it.
    if hasattr(cls, "generate"):
        generating = next(owner for owner in cls.__mro__ if "generate" in vars(owner))
        done = patches.wrap(generating, "generate", hooks.generate_begins, hooks.generate_ends)
        account.tell("transformers.generate", done, generating, "generate")
        # A subclass that inherits its forward pass: hook the class it has it from.
        passing = next((owner for owner in cls.__mro__ if "forward" in vars(owner)), None)
        if passing is not None and (passing is cls or not passing.__module__.startswith("torch.")):
            done = patches.wrap(passing, "forward", hooks.forward_begins, hooks.forward_ends)
            account.tell("transformers.forward", done, passing, "forward")


def _subclasses(cls: Any) -> Iterator[type]:
    yield cls
    for subclass in type.__subclasses__(cls):
        yield from _subclasses(subclass)


def _nothing(token: Any, result: Any, error: Optional[BaseException]) -> None:
    """End of a hook that only looks in at the beginning."""
