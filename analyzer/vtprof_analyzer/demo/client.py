"""The demo's client: sends a fixed mix of requests and keeps its own books of what it sent and when.

Its counts come from what it drew and typed and from the model family's published resize rule, computed here on its
own. They are the ground truth that the report is tested against (`ground_truth.json`).
"""

import base64
import io
import json
import math
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from vtprof_analyzer.demo import tiny_model
from vtprof_schemas.errors import BackendError

GROUND_TRUTH_FILE: Final = "ground_truth.json"
TIMEOUT_S: Final = 300
SHUFFLE_SEED: Final = 7
KV_BYTES_PER_TOKEN: Final = (
    2 * tiny_model.LAYERS * tiny_model.KV_HEADS * tiny_model.HEAD_DIM * tiny_model.KV_BYTES_PER_VALUE
)
"""A key and a value for each layer and KV head."""


@dataclass(frozen=True)
class Picture:
    """An image to be drawn: height and width in pixels, and what tells its content from another's."""

    height: int
    width: int
    seed: int


@dataclass(frozen=True)
class Conversation:
    """One request: so many bytes of text, and pictures before it."""

    text_bytes: int
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Call:
    """One HTTP call; several conversations are a batch that the server pads."""

    kind: str
    conversations: tuple[Conversation, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class SentRequest:
    """What the client knows of one request. Times of a batch are those of its call."""

    index: int
    call: int
    kind: str
    batch: int
    text_tokens: int
    visual_tokens: int
    input_tokens: int
    output_tokens: int
    images: int
    pixels: int
    kv_bytes: int
    sent_monotonic_ns: int
    received_monotonic_ns: int
    sent_unix_nano: int
    received_unix_nano: int


def workload() -> list[Call]:
    """Return the calls of the demo, always the same, in an order that mixes the kinds."""
    large = [
        (896, 1120),
        (1080, 1440),
        (784, 1064),
        (960, 1280),
        (1120, 896),
        (1200, 800),
        (840, 1176),
        (1000, 1000),
    ]
    small = [(168, 224), (224, 336), (40, 40), (300, 200), (240, 320), (196, 196), (320, 240), (112, 448)]
    repeated = Picture(720, 960, seed=1000)
    calls = [Call("text", (Conversation(40 + 190 * n),), 64) for n in range(8)]
    calls += [
        Call("small image", (Conversation(30 + 7 * n, (Picture(h, w, n),)),), 48)
        for n, (h, w) in enumerate(small)
    ]
    calls += [
        Call("large image", (Conversation(25 + 11 * n, (Picture(h, w, 100 + n),)),), 40)
        for n, (h, w) in enumerate(large)
    ]
    calls += [
        Call(
            "several images",
            (Conversation(60 + n, tuple(Picture(420, 420 + 84 * m, 10 * n + m) for m in range(3))),),
            40,
        )
        for n in range(4)
    ]
    calls += [Call("repeated image", (Conversation(20 + 15 * n, (repeated,)),), 40) for n in range(4)]
    for n in range(2):
        batch = (
            Conversation(35 + n, (Picture(336, 448, 500 + n),)),
            Conversation(400),
            Conversation(12, (Picture(224, 224, 510 + n), Picture(448, 336, 520 + n))),
            Conversation(90 + n, (Picture(560, 560, 530 + n),)),
        )
        calls.append(Call("batch", batch, 32))
    random.Random(SHUFFLE_SEED).shuffle(calls)
    return calls


def count_requests(calls: Sequence[Call]) -> int:
    """Return how many requests the calls hold."""
    return sum(len(call.conversations) for call in calls)


def resized(height: int, width: int) -> tuple[int, int]:
    """Return the size that the Qwen2-VL family resizes an image to: multiples of 28 within its pixel budget."""
    side = tiny_model.TOKEN_PIXELS
    rows, columns = round(height / side), round(width / side)
    if rows * columns * side**2 > tiny_model.MAX_IMAGE_PIXELS:
        shrink = math.sqrt(height * width / tiny_model.MAX_IMAGE_PIXELS)
        rows = max(1, math.floor(height / shrink / side))
        columns = max(1, math.floor(width / shrink / side))
    elif rows * columns * side**2 < tiny_model.MIN_IMAGE_PIXELS:
        grow = math.sqrt(tiny_model.MIN_IMAGE_PIXELS / (height * width))
        rows, columns = math.ceil(height * grow / side), math.ceil(width * grow / side)
    return rows * side, columns * side


def visual_tokens(picture: Picture) -> int:
    """Return the positions of the language model that a picture fills: one for each 28 x 28 pixels."""
    height, width = resized(picture.height, picture.width)
    return (height // tiny_model.TOKEN_PIXELS) * (width // tiny_model.TOKEN_PIXELS)


def text_tokens(conversation: Conversation) -> int:
    """Return the text positions: a byte each, the template's own, and two tags around each picture."""
    tags = tiny_model.TAG_TOKENS_PER_IMAGE * len(conversation.pictures)
    return len(_text(conversation).encode()) + tiny_model.TEMPLATE_TOKENS + tags


def draw(picture: Picture) -> bytes:
    """Draw a picture (gradients and a few rectangles, by its seed) and return it as PNG."""
    import numpy as np
    from PIL import Image

    random_numbers = np.random.default_rng(picture.seed)
    rows, columns = np.mgrid[0 : picture.height, 0 : picture.width]
    slopes = random_numbers.integers(1, 5, 3)
    pixels = np.stack([(rows * slope // 4 + columns // slope) % 256 for slope in slopes], axis=-1).astype(
        np.uint8
    )
    for _ in range(6):
        top, left = random_numbers.integers(0, picture.height), random_numbers.integers(0, picture.width)
        pixels[top : top + picture.height // 5, left : left + picture.width // 5] = random_numbers.integers(
            0, 256, 3
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def run_workload(
    base_url: str,
    output: Path,
    progress: Callable[[int, int], None] | None = None,
    calls: Sequence[Call] | None = None,
) -> list[SentRequest]:
    """Send the calls one after the other, write `ground_truth.json` to the folder `output`, return its requests.

    `progress(done, total)` is told the requests that were answered. Raises BackendError when the server fails.
    """
    calls = workload() if calls is None else calls
    total = count_requests(calls)
    sent: list[SentRequest] = []
    report = progress or _say_nothing
    report(0, total)
    for number, call in enumerate(calls):
        sent += _send(base_url, call, number, len(sent))
        report(len(sent), total)
    output.mkdir(parents=True, exist_ok=True)
    (output / GROUND_TRUTH_FILE).write_text(json.dumps(ground_truth(sent), indent=1) + "\n")
    return sent


def _say_nothing(_done: int, _total: int) -> None:
    pass


def ground_truth(sent: Sequence[SentRequest]) -> dict[str, Any]:
    """Return what the client knows as one document: model, totals, requests in the order sent."""
    summed = ("text_tokens", "visual_tokens", "input_tokens", "output_tokens", "images", "pixels", "kv_bytes")
    rows = [asdict(request) for request in sent]
    return {
        "model": tiny_model.MODEL_NAME,
        "kv_bytes_per_token": KV_BYTES_PER_TOKEN,
        "totals": {"requests": len(rows)} | {key: sum(row[key] for row in rows) for key in summed},
        "requests": rows,
    }


def _send(base_url: str, call: Call, number: int, first_index: int) -> list[SentRequest]:
    conversations = [
        [_text(conversation), [base64.b64encode(draw(picture)).decode() for picture in conversation.pictures]]
        for conversation in call.conversations
    ]
    body = json.dumps({"conversations": conversations, "max_new_tokens": call.max_new_tokens}).encode()
    sent_unix, sent = time.time_ns(), time.monotonic_ns()
    answer = _post(base_url + "/generate", body)
    received, received_unix = time.monotonic_ns(), time.time_ns()
    outputs = [len(ids) for ids in answer["output_ids"]]
    if outputs != [call.max_new_tokens] * len(call.conversations):
        raise BackendError(
            f"the demo's server answered {outputs} tokens instead of {call.max_new_tokens} each"
        )
    requests = []
    for place, conversation in enumerate(call.conversations):
        text, visual = (
            text_tokens(conversation),
            sum(visual_tokens(picture) for picture in conversation.pictures),
        )
        requests.append(
            SentRequest(
                index=first_index + place,
                call=number,
                kind=call.kind,
                batch=len(call.conversations),
                text_tokens=text,
                visual_tokens=visual,
                input_tokens=text + visual,
                output_tokens=outputs[place],
                images=len(conversation.pictures),
                pixels=sum(picture.height * picture.width for picture in conversation.pictures),
                # The last token is never fed back, so its keys and values are never computed.
                kv_bytes=(text + visual + outputs[place] - 1) * KV_BYTES_PER_TOKEN,
                sent_monotonic_ns=sent,
                received_monotonic_ns=received,
                sent_unix_nano=sent_unix,
                received_unix_nano=received_unix,
            )
        )
    return requests


def shut_down(base_url: str) -> None:
    """Ask the server to end. Raises BackendError when it cannot be reached."""
    _post(base_url + "/shutdown", b"{}")


def _post(url: str, body: bytes) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    # No proxy of the user's environment stands between two processes of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            document: dict[str, Any] = json.load(response)
            return document
    except urllib.error.HTTPError as error:
        raise BackendError(
            f"the demo's server refused {url}: {error.read().decode(errors='replace')}"
        ) from error
    except (OSError, ValueError) as error:
        raise BackendError(f"the demo's server at {url} does not answer ({error}); see its log") from error


def _text(conversation: Conversation) -> str:
    """Return `text_bytes` bytes of text, a two-byte letter among them where it fits."""
    words = "Größe und Farbe: what does the picture show, and where? "
    encoded = (words * (conversation.text_bytes // len(words) + 1)).encode()[: conversation.text_bytes]
    # A letter cut in half at the end would not be text: replace it by as many spaces.
    text = encoded.decode(errors="ignore")
    return text + " " * (conversation.text_bytes - len(text.encode()))
