"""What really happened on a day, as tables. Times are by the true clock.

``requests``, a row each: times, tokens and preemptions; ``{phase}_ns`` over its whole life, ``ttft_{phase}_ns`` before
the first token; ``queue_{cause}_ns``: what its engine did while it queued until then (``capacity``: whatever ran in steps
that passed over waiting requests for want of room). What images cost a text request: ``shared_*``, in the steps that it
met, their time less that without visual work; ``visual_interference_*`` and ``interference_*``, its own time less that of
the same day with the images taken out, and without the image requests. ``sampling_ratio``: null where it was left out;
``recorded``: whether its root span arrived.
``steps``, a row a span: time of each part on the device, what bound it (``rival``: what came so near that either is
right; ``clear``: nothing did; ``held``: what held most of its kernels), the encoder and the language model apart
(``encode_*``, ``language_*``), and counters.
``kv``, a row an iteration: tokens held by modality. ``clocks``: by how much each host is ahead. ``faults``: spans lost
and doubled, and phases left without their request.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from synthetic.asks import IMAGE, MODALITIES, TEXT, VIDEO, Ask
from synthetic.folding import Folded
from synthetic.kernels import DECODE, ENCODE, PREFILL, Part
from synthetic.life import Iteration, Life, Piece
from synthetic.preprocess import Preprocessed
from synthetic.scenarios import BASE_NS, EngineSetup

PHASES = ("preprocess", "queue", "encode", "prefill", "decode")
CAUSES = ("image_encode", "image_prefill", "text_prefill", "decode_batch", "capacity")
"""What the engine did while a request waited; the rest is the gap between two steps."""
Row = dict[str, int | float | str | bool | None]


@dataclass(frozen=True)
class Served:
    """One engine's day."""

    setup: EngineSetup
    before: dict[int, Preprocessed]
    lives: list[Life]
    iterations: list[Iteration]


