"""GPU time of a step, split over the requests in it: integer shares that add up to the whole.

The encoder's part goes by patches, the rest by tokens (a decoding request counts one). A fit on work is left to the
analyzer: by tokens is what can be said without a model of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vtprof_schemas import names


@dataclass(frozen=True)
class Shares:
    """One step's GPU time by encode part and by token holder, in the order of the weights given, ns."""

    encode_ns: tuple[int, ...]
    token_ns: tuple[int, ...]
    quality: str


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Split an integer by weights: floors first, then one each to the largest remainders (ties: the earlier one).

    Without a positive weight all count alike. No weights, no shares.
    """
    if not weights:
        return []
    usable = [max(weight, 0) for weight in weights]
    whole = sum(usable)
    if whole == 0:
        usable, whole = [1] * len(weights), len(weights)
    shares = [total * weight // whole for weight in usable]
    remainders = [total * weight % whole for weight in usable]
    left = total - sum(shares)
    for index in sorted(range(len(usable)), key=lambda i: -remainders[i])[:left]:
        shares[index] += 1
    return shares


def split_step(
    gpu_ns: int,
    encode_gpu_ns: int | None,
    encode_wall_ratio: float | None,
    patches: Sequence[int],
    tokens: Sequence[int],
    requests: int,
) -> Shares:
    """Split a step's GPU time: ``encode_gpu_ns`` over ``patches``, the rest over ``tokens``.

    Where the encoder's own time is unknown its share of the step's wall time stands in and the quality is
    ``estimated``; of a step with one request the whole is ``measured``.
    """
    quality = names.QUALITY_MEASURED if requests == 1 else names.QUALITY_ATTRIBUTED
    if not patches:
        encode_part = 0
    elif not tokens:
        encode_part = gpu_ns
    elif encode_gpu_ns is not None:
        encode_part = min(encode_gpu_ns, gpu_ns)
    else:
        encode_part = round(gpu_ns * min(max(encode_wall_ratio or 0.0, 0.0), 1.0))
        quality = names.QUALITY_ESTIMATED
    return Shares(
        tuple(largest_remainder(encode_part, patches)),
        tuple(largest_remainder(gpu_ns - encode_part, tokens)),
        quality,
    )
