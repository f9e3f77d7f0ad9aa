"""Texts as numbers: the different ones, and which of them each entry is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.requests import Integers


def coded(texts: NDArray[Any]) -> tuple[tuple[str, ...], Integers]:
    """Return the different texts, in order of their first place, and the index of each entry's."""
    listed = texts.tolist()
    names = tuple(dict.fromkeys(listed))
    codes = {name: code for code, name in enumerate(names)}
    return names, np.fromiter(map(codes.__getitem__, listed), np.int64, len(listed))
