"""The ring between probe and agent: file layout, header and record layouts. Written by one, read by the other.

File (little endian, one per inference process, ``<ring dir>/<pid>-<start time ticks>.ring``)::

    0      fixed header, 128 bytes, written once, crc32 at its end
    128    control word (u64): the agent writes it, the probe reads it as a step begins, at most every 10 ms
    192    state block: closed flag and the writer's own counters
    256    clock anchor (sequence, crc32, monotonic ns, wall ns), refreshed
    320    info block (sequence, length, crc32) of the JSON text at INFO_OFFSET
    4096   JSON text: resource attributes of the process (keys of ``names.py``)
    65536  records: `capacity` slots of 128 bytes

Record: ``crc32 u32 | kind u16 | flags u16 | sequence u64 | payload 112 bytes``; the crc32 covers bytes 4..128.
Sequence numbers start at 1 and never repeat; record ``n`` lives in slot ``(n - 1) % capacity``. A slot that holds
sequence 0 was never written. A reader knows a complete record by the number it expects *and* the checksum, so that
neither a torn write nor a weakly ordered CPU can pass a bad one.

The mutable blocks carry their own crc32: a reader that meets a half-written one reads again.
A server of several processes writes several rings, one *family* (``names.FAMILY``). Within a family a request has one
number in all rings, ``names.request_number`` of the engine's internal id, and a step one number in the scheduler's ring
and in its workers'. Only processes of a server (engine vllm or sglang) are read as one; any other numbers its own from 1,
and is alone even where it inherited a family. Who writes what:

    api      REQUEST_ARRIVED, _LABEL, _PARENT, _INPUT, SEQUENCE, PREPROCESS (arrival to hand-over), FIRST_TOKEN,
             REQUEST_FINISHED
    engine   QUEUE (from the scheduler's first sight of a request; the reader lets the first one begin at the hand-over),
             ENCODE with items 0 (hits of the encoder cache), PREFILL, STEP, PREEMPTED, LEFT
    worker   ENCODE (each rank; the lowest one counts), GPU_TIME

Times are CLOCK_MONOTONIC nanoseconds. ``UNKNOWN`` (-1 in signed fields) marks what the engine does not tell.

A kind may get further fields at its end without a new layout version: an older reader does not see them, and in an older
writer's ring they are the zeros that fill a record up. So 0 in such a field has to mean unknown where it cannot be true.
"""

import struct
from typing import Dict, NamedTuple, Tuple

MAGIC = b"VTPROF\x00\x01"
LAYOUT_VERSION = 1
RECORD_BYTES = 128
PAYLOAD_BYTES = 112
HEADER_BYTES = 65536
DEFAULT_CAPACITY = 65536
"""Records; always a power of two, so that a slot is a mask away."""
MIN_CAPACITY = 64
MAX_CAPACITY = 1 << 20
"""128 MiB: what a reader may have to look through at once."""
RING_SUFFIX = ".ring"
UNKNOWN = -1

RECORD_PREFIX = struct.Struct("<HHQ")
"""kind, flags, sequence: follows the crc32."""
CRC = struct.Struct("<I")

SLOT = struct.Struct("<I%ds" % (RECORD_BYTES - CRC.size))
"""A whole record: the crc32 and what it covers."""

FIXED_HEADER = struct.Struct("<8sIIIIIiQq16s16sQ36x")
"""magic, layout version, header bytes, record bytes, capacity, pid, rank, start time ticks, created ns (monotonic),
boot id, role, inode of the PID namespace (0 unknown: without it a reader elsewhere cannot tell dead from unseen)."""
FIXED_HEADER_BYTES = 128
FIXED_CRC_OFFSET = FIXED_HEADER_BYTES - CRC.size

CONTROL_OFFSET = 128
CONTROL = struct.Struct("<Q")
CONTROL_DETAIL_MASK = 0x3
"""Detail level 0 (requests and phases only) to 3 (everything). Other bits are ignored unless named here."""
CONTROL_DETACH = 0x100
DETAIL_DEFAULT = 3

STATE_OFFSET = 192
STATE = struct.Struct("<QQQQ")
"""closed (1 after a clean end), records dropped by the writer, hook errors, probe time in ns."""

