"""Non-negative least squares from the normal equations, for a handful of unknowns: Lawson and Hanson's active sets."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TOLERANCE: Final = 1e-10
_RIDGE: Final = 1e-12
"""Relative to the diagonal: keeps the matrix of columns that are multiples of each other invertible."""


def solve(gram: Array, moment: Array, start: Sequence[int] = ()) -> Array:
    """Return x >= 0 that minimises |Ax - b|, given A'A and A'b; columns that are zero get 0.

    ``start``: unknowns that are likely positive, as of the last solution; it only saves time. Columns are scaled to
    one, so units do not matter. Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    scaled = gram * inverse[:, None] * inverse
    target = moment * inverse
    scaled.ravel()[:: len(target) + 1] += _RIDGE  # its diagonal
    return _active_sets(scaled, target, norms > 0, start) * inverse


def _active_sets(gram: Array, moment: Array, usable: NDArray[np.bool_], start: Sequence[int]) -> Array:
    count = len(moment)
    x = np.zeros(count)
    passive = np.zeros(count, dtype=bool)
    tolerance = _TOLERANCE * max(float(np.abs(moment).max(initial=0.0)), 1e-300)
    if len(start):
        guess = np.zeros(count, dtype=bool)
        guess[list(start)] = True
        guess &= usable
        tried = _on(gram, moment, guess)
        if bool((tried[guess] > 0).all()):
            x, passive = tried, guess
    for _ in range(3 * count):
        gradient = moment - gram @ x
        gradient[passive | ~usable] = -np.inf
        best = int(gradient.argmax())
        if gradient[best] <= tolerance:
            break
        passive[best] = True
        tried = _on(gram, moment, passive)
        if tried[best] <= 0:  # rounding alone made it look better
            passive[best] = False
            break
        while bool((tried[passive] <= 0).any()):
            bad = passive & (tried <= 0)
            step = float((x[bad] / (x[bad] - tried[bad])).min())
            x = x + step * (tried - x)
            passive &= x > _TOLERANCE * max(float(x.max()), 1e-300)
            x[~passive] = 0.0
            tried = _on(gram, moment, passive)
        x = tried
    return x


def _on(gram: Array, moment: Array, chosen: NDArray[np.bool_]) -> Array:
    """Solve for the chosen unknowns, the others 0."""
    x = np.zeros(len(moment))
    index = np.flatnonzero(chosen)
    if len(index):
        x[index] = np.linalg.solve(gram[index[:, None], index], moment[index])
    return x
