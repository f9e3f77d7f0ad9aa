"""The known mix: requests whose tokens, encoder runs and cache hits are known before they are sent, by arithmetic."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

from workload import CALLER_SPAN_ID, CALLER_TRACE_ID, Case, Image, send

from vtprof_schemas import names

RESPONSE_PREFIX: Final = "chatcmpl-"
"""vLLM puts it before the caller's X-Request-Id."""
CHUNK_TOKENS: Final = 1024
"""Budget of a step: `--max-num-batched-tokens`."""
MAX_MODEL_TOKENS: Final = 4096
OPTIONS: Final = (
    *("--max-num-batched-tokens", str(CHUNK_TOKENS)),
    *("--max-num-seqs", "4"),
    *("--max-model-len", str(MAX_MODEL_TOKENS)),
)
UNSAMPLED_TRACE_ID: Final = "5cf92f3577b34da6a3ce929d0e0e4737"


class BrokenImage(Image):
    """What claims to be a PNG and is not."""

    def data_url(self) -> str:
        """Return a data: URL that no decoder takes."""
        return "data:image/png;base64,bm90IGFuIGltYWdl"


@dataclass(frozen=True)
class Known:
    """A case of the mix with what it makes the server do."""

    case: Case
    encoded: int = 0
    """Images that the encoder runs for: those it did not see in an earlier request."""
    encoder_hits: int = 0
    """Images whose prompt positions are computed, but whose embeddings are still in the encoder's cache."""
    processor_hits: int = 0
    """Images that the API server has preprocessed before."""
    status: str = names.STATUS_OK


@dataclass(frozen=True)
class Sent:
    """A case and what the API answered (see tests/fixtures/vllm/workload.py: ``send``)."""

    known: Known
    answer: dict[str, Any]
    id: str
    """What the request's span must be called."""


def _text(size: int, letter: str = "") -> str:
    """Return ASCII text of a known length; another length begins otherwise, so that no prefix is cached."""
    return f"{size:05d}{letter} tell me what happens here. ".ljust(size, "abcdefgh"[size % 8])[:size]


_LARGE = Image(1080, 1080, tint=40)
_SMALL = Image(112, 168, tint=10)

SEQUENTIAL: Final = (
    Known(Case("warm_up", _text(40), (Image(140, 140, tint=1),)), encoded=1),
    Known(Case("text_short", _text(64), stream=True)),
    Known(Case("text_long", _text(1500), max_tokens=16, stream=True)),
    Known(Case("text_greedy", _text(90), temperature=0.0, stream=True)),
    Known(Case("text_multibyte", "Größe? 猫, кошка. " * 4, stream=True)),
    Known(Case("one_token", _text(91), max_tokens=1, stream=True)),
    Known(Case("image_small", _text(50), (_SMALL,), stream=True), encoded=1),
    Known(Case("image_large", _text(51), (_LARGE,), stream=True), encoded=1),
    # The same prompt: all but its last block is in the prefix cache, so the image is not even looked up.
    Known(Case("same_prompt", _text(51), (_LARGE,), stream=True), processor_hits=1),
    # Behind another image: the prefix is new, the embeddings are in the encoder's cache.
    Known(
        Case("image_behind_other", _text(52), (Image(84, 84, tint=11), _LARGE), stream=True),
        encoded=1, encoder_hits=1, processor_hits=1,
    ),
    Known(Case("two_images", _text(53), (Image(224, 224, tint=20), Image(320, 480, tint=30)), stream=True), encoded=2),
    # Equal images in one prompt: preprocessed both, as neither is in the cache when it is asked; one run of the encoder.
    Known(
        Case("twice_in_one", _text(54), (Image(252, 196, tint=35),) * 2, stream=True),
        encoded=1, encoder_hits=1,
    ),
    Known(
        Case(
            "traceparent", _text(57), (Image(168, 168, tint=90),),
            headers={"traceparent": f"00-{CALLER_TRACE_ID}-{CALLER_SPAN_ID}-01"}, stream=True,
        ),
        encoded=1,
    ),
    # The second choice finds the first one's blocks, image and all, in the prefix cache.
    Known(Case("two_choices", _text(59), (Image(196, 196, tint=100),), n=2), encoded=1),
    Known(Case("aborted", _text(60), max_tokens=2000, stream=True, abort=True), status=names.STATUS_ABORTED),
    Known(Case("too_long", _text(5000)), status=names.STATUS_REJECTED),
    Known(Case("broken_image", _text(61), (BrokenImage(64, 64, tint=1),)), status=names.STATUS_REJECTED),
    Known(Case("image_only_last", _text(70), (Image(280, 56, tint=71),), stream=True), encoded=1),
)  # fmt: skip
"""Sent one after the other, each when the server is idle."""

CONCURRENT: Final = (
    Known(Case("concurrent", _text(200), max_tokens=40, stream=True)),
    Known(Case("concurrent", _text(55), (Image(300, 400, tint=50),), max_tokens=32, stream=True), encoded=1),
    Known(Case("concurrent", _text(56), (Image(700, 1000, tint=60),), max_tokens=24, stream=True), encoded=1),
    # More than the budget of a step, so in chunks, beside the decoding ones.
    Known(Case("chunked", _text(2500), max_tokens=16, stream=True)),
    Known(
        Case("chunked", _text(2300, "b"), (Image(1080, 1000, tint=80),), max_tokens=16, stream=True),
        encoded=1,
    ),
    Known(Case("concurrent", _text(1200), max_tokens=40, stream=True)),
)
"""Sent at the same moment; the server runs four at a time, so that two wait."""


def send_all(port: int) -> list[Sent]:
    """Send the whole mix to the server on ``port``."""
    return send_group(port, SEQUENTIAL, "s", threads=1) + send_group(port, CONCURRENT, "c", len(CONCURRENT))


def send_group(port: int, group: Iterable[Known], prefix: str, threads: int) -> list[Sent]:
    """Send cases, so many at a time, under ids of their own; return them with their answers, in their order."""
    group = list(group)
    cases = []
    for number, known in enumerate(group):
        name = f"{prefix}{number:03d}-{known.case.kind}"
        cases.append((known, name, with_id(known.case, name)))
    bodies = [case.body() for _, _, case in cases]  # made beforehand: large images would spread the sending
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(send, (case for _, _, case in cases), bodies, repeat(port)))
    return [
        Sent(known, answer, RESPONSE_PREFIX + name)
        for (known, name, _), answer in zip(cases, answers, strict=True)
    ]


def with_id(case: Case, name: str) -> Case:
    """Return the case under an id of the caller's, so that it is known also when the server answers none."""
    values = {field: getattr(case, field) for field in case.__dataclass_fields__}
    return Case(**{**values, "headers": {**case.headers, "X-Request-Id": name}})