ANCHOR_OFFSET = 256
ANCHOR = struct.Struct("<Iqq")
"""crc32 of the two times, monotonic ns, wall ns (unix epoch)."""
ANCHOR_TIMES = struct.Struct("<qq")

INFO_BLOCK_OFFSET = 320
INFO_BLOCK = struct.Struct("<III")
"""version (grows by one), length in bytes, crc32 of the text."""
INFO_OFFSET = 4096
INFO_MAX_BYTES = HEADER_BYTES - INFO_OFFSET

VOID_CODE = 0
"""Kind of a record whose values did not fit: it holds its number, so that no reader waits for it. Not in ``KINDS``."""
LABEL_BYTES = 96
"""Longest request id that fits a record; a longer one is cut."""


class RecordKind(NamedTuple):
    """Layout of one kind of record: its code and the fields of its payload."""

    code: int
    name: str
    fields: Tuple[Tuple[str, str, str], ...]
    """(name, struct format, meaning with unit) of each field, in order."""
    packer: struct.Struct
    """Packs kind, flags, sequence and the fields into the 124 bytes behind the crc32."""
    meaning: str

    @property
    def field_names(self) -> Tuple[str, ...]:
        """Return the names of the payload's fields, in order."""
        return tuple(name for name, _, _ in self.fields)


KINDS: Dict[int, RecordKind] = {}


def _kind(code: int, name: str, meaning: str, *fields: Tuple[str, str, str]) -> RecordKind:
    body = "".join(fmt for _, fmt, _ in fields)
    used = struct.calcsize("<" + body)
    if used > PAYLOAD_BYTES or code in KINDS:
        raise ValueError("record kind does not fit: " + name)
    packer = struct.Struct("<HHQ" + body + "%dx" % (PAYLOAD_BYTES - used))
    kind = RecordKind(code, name, fields, packer, meaning)
    KINDS[code] = kind
    return kind


_REQUEST = ("request", "Q", "the process's own number of the request")
_STEP = ("step", "Q", "number of the engine iteration")
_START = ("start_ns", "q", "begin, monotonic ns")
_END = ("end_ns", "q", "end, monotonic ns")
_TIME = ("time_ns", "q", "when, monotonic ns")

