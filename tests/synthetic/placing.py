"""Lay an iteration's encodes and chunks on the time line of its requests, each with its share of the device's time."""

from synthetic.life import Iteration, Piece


def place_work(iteration: Iteration) -> None:
    """Give the requests of a step their stretches of it.

    All that is encoded in a step is encoded together, first; the chunk of a request that had a part in it begins behind,
    those of the others with the step. Chunks that follow each other without a gap are one stretch.
    """
    start_ns, end_ns = iteration.start_ns, iteration.end_ns
    sole = len(iteration.chunks) + iteration.decode_requests == 1
    begins: dict[int, int] = {}
    shares = split(iteration.encode_ns, [encode.patches for encode in iteration.encodes])
    for encode, share in zip(iteration.encodes, shares, strict=True):
        until_ns = start_ns + iteration.encode_ns if encode.items else start_ns
        begins[encode.life.ask.number] = until_ns
        counts = {"items": encode.items, "patches": encode.patches, "hits": encode.hits}
        encode.life.pieces.append(Piece("encode", start_ns, until_ns, share, sole, counts))
    shares = split(iteration.prefill_ns, [chunk.end - chunk.begin for chunk in iteration.chunks])
    for chunk, share in zip(iteration.chunks, shares, strict=True):
        life = chunk.life
        begin_ns = begins.get(life.ask.number, start_ns)
        piece = life.pieces[-1]
        if piece.phase != "prefill" or piece.end_ns != begin_ns:
            cached = life.cached if life.last_index < 0 else 0
            counts = {"chunks": 0, "tokens": 0, "visual_tokens": 0, "cached_tokens": cached}
            piece = Piece("prefill", begin_ns, end_ns, 0, sole, counts)
            life.pieces.append(piece)
        piece.end_ns, piece.gpu_ns, piece.sole = end_ns, piece.gpu_ns + share, piece.sole and sole
        piece.counts["chunks"] += 1
        piece.counts["tokens"] += chunk.end - chunk.begin
        piece.counts["visual_tokens"] += chunk.held[1] + chunk.held[2]
        life.last_end_ns, life.last_index = end_ns, iteration.index


def split(amount: int, weights: list[int]) -> list[int]:
    """Divide an amount by weights into integers that add up to it, what is left over to the first ones."""
    total = sum(weights)
    if not total:
        return [0] * len(weights)
    shares = [amount * weight // total for weight in weights]
    rest = amount - sum(shares)
    for place, weight in enumerate(weights):
        if rest and weight:
            shares[place] += 1
            rest -= 1
    return shares
