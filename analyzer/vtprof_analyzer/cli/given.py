"""Turn what the user typed into values: checks that an option's type alone does not make."""

import math
from pathlib import Path

import typer


def path(text: str) -> Path:
    """Return a path; an empty one is refused, for it would mean the current folder."""
    if not text:
        raise typer.BadParameter("is empty; give a path")
    return Path(text)


def price(text: str) -> float:
    """Return a price of zero or more; infinity and NaN are none."""
    return _number(text, "price")


def milliseconds(text: str) -> float:
    """Return a duration of zero or more; infinity and NaN are no objectives."""
    return _number(text, "number of milliseconds")


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text!r} is no {what} from 0 on")
    return value