REQUEST_ARRIVED = _kind(1, "request_arrived", "a request is known to the process", _REQUEST, _TIME)
REQUEST_LABEL = _kind(
    2, "request_label", "the caller's id of a request",
    _REQUEST, ("length", "H", "bytes of text that count"), ("text", "96s", "UTF-8"),
)  # fmt: skip
REQUEST_PARENT = _kind(
    3, "request_parent", "the caller's trace context (W3C traceparent)",
    _REQUEST, ("trace_id", "16s", ""), ("span_id", "8s", ""), ("trace_flags", "B", ""),
)  # fmt: skip
REQUEST_INPUT = _kind(
    4, "request_input", "the prompt, by modality",
    _REQUEST,
    ("input_tokens", "q", "tokens"), ("text_tokens", "q", "tokens"), ("image_tokens", "q", "tokens"),
    ("video_tokens", "q", "tokens"), ("audio_tokens", "q", "tokens"), ("cached_tokens", "q", "tokens in the prefix cache"),
    ("image_items", "q", "items"), ("video_items", "q", "items"), ("audio_items", "q", "items"),
)  # fmt: skip
PREPROCESS = _kind(
    5, "preprocess", "one run of the processor",
    _REQUEST, _START, _END,
    ("cpu_ns", "q", "CPU time of the work"), ("fetch_ns", "q", "media download"), ("decode_ns", "q", "media decoding"),
    ("pixels", "q", "pixels before resizing"), ("cache_hits", "q", "items from the processor cache"),
)  # fmt: skip
QUEUE = _kind(6, "queue", "the request waited to be scheduled", _REQUEST, _START, _END)
ENCODE = _kind(
    7, "encode", "the encoder ran for this request within a step; written before the step's own record",
    _STEP, _REQUEST, _START, _END,
    ("items", "q", "items encoded"), ("patches", "q", "patches into the tower"),
    ("attention_pairs", "q", "sum of patches squared per image"), ("cache_hits", "q", "items from the encoder cache"),
)  # fmt: skip
PREFILL = _kind(
    8, "prefill", "a chunk of this request's prompt ran in a step; written before the step's own record",
    _STEP, _REQUEST,
    ("tokens", "q", "prompt tokens computed"), ("visual_tokens", "q", "the image and video part"),
    ("context_tokens", "q", "tokens cached before the chunk"), ("cached_tokens", "q", "tokens found in the prefix cache"),
    ("attention_pairs", "q", "causal query-key pairs"), ("visual_attention_pairs", "q", "pairs whose query is visual"),
    ("last", "q", "1 when the prompt is complete after this chunk"),
)  # fmt: skip
STEP = _kind(
    9, "step", "one engine iteration ended",
    _STEP, _START, _END,
    ("prefill_tokens", "q", "prompt tokens computed"), ("decode_requests", "q", "requests that decoded"),
    ("decode_context_tokens", "q", "cached tokens read by decode"), ("decode_visual_tokens", "q", "the visual part"),
    ("encode_ns", "q", "wall time of the encoder in the step"),
    ("kv_used_tokens", "q", "tokens in the KV cache after the step"), ("kv_visual_tokens", "q", "the visual part"),
    ("kv_used_blocks", "i", "blocks in use"), ("running", "i", "requests being served"),
    ("waiting", "i", "requests in the queue"), ("preemptions", "i", "preemptions in the step"),
    ("decode_tokens", "q", "tokens computed by the requests that decoded; 0 beside such requests is unknown, too"),
)  # fmt: skip
GPU_TIME = _kind(
    10, "gpu_time", "GPU time of a step, known after its step record",
    _STEP, ("gpu_time_ns", "q", "GPU time of the step, encode included"), ("encode_gpu_time_ns", "q", "the encoder's part"),
)  # fmt: skip
FIRST_TOKEN = _kind(11, "first_token", "the first token of a request exists", _REQUEST, _TIME)
PREEMPTED = _kind(
    12, "preempted", "the request lost its KV and will be computed again", _REQUEST, _STEP, _TIME
)
TRANSFER = _kind(
    13, "transfer", "embeddings or KV of a request were moved",
    _REQUEST, _START, _END, ("bytes", "q", "bytes moved"), ("kind", "q", "0 embedding, 1 KV"),
)  # fmt: skip
REQUEST_FINISHED = _kind(
    14, "request_finished", "the request ended",
    _REQUEST, _TIME, ("status", "q", "index into names.STATUSES"), ("output_tokens", "q", "generated tokens"),
)  # fmt: skip
REQUEST_KV = _kind(
    15, "request_kv", "what the request's own cache held when it ended; without it the process's layout stands for it",
    _REQUEST,
    ("tokens", "q", "tokens in the cache, padding left out; 0 without a cache"), ("visual_tokens", "q", "the visual part"),
    ("bytes_per_token", "q", "bytes of one token over the full-attention layers, -1 unknown"),
    ("fixed_bytes", "q", "window, state and cross-attention caches"),
)  # fmt: skip
REQUEST_MODEL = _kind(
    16, "request_model", "the model of a request, in a process that runs several",
    _REQUEST, ("length", "H", "bytes of text that count"), ("text", "96s", "UTF-8"),
)  # fmt: skip

SEQUENCE = _kind(
    17, "sequence", "a request runs as several (n > 1), which the scheduler's records name and which count for it",
    ("sequence", "Q", "number that stands in the `request` field of records of this sequence"), _REQUEST,
)  # fmt: skip
LEFT = _kind(
    18, "left", "the scheduler let go of a request or sequence: it is in no later step; written behind its last step",
    _REQUEST, _STEP, _TIME, ("output_tokens", "q", "tokens generated for it"),
)  # fmt: skip

TRANSFER_KINDS: Tuple[str, ...] = ("embedding", "kv")

STEP_RANK_SHIFT = 48
"""A step number is ``data-parallel rank << 48 | the scheduler's own count``: unique among the engines of one server."""
STEP_COUNT_MASK = (1 << STEP_RANK_SHIFT) - 1
