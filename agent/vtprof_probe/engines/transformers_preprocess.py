"""Hooks around processors and image decoding, and the outputs that wait for their ``generate`` call."""

import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Deque, Dict, Optional, Tuple

from vtprof_probe.engines.transformers_calls import Preprocessing
from vtprof_probe.engines.transformers_media import image_pixels
from vtprof_probe.recorder import Recorder

MAX_PENDING = 64
"""Processor outputs remembered until they are used; servers that prepare more at once lose the oldest."""


class _Pending:
    """One processor output. Compared by identity: weak references compare the tensors they point to."""

    __slots__ = ("device", "ids", "ran", "shape", "thread")

    def __init__(self, ids: Any, ran: Preprocessing) -> None:
        self.ids = weakref.ref(ids)
        self.shape = tuple(ids.shape)
        self.device = _device(ids)
        self.thread = threading.get_ident()
        self.ran = ran


class PreprocessHooks(threading.local):
    """What this thread's processor call has done so far. ``cpu_ns`` is CPU time of this thread alone.

    Threads that a processor starts itself are not in it, nor is anything of other requests.
    """

    depth = 0
    decoding = 0
    decode_ns = 0
    start_ns = 0
    start_cpu_ns = 0
    images: Any = None

    def __init__(self, recorder: Recorder, pending: "PendingInputs") -> None:
        self._recorder = recorder
        self._pending = pending

    def processor_begins(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Note the start of the outermost call; the innermost one knows the images."""
        if not self.depth:
            self.images, self.decode_ns = None, 0
            self.start_ns, self.start_cpu_ns = self._recorder.now(), time.thread_time_ns()
        if self.images is None:
            images = kwargs.get("images")
            if images is None and args and not _is_text(args[0]):
                images = args[0]
            self.images = images
        self.depth += 1
        return True

    def processor_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Remember the call's cost beside its output, until ``generate`` gets that."""
        self.depth -= 1
        if self.depth:
            return
        images, self.images = self.images, None
        ids = _input_ids(result)
        if error is not None or ids is None:
            return
        end_ns, cpu_ns = self._recorder.now(), time.thread_time_ns() - self.start_cpu_ns
        pixels, by_row = image_pixels(images)
        ran = Preprocessing(self.start_ns, end_ns, cpu_ns, self.decode_ns, pixels, by_row)
        self._pending.add(_Pending(ids, ran))

    def decoding_begins(self, image: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Optional[int]:
        """Note the start of decoding within a processor call."""
        if not self.depth:
            return None
        self.decoding += 1
        return self._recorder.now()

    def decoding_ends(self, start_ns: int, result: Any, error: Optional[BaseException]) -> None:
        """Add the outermost decoding to the call's."""
        self.decoding -= 1
        if not self.decoding:
            self.decode_ns += self._recorder.now() - start_ns


class PendingInputs:
    """Processor outputs that no ``generate`` call took yet, at most ``MAX_PENDING``."""

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):
            # A fork while another thread holds the lock would leave it held in the child for ever.
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Deque[_Pending] = deque(maxlen=MAX_PENDING)
        self._used: Deque["weakref.ref[Any]"] = deque(maxlen=MAX_PENDING)

    def add(self, pending: _Pending) -> None:
        """Remember one."""
        with self._lock:
            self._waiting.append(pending)

    def take(self, ids: Any) -> Optional[Preprocessing]:
        """Return and forget the processor run that made ``ids``; a second ``generate`` of the same ids gets None.

        The same tensor is certain. Moved to another device it is another tensor: then the newest of this thread with that
        shape, or the only one of all threads.
        """
        shape, thread, device = tuple(ids.shape), threading.get_ident(), _device(ids)
        with self._lock:
            found = [entry for entry in self._waiting if entry.ids() is ids]
            if not found and not any(used() is ids for used in self._used):
                moved = [entry for entry in self._waiting if entry.shape == shape and entry.device != device]
                mine = [entry for entry in moved if entry.thread == thread]
                found = mine or (moved if len(moved) == 1 else [])
            if not found:
                return None
            self._waiting.remove(found[-1])
            self._used.append(weakref.ref(ids))
            return found[-1].ran


def _device(ids: Any) -> str:
    return str(getattr(ids, "device", ""))


def _is_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and _is_text(value[0])
    return isinstance(value, (str, dict))


def _input_ids(result: Any) -> Any:
    """Return the ids in a processor's output: a mapping, or the bare tensor of a chat template."""
    ids = result
    if hasattr(result, "keys"):
        ids = result.get("input_ids")
    return ids if len(getattr(ids, "shape", ())) == 2 else None
