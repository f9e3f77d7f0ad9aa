"""Hooks around processors and image decoding, and the outputs that wait for their ``generate`` call."""

import threading
import time
import weakref
from collections import deque
from typing import Any, Deque, Dict, NamedTuple, Optional, Tuple

from vtprof_probe.engines.transformers_calls import Preprocessing
from vtprof_probe.engines.transformers_media import image_pixels
from vtprof_probe.recorder import Recorder

MAX_PENDING = 64
"""Processor outputs remembered until they are used; servers that prepare more at once lose the oldest."""


class _Pending(NamedTuple):
    ids: "weakref.ref[Any]"
    shape: Tuple[int, ...]
    thread: int
    ran: Preprocessing


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
        self._pending.add(_Pending(weakref.ref(ids), tuple(ids.shape), threading.get_ident(), ran))

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
        self._lock = threading.Lock()
        self._waiting: Deque[_Pending] = deque(maxlen=MAX_PENDING)

    def add(self, pending: _Pending) -> None:
        """Remember one."""
        with self._lock:
            self._waiting.append(pending)

    def take(self, ids: Any) -> Optional[Preprocessing]:
        """Return and forget the processor run that made ``ids``.

        The same tensor is certain. Moved to a device it is another one: then the newest of this thread with that shape,
        or the only one of all threads.
        """
        shape, thread = tuple(ids.shape), threading.get_ident()
        with self._lock:
            same = [entry for entry in self._waiting if entry.ids() is ids]
            alike = [entry for entry in self._waiting if entry.shape == shape]
            mine = [entry for entry in alike if entry.thread == thread]
            found = same[-1:] or mine[-1:] or (alike if len(alike) == 1 else [])
            for entry in found:
                self._waiting.remove(entry)
            return found[0].ran if found else None


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
