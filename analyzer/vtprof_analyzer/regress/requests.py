"""What `compare` and `watch` work on: requests as columns, whatever they were read from, and runs of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

TTFT_PARTS: Final = ("preprocess", "queue", "encode", "transfer", "prefill", "unexplained")
"""They add up to the TTFT."""


@dataclass(frozen=True)
class Requests:
    """One entry a request, in order of start. A number that is not known is NaN; no number is infinite or negative."""

    ids: NDArray[Any]
    """Trace id, or the request id where there is none: evidence that a user can look up. Text."""
    start_ns: Integers
    """Arrival, Unix time [ns]."""
    model: Integers
    """Index into ``models``."""
    models: tuple[str, ...]
    """Served models by name; '' where none was recorded."""
    text_tokens: Floats
    visual_tokens: Floats
    audio_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    """Of the prompt, found in the KV prefix cache."""
    images: Floats
    """Images and videos in the prompt."""
    encoder_hit: Floats
    """Share of its media items found in the encoder's cache, 0 to 1; NaN for requests without media."""
    in_flight: Floats
    """Requests being served beside it, mean over its time, where it was recorded."""
    preprocess_ms: Floats
    queue_ms: Floats
    encode_ms: Floats
    transfer_ms: Floats
    prefill_ms: Floats
    unexplained_ms: Floats
    """TTFT less its other parts."""
    ttft_ms: Floats
    tpot_ms: Floats
    """Time per output token after the first."""
    kv_bytes: Floats
    weight: Floats
    """Requests that it stands for, as it was sampled; 1 where all were kept."""

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.start_ns)

    def select(self, chosen: Flags | Integers | slice) -> Self:
        """Return some of the requests, in the order of an index, or those of a mask."""
        columns = {one.name: getattr(self, one.name)[chosen] for one in fields(self) if one.name != "models"}
        return replace(self, **columns)


@dataclass(frozen=True)
class Run:
    """One run of one deployment: what a folder of traces, a table or a baseline's part holds."""

    label: str
    """What the user called it: a path, or baseline and number."""
    requests: Requests
    engine: str | None = None
    """Name and version, as "vllm 0.33.0"; several are joined with " + "."""
    device: str | None = None
    """As "1 x NVIDIA H200"."""
    settings: str | None = None
    """Data types and parallel sizes, as "bfloat16, KV fp8, TP 2", where recorded."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Requests or lines that are not in ``requests``, counted by reason, in words: "negative duration", "aborted"."""
    notes: tuple[str, ...] = ()
    """What else a user should know of the input, a line each."""


_FLOATS: Final = tuple(
    column.name for column in fields(Requests) if column.name not in ("ids", "start_ns", "model", "models")
)


def no_requests() -> Requests:
    """Return a table without requests."""
    floats: dict[str, Floats] = {name: np.empty(0) for name in _FLOATS}
    return Requests(
        ids=np.empty(0, dtype=str),
        start_ns=np.empty(0, dtype=np.int64),
        model=np.empty(0, dtype=np.int64),
        models=(),
        **floats,
    )


def joined(tables: Iterable[Requests]) -> Requests:
    """Return the requests of several tables in order of start; those of one time in the order given."""
    given = [table for table in tables if len(table)]
    if not given:
        return no_requests()
    if len(given) == 1 and (np.diff(given[0].start_ns) >= 0).all():
        return given[0]
    models: dict[str, int] = {}
    for table in given:
        for name in table.models:
            models.setdefault(name, len(models))
    renumbered: list[Integers] = [
        np.array([models[name] for name in table.models], dtype=np.int64)[table.model] for table in given
    ]
    floats = {name: np.concatenate([getattr(table, name) for table in given]) for name in _FLOATS}
    together = Requests(
        ids=np.concatenate([table.ids for table in given]),
        start_ns=np.concatenate([table.start_ns for table in given]),
        model=np.concatenate(renumbered),
        models=tuple(models),
        **floats,
    )
    return together.select(np.argsort(together.start_ns, kind="stable"))
