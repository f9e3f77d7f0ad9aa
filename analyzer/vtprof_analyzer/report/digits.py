"""Round what several threads add up in any order, so that the same traces give the same report, to the last digit."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar

_DIGITS: Final = 10
"""Significant digits that stay. Sums in another order differ from the 13th on: that rarely reaches the tenth."""
_Object = TypeVar("_Object")


def in_digits(content: _Object) -> _Object:
    """Return a report, or a part of it, with all its floats rounded; whole numbers stay exact."""
    rounded: Any = content
    if is_dataclass(content) and not isinstance(content, type):
        rounded = replace(
            content, **{it.name: in_digits(getattr(content, it.name)) for it in fields(content)}
        )
    elif isinstance(content, dict):
        rounded = {key: in_digits(value) for key, value in content.items()}
    elif isinstance(content, list):
        rounded = [in_digits(value) for value in content]
    elif isinstance(content, float):
        rounded = float(f"{content:.{_DIGITS}g}")
    return rounded  # type: ignore[no-any-return]