class Clockwork:
    """Running totals over an engine's time, so that the amount between any two moments is a difference of two look-ups."""

    def __init__(self, iterations: Sequence[Iteration]) -> None:
        """Sum up; within an iteration the encoder comes first, the rest is spread evenly."""
        times, amounts = [0], [[0.0] * (len(CAUSES) + 1)]
        for it in iterations:
            wall_ns, rest_ns = it.end_ns - it.start_ns, it.end_ns - it.start_ns - it.encode_ns
            tokens = sum(chunk.end - chunk.begin for chunk in it.chunks)
            visual = sum(chunk.held[1] + chunk.held[2] for chunk in it.chunks)
            language_ns = it.gpu_ns - it.encode_ns
            prefill = rest_ns * it.prefill_ns / language_ns if language_ns else 0.0
            image = prefill * visual / tokens if tokens else 0.0
            causes = [0.0, image, prefill - image, rest_ns - prefill, 0.0]
            encode = [float(it.encode_ns), 0.0, 0.0, 0.0, 0.0]
            if it.blocked:
                causes, encode = [0.0] * 4 + [float(rest_ns)], [0.0] * 4 + [float(it.encode_ns)]
            visual_rest = float(it.visual_ns - it.encode_ns)
            for at, step in (
                (it.start_ns, [0.0] * 6),
                (it.start_ns + it.encode_ns, [*encode, float(it.encode_ns)]),
                (it.start_ns + wall_ns, [*causes, visual_rest]),
            ):
                times.append(at)
                amounts.append([a + b for a, b in zip(amounts[-1], step, strict=True)])
        self._times = np.array(times, float)
        self._amounts = np.array(amounts)

    def between(self, begin_ns: NDArray[np.float64], end_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the nanoseconds of each cause, and last what visual work cost, between moments; a row each."""
        return np.stack(
            [
                np.interp(end_ns, self._times, column) - np.interp(begin_ns, self._times, column)
                for column in self._amounts.T
            ],
            axis=1,
        )


def request_table(served: Sequence[Served], refused: Iterable[tuple[Ask, Preprocessed]]) -> pl.DataFrame:
    """Return one row a request, of those that an engine refused, too."""
    rows: list[Row] = []
    for engine in served:
        clockwork = Clockwork(engine.iterations)
        own = [_request_row(life.ask, engine.before[life.ask.number], life) for life in engine.lives]
        _add_causes(own, engine.lives, clockwork)
        for row in own:
            row["engine"] = engine.setup.name
        rows += own
    rows += [_request_row(ask, before, None) for ask, before in refused]
    return pl.DataFrame(rows, infer_schema_length=None).sort("number")


def _request_row(ask: Ask, before: Preprocessed, life: Life | None) -> Row:
    first_ns = life.first_token_ns if life is not None else None
    end_ns = life.end_ns if life is not None and life.end_ns is not None else before.hand_over_ns
    pieces = [Piece("preprocess", ask.arrival_ns, before.hand_over_ns)]
    pieces += life.pieces if life is not None else []
    row: Row = {
        "number": ask.number,
        "request_id": f"chatcmpl-{ask.number}",
        "status": ask.status,
        "follows": ask.follows,
        "arrival_ns": BASE_NS + ask.arrival_ns,
        "end_ns": BASE_NS + end_ns,
        "input_tokens": ask.prompt,
        "output_tokens": life.generated if life is not None else None,
        "text_tokens": ask.tokens(TEXT),
        "image_tokens": ask.tokens(IMAGE),
        "video_tokens": ask.tokens(VIDEO),
        "cached_tokens": life.cached if life is not None else 0,
        "preemptions": life.preemptions if life is not None else 0,
        "ttft_ns": None if first_ns is None else first_ns - ask.arrival_ns,
        "tpot_ns": None,
    }
    for phase in PHASES:
        row[f"{phase}_ns"] = sum(p.end_ns - p.start_ns for p in pieces if p.phase == phase)
    row["unexplained_ns"] = end_ns - ask.arrival_ns - sum(_int(row[f"{phase}_ns"]) for phase in PHASES)
    if life is None or first_ns is None:
        return row
    if life.generated > 1:
        row["tpot_ns"] = (end_ns - first_ns) / (life.generated - 1)
    for phase in PHASES[:-1]:
        row[f"ttft_{phase}_ns"] = sum(
            p.end_ns - p.start_ns for p in pieces if p.phase == phase and p.end_ns <= first_ns
        )
    known = sum(_int(row[f"ttft_{phase}_ns"]) for phase in PHASES[:-1])
    row["ttft_unexplained_ns"] = first_ns - ask.arrival_ns - known
    return row


def _add_causes(rows: list[Row], lives: Sequence[Life], clockwork: Clockwork) -> None:
    """Add what held up each request in the queue before its first token, and what visual work of its steps cost it."""
    waits = [
        (place, piece.start_ns, piece.end_ns)
        for place, life in enumerate(lives)
        for piece in life.pieces
        if piece.phase == "queue" and piece.end_ns <= (life.first_token_ns or 0)
    ]
    if not waits:
        return
    held = np.zeros((len(lives), len(CAUSES)))
    places, begins, ends = (np.array(column) for column in zip(*waits, strict=True))
    np.add.at(held, places, clockwork.between(begins, ends)[:, :-1])
    first = np.array([life.first_token_ns or 0 for life in lives])
    last = np.array([life.end_ns or 0 for life in lives])
    hand_over = np.array([life.before.hand_over_ns for life in lives])
    to_first = clockwork.between(hand_over, first)[:, -1]
    after = clockwork.between(first, last)[:, -1]
    for row, life, causes, ttft, rest in zip(rows, lives, held, to_first, after, strict=True):
        for cause, amount in zip(CAUSES, causes, strict=True):
            row[f"queue_{cause}_ns"] = float(amount)
        row["shared_ttft_ns"] = float(ttft)
        row["shared_tpot_ns"] = float(rest) / (life.generated - 1) if life.generated > 1 else None


def add_interference(requests: pl.DataFrame, lives: Iterable[Life], what: str) -> pl.DataFrame:
    """Add ``{what}_ttft_ns`` and ``{what}_tpot_ns`` of text requests: their times less those of another run."""
    rows: list[Row] = []
    for life in lives:
        first_ns, end_ns = life.first_token_ns or 0, life.end_ns or 0
        tpot_ns = (end_ns - first_ns) / (life.generated - 1) if life.generated > 1 else None
        rows.append(
            {"number": life.ask.number, "alone_ttft": first_ns - life.ask.arrival_ns, "alone_tpot": tpot_ns}
        )
    schema = {"number": pl.Int64, "alone_ttft": pl.Int64, "alone_tpot": pl.Float64}
    joined = requests.join(pl.DataFrame(rows, schema), on="number", how="left", maintain_order="left")
    return joined.with_columns(
        (pl.col("ttft_ns") - pl.col("alone_ttft")).alias(f"{what}_ttft_ns"),
        (pl.col("tpot_ns") - pl.col("alone_tpot")).alias(f"{what}_tpot_ns"),
    ).drop("alone_ttft", "alone_tpot")


def step_row(setup: EngineSetup, folded: Folded) -> Row:
    """Return the row of one step or window: the times of its parts, and what held each of them."""
    ridge, wall_s = setup.device.ridge, (folded.end_ns - folded.first.start_ns) / 1e9
    parts = folded.parts()
    language, whole = Part(), Part()
    for part in parts[PREFILL:]:
        language.add(part)
    for part in parts:
        whole.add(part)
    its = folded.iterations
    return {
        "engine": setup.name,
        "index": folded.first.index,
        "count": len(its),
        "start_ns": BASE_NS + folded.first.start_ns,
        "end_ns": BASE_NS + folded.end_ns,
        **_bounds("", whole, ridge),
        **_bounds("encode_", parts[ENCODE], ridge),
        **_bounds("language_", language, ridge),
        "prefill_bound": parts[PREFILL].bound(ridge),
        "decode_bound": parts[DECODE].bound(ridge),
        "overhead_share": whole.overhead_s / whole.seconds,
        "dram_ratio": whole.bytes / setup.device.bytes_per_s / wall_s,
        "tensor_ratio": whole.flops / setup.device.flops_per_s / wall_s,
        "encode_s": sum(it.encode_ns for it in its) / 1e9,
        "prefill_s": sum(it.prefill_ns for it in its) / 1e9,
        "decode_s": sum(it.decode_ns for it in its) / 1e9,
        "visual_s": sum(it.visual_ns for it in its) / 1e9,
        "preemptions": sum(it.preemptions for it in its),
        "flops": whole.flops,
        "bytes": whole.bytes,
    }


def _bounds(what: str, part: Part, ridge: float) -> Row:
    """Return what bound a part, what came near that, whether nothing did, and what held its kernels."""
    rival = part.rival(ridge)
    return {
        f"{what}bound": part.bound(ridge),
        f"{what}rival": rival,
        f"{what}clear": not rival,
        f"{what}held": part.held(),
    }


def kv_table(served: Sequence[Served]) -> pl.DataFrame:
    """Return what each engine's cache held in each of its iterations, by modality [tokens]."""
    tables = []
    for engine in served:
        its = engine.iterations
        levels = np.array([it.kv for it in its], np.int64).reshape(-1, len(MODALITIES))
        tables.append(
            pl.DataFrame(
                {
                    "engine": [engine.setup.name] * len(its),
                    "ts_ns": np.array([BASE_NS + it.start_ns for it in its], np.int64),
                    "end_ns": np.array([BASE_NS + it.end_ns for it in its], np.int64),
                    **{f"{name}_tokens": levels[:, place] for place, name in enumerate(MODALITIES)},
                    "blocks": np.array([it.kv_blocks for it in its], np.int64),
                }
            )
        )
    return pl.concat(tables)


def _int(value: int | float | str | bool | None) -> int:
    assert isinstance(value, int)
    return value
