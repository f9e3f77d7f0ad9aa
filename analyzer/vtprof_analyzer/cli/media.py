"""Media as users type them: HxW, FxHxW and seconds, and the order in which they were given."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vtprof_analyzer.models.tokens.count import Item

_SIDES = re.compile(r"\s*(-?\d{1,12})\s*[xX×]\s*(-?\d{1,12})\s*")
_CLIP = re.compile(r"\s*(-?\d{1,12})\s*[xX×]\s*(-?\d{1,12})\s*[xX×]\s*(-?\d{1,12})\s*")
_LONGEST = 60


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def image(text: str) -> tuple[int, ...]:
    """Return height and width of ``HxW`` [pixels]."""
    found = _SIDES.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{_shown(text)} is no size; give height x width in pixels, as 1080x1920")
    return tuple(int(side) for side in found.groups())


def video(text: str) -> tuple[int, ...]:
    """Return frames, height and width of ``FxHxW``."""
    found = _CLIP.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{_shown(text)} is no video; give frames x height x width, as 16x480x640")
    return tuple(int(side) for side in found.groups())


def seconds(text: str) -> float:
    """Return a duration [s]."""
    try:
        return float(text.strip().removesuffix("s"))
    except ValueError:
        raise typer.BadParameter(f"{_shown(text)} is no duration; give seconds, as 12.5") from None


def in_order(
    words: Sequence[str],
    images: Sequence[tuple[int, ...]],
    videos: Sequence[tuple[int, ...]],
    clips: Sequence[float],
) -> list["Item"]:
    """Return the items in the order in which ``words``, the command line, gives them."""
    from vtprof_analyzer.models.tokens.count import Item

    items = {
        "--image": [Item("image", height, width) for height, width in images],
        "--video": [Item("video", height, width, frames) for frames, height, width in videos],
        "--audio": [Item("audio", seconds=duration) for duration in clips],
    }
    flags = [word.partition("=")[0] for word in words]
    order = [flag for flag in flags if flag in items]
    if any(order.count(flag) != len(given) for flag, given in items.items()):
        # A value that looks like a flag, or a caller without a command line: kind by kind.
        return [item for given in items.values() for item in given]
    queues = {flag: iter(given) for flag, given in items.items()}
    return [next(queues[flag]) for flag in order]
