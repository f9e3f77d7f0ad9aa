"""Hooks around media download, media decoding and vLLM's multimodal processor, in whatever thread they run.

Downloads run in the asyncio task of their request, decoding in a pool's thread: there the `MediaIO` object, made for one
item, tells whose it is. The processor runs in yet another thread: its hashes of the items join it to the request.
"""

import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

from vtprof_probe.engines.transformers_media import image_pixels
from vtprof_probe.engines.vllm_shared import argument
from vtprof_probe.recorder import Recorder

MAX_RUNS = 256
"""Processor runs that wait for their request; one whose request was refused never gets it."""
MAX_LOADING = 4096


class Busy:
    """Time in which at least one of several overlapping activities ran."""

    __slots__ = ("depth", "ns", "start_ns")

    def __init__(self) -> None:
        self.depth = self.ns = self.start_ns = 0

    def begin(self, now_ns: int) -> None:
        """One more runs."""
        if not self.depth:
            self.start_ns = now_ns
        self.depth += 1

    def end(self, now_ns: int) -> None:
        """One less runs."""
        self.depth -= 1
        if not self.depth:
            self.ns += now_ns - self.start_ns


class MediaWork:
    """What the media of one client request cost before the processor."""

    __slots__ = ("cpu_ns", "decode", "fetch")

    def __init__(self) -> None:
        self.fetch, self.decode, self.cpu_ns = Busy(), Busy(), 0


class ProcessorRun(NamedTuple):
    """One run of the multimodal processor."""

    key: Tuple[str, ...]
    start_ns: int
    cpu_ns: int
    pixels: int
    cache_hits: int


class _Thread(threading.local):
    decoding = False
    cache_hits = 0


class MediaHooks:
    """Collects the work on media: by request where it is known, by the items' hashes where it is not."""

    def __init__(self, recorder: Recorder, current: Callable[[], Optional[MediaWork]]) -> None:
        """Prepare; ``current`` gives the work of the request whose task runs."""
        self._recorder, self._current = recorder, current
        self._lock = threading.Lock()
        self._loading: Dict[int, MediaWork] = {}
        self._runs: Deque[ProcessorRun] = deque(maxlen=MAX_RUNS)
        self._thread = _Thread()

    def load_begins(self, connector: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Remember whose item a `MediaIO` object loads."""
        work, media_io = self._current(), argument(args, kwargs, 1, "media_io")
        if work is None or media_io is None or len(self._loading) >= MAX_LOADING:
            return None
        self._loading[id(media_io)] = work
        # The token keeps the object while it loads, so that its id stays its own.
        return media_io

    def load_ends(self, media_io: Any, result: Any, error: Optional[BaseException]) -> None:
        """Forget it."""
        self._loading.pop(id(media_io), None)

    def fetch_begins(self, connection: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Note the begin of a download."""
        work = self._current()
        if work is not None:
            with self._lock:
                work.fetch.begin(self._recorder.now())
        return work

    def fetch_ends(self, work: MediaWork, result: Any, error: Optional[BaseException]) -> None:
        """Add a download."""
        with self._lock:
            work.fetch.end(self._recorder.now())

    def decode_begins(self, owner: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Note the begin of decoding: ``owner`` is the `MediaIO`, or the connector that hands a data URL to one."""
        media_io = argument(args, kwargs, 1, "media_io") or owner
        work = self._loading.get(id(media_io))
        if work is None or self._thread.decoding:
            return None
        self._thread.decoding = True
        with self._lock:
            work.decode.begin(self._recorder.now())
        return work, time.thread_time_ns()

    def decode_ends(self, token: Tuple[MediaWork, int], result: Any, error: Optional[BaseException]) -> None:
        """Add the outermost decoding of this thread."""
        work, cpu_ns = token
        self._thread.decoding = False
        with self._lock:
            work.decode.end(self._recorder.now())
            work.cpu_ns += time.thread_time_ns() - cpu_ns

    def process_begins(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Note the begin of a run of the processor, and the size of what it is given."""
        self._thread.cache_hits = 0
        # One object of all inputs since 0.17; before that the media were the second argument, under two names.
        inputs = argument(args, kwargs, 0, "inputs")
        media = getattr(inputs, "mm_data_items", None)
        if media is None:
            media = kwargs.get("mm_items", argument(args, kwargs, 1, "mm_data"))
        return self._recorder.now(), time.thread_time_ns(), _pixels(media)

    def process_ends(self, token: Tuple[int, int, int], result: Any, error: Optional[BaseException]) -> None:
        """Keep the run until its request is handed to the engine."""
        start_ns, cpu_ns, pixels = token
        if error is not None:
            return
        hashes = result.get("mm_hashes") or {}
        key = tuple(sorted(str(text) for texts in hashes.values() for text in texts))
        if key:
            cpu_ns = time.thread_time_ns() - cpu_ns
            with self._lock:
                self._runs.append(ProcessorRun(key, start_ns, cpu_ns, pixels, self._thread.cache_hits))

    def cache_asked(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> int:
        """Return how many items the processor looks up in its cache."""
        hashes = argument(args, kwargs, 2, "mm_hashes") or {}
        return sum(len(texts) for texts in hashes.values())

    def cache_answered(self, items: int, missing: Any, error: Optional[BaseException]) -> None:
        """Count the items that were there: the result is what is missing, since 0.12 behind a table of flags."""
        if error is None:
            missing = missing[1] if isinstance(missing, tuple) else missing
            self._thread.cache_hits = items - sum(missing.get_all_counts().values())

    def take(self, key: Tuple[str, ...]) -> Optional[ProcessorRun]:
        """Return and forget the oldest run over these items (their sorted hashes)."""
        with self._lock:
            found = next((run for run in self._runs if run.key == key), None)
            if found is not None:
                self._runs.remove(found)
        return found


def _pixels(media: Any) -> int:
    """Return the pixels of the images and video frames given to a processor, before any resizing."""
    total = 0
    for modality in ("image", "video"):
        items = media.get(modality) if hasattr(media, "get") else None
        if items is not None:
            count = getattr(items, "get_count", None)
            total += _raw_pixels(items) if count is None else sum(_area(items, i) for i in range(count()))
    return total


def _area(items: Any, index: int) -> int:
    """Return the pixels of one of vLLM's parsed items; 0 for embeddings and for items known by their hash alone."""
    size = getattr(items, "get_image_size", None) or getattr(items, "get_frame_size", None)
    frames = getattr(items, "get_num_frames", None)
    if size is None:
        return 0
    try:
        extent = size(index)
        return int(extent.width) * int(extent.height) * (1 if frames is None else int(frames(index)))
    except (ValueError, TypeError, AttributeError):
        return 0


def _raw_pixels(items: Any) -> int:
    """Return the pixels of media as the caller gave them: one or a list, a video as frames or (frames, metadata)."""
    if isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], dict):
        items = items[0]
    if isinstance(items, list):
        return sum(_raw_pixels(item) for item in items)
    return sum(image_pixels(getattr(items, "media", items))[0])
