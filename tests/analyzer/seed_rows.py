"""What the tests of the checklist's rows share: items in short form, and parameter counts written out by hand.

The formulas are of the published architectures and know nothing of the code under test.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.find import find_model
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.tokens.count import Counts, Item, count_items

HALF = Precision(2.0, 2.0, 2.0)
"""Two bytes for every value."""
Model = str | dict[str, Any]
"""A bundled name, or a config."""
Check = TypeVar("Check", bound=Callable[[], None])


def checks() -> tuple[dict[str, Callable[[], None]], Callable[[str], Callable[[Check], Check]]]:
    """Return an empty table of rows to their checks, and the decorator that enters a function in it."""
    table: dict[str, Callable[[], None]] = {}

    def row(name: str) -> Callable[[Check], Check]:
        assert name not in table, name

        def known(check: Check) -> Check:
            table[name] = check
            return check

        return known

    return table, row


def image(height: int, width: int | None = None) -> Item:
    return Item("image", height, height if width is None else width)


def clip(frames: int, height: int = 448, width: int = 448) -> Item:
    return Item("video", height, width, frames)


def sound(seconds: float) -> Item:
    return Item("audio", seconds=seconds)


def files(model: Model) -> ModelFiles:
    return find_model(model) if isinstance(model, str) else ModelFiles("fixture", model)


def changed(name: str, **parts: dict[str, Any]) -> ModelFiles:
    """Return a bundled model's files with fields of ``config``, ``preprocessor`` or ``processor`` changed."""
    given = files(name)
    new: dict[str, Any] = {part: {**(getattr(given, part) or {}), **fields} for part, fields in parts.items()}
    return dataclasses.replace(given, **new)


def spec(model: Model) -> ModelSpec:
    config = files(model).config
    assert config is not None
    return load_spec(config)


def count(model: Model, *items: Item) -> Counts:
    return count_items(files(model), items)


def tokens(model: Model, *items: Item) -> list[int]:
    return [counted.tokens for _, counted in count(model, *items).items]


def gated(
    width: int, ffn: int, layers: int, kv: int, vocab: int, *, bias: int = 0, tables: int = 2, query: int = 0
) -> int:
    """Count a decoder of the Llama kind: four projections, gate, up and down, two norms a layer; one norm at the end.

    ``bias`` is of one layer's projections, ``tables`` is 1 where embedding and head are one, ``query`` the query width.
    """
    query = query or width
    layer = 2 * width * query + 2 * width * kv + 3 * width * ffn + 2 * width + bias
    return tables * vocab * width + layers * layer + width


def transformer(width: int, ffn: int, layers: int, patch: int, positions: int, extra: int = 0) -> int:
    """Count a vision transformer: biases everywhere, two norms a layer, a position each; ``extra`` is what else it has."""
    layer = 4 * (width**2 + width) + 2 * width * ffn + ffn + width + 2 * 2 * width
    return layers * layer + 3 * patch**2 * width + positions * width + extra


def matrix(rows: int, columns: int) -> int:
    """Count a linear layer with its bias."""
    return rows * columns + columns


LLAMA_7B = gated(4096, 11008, 32, 4096, 32000)
QWEN2_7B = gated(3584, 18944, 28, 512, 152064, bias=3584 + 2 * 512)
# Class vector, norms in front and behind.
CLIP_L_224 = transformer(1024, 4096, 24, 14, 16**2 + 1, 1024 + 4 * 1024)
CLIP_L_336 = transformer(1024, 4096, 24, 14, 24**2 + 1, 1024 + 4 * 1024)
CLIP_H_448 = transformer(1280, 5120, 32, 14, 32**2 + 1, 1280 + 4 * 1280)
# Patch bias and the last norm; no pooling head.
SO400M_448 = transformer(1152, 4304, 27, 14, 32**2, 1152 + 2 * 1152)
# Class vector, patch bias, last norm.
EVA_G_224 = transformer(1408, 6144, 39, 14, 16**2 + 1, 1408 + 1408 + 2 * 1408)
# BERT-base: 12 layers of self-attention, 6 of them with cross-attention to 1408 values, one feed-forward, norms, 32 queries.
_SELF = 4 * matrix(768, 768) + 2 * 768
_CROSS = 2 * matrix(768, 768) + 2 * matrix(1408, 768) + 2 * 768
_FEED = matrix(768, 3072) + matrix(3072, 768) + 2 * 768
QFORMER = 12 * (_SELF + _FEED) + 6 * _CROSS + 2 * 768 + 32 * 768
# Two layers, each with cross-attention to the first one's 768 values; its own norm and queries, 32 frame positions.
VIDEO_QFORMER = 2 * (2 * _SELF + _FEED) + 2 * 768 + 32 * 768 + 32 * 768


def growth(model: Model, frames: int) -> str:
    """Name the token law of clips of ``frames``, twice and four times as many frames."""
    short, middle, long = tokens(model, clip(frames), clip(2 * frames), clip(4 * frames))
    if short == middle == long:
        return "fixed"
    return "linear" if long - middle == 2 * (middle - short) > 0 else "sub-linear"
