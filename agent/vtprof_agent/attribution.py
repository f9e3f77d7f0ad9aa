"""GPU time of a step, split over the requests in it: integer shares that add up to the whole.

The encoder's part goes by patches, prefill by tokens, decode alike; between the classes a fit on work decides, and while
there is none, tokens (a decoding request counts one, and its drafts where they are told).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vtprof_schemas import names


@dataclass(frozen=True)
class Shares:
    """One step's GPU time by encode part and by token holder (prefills, then decoding), in the order given, ns."""

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
    if usable.count(usable[0]) == len(usable):  # as in most steps
        share, left = divmod(total, len(usable))
        return [share + 1] * left + [share] * (len(usable) - left)
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
    prefill_tokens: Sequence[int],
    decoding: Sequence[int],
    requests: int,
    fractions: tuple[float, float, float] | None = None,
) -> Shares:
    """Split a step's GPU time: the encoder's over ``patches``, the rest over prefill tokens and decoding requests.

    ``fractions`` are what a fit on work says of encode, prefill and decode. Without it, or where it gives nothing to work
    that is there, the encoder's share of the wall time stands in for its GPU time if that is unknown, and between
    prefill and decode the split is by tokens; the quality is then ``estimated``. Of a step with one request the whole is
    ``measured``.
    """
    quality = names.QUALITY_MEASURED if requests == 1 else names.QUALITY_ATTRIBUTED
    beside = bool(prefill_tokens or decoding)
    if not patches:
        encode_part = 0
    elif not beside:
        encode_part = gpu_ns
    elif encode_gpu_ns is not None:
        encode_part = min(encode_gpu_ns, gpu_ns)
    elif fractions is not None and 0.0 < fractions[0] < 1.0:
        encode_part = round(gpu_ns * fractions[0])
        quality = names.QUALITY_ATTRIBUTED
    else:
        encode_part = round(gpu_ns * min(max(encode_wall_ratio or 0.0, 0.0), 1.0))
        quality = names.QUALITY_ESTIMATED
    rest = gpu_ns - encode_part
    if not (prefill_tokens and decoding):
        token_ns = largest_remainder(rest, [*prefill_tokens, *decoding])
    elif fractions is not None and min(fractions[1:]) > 0.0:
        prefill_part = round(rest * fractions[1] / (fractions[1] + fractions[2]))
        token_ns = largest_remainder(prefill_part, prefill_tokens)
        token_ns += largest_remainder(rest - prefill_part, decoding)
    else:
        token_ns = largest_remainder(rest, [*prefill_tokens, *decoding])
        quality = names.QUALITY_ESTIMATED
    return Shares(tuple(largest_remainder(encode_part, patches)), tuple(token_ns), quality)
