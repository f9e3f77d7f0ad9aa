"""What phases of a synthetic day are told of the device: means over their part of their steps, as an agent does."""

import pytest

from synthetic.counters import Integrals
from synthetic.kernels import DECODE, ENCODE, PREFILL, Part, StepTime
from synthetic.life import Iteration, Life, Piece
from synthetic.scenarios import VISUAL

MS = 1_000_000
ENGINE = VISUAL.engines[0]


def part(ms: float, dram: float, tensor: float) -> Part:
    """Work of so many milliseconds that moves and computes such parts of what the device could."""
    s = ms / 1e3
    device = ENGINE.device
    return Part(seconds=s, flops=tensor * device.flops_per_s * s, bytes=dram * device.bytes_per_s * s)


def iteration(start_ms: int, end_ms: int, encode_ms: int, parts: dict[int, Part]) -> Iteration:
    encode, prefill, decode = (parts.get(phase, Part()) for phase in (ENCODE, PREFILL, DECODE))
    time = StepTime((encode, prefill, decode))
    return Iteration(
        0, start_ms * MS, end_ms * MS, (end_ms - start_ms) * MS, encode_ms * MS, 0, 0, [], [], 1, 0, 0, [], [], (0, 0, 0, 0),
        0, 1, 0, 0, False, time,
    )  # fmt: skip


def test_a_phase_has_its_part_of_its_steps_and_neither_another_part_nor_gaps() -> None:
    steps = [
        # 4 ms of the encoder; then 6 ms, a third of the compute by decode and the rest by prefill.
        iteration(
            0, 10, 4, {ENCODE: part(4, 0.1, 0.5), PREFILL: part(6, 0.2, 0.6), DECODE: part(6, 0.1, 0.3)}
        ),
        # After 10 ms of nothing a step of 4 ms that decodes alone.
        iteration(20, 24, 0, {DECODE: part(4, 0.8, 0.05)}),
    ]
    pieces = [
        Piece("queue", 0, 0),
        Piece("encode", 0, 4 * MS),
        Piece("prefill", 4 * MS, 10 * MS),
        Piece("prefill", 0, 10 * MS),
        Piece("decode", 0, 24 * MS),
        Piece("decode", 10 * MS, 24 * MS),
        # All its items were in the cache: no stretch of the encoder is its own.
        Piece("encode", 20 * MS, 20 * MS),
    ]
    life = Life.__new__(Life)
    life.pieces = pieces
    Integrals(ENGINE, steps).note([life])
    found = [None if piece.ratios is None else piece.ratios[:2] for piece in pieces]
    assert found == [
        None,
        pytest.approx((0.1, 0.5)),
        pytest.approx((0.3, 0.9)),
        pytest.approx((0.3, 0.9)),  # another's encoder ran in its first 4 ms
        pytest.approx(((6 * 0.3 + 4 * 0.8) / 10, (6 * 0.9 + 4 * 0.05) / 10)),
        pytest.approx((0.8, 0.05)),
        None,
    ]
