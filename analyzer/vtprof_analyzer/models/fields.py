"""Read typed fields from a model's config; what is missing or wrong becomes one `DataError` that names the field."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from vtprof_schemas.errors import DataError

LARGEST = 2**40
"""No size of a model is larger: what is comes from a broken file, and would only overflow later."""
_PUBLISHED = "use the config.json of the model as published"


class Fields:
    """One section of a config: a mapping, and the path by which messages call it."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = values
        self.path = path

    def _name(self, keys: tuple[str, ...]) -> str:
        return " or ".join(f"{self.path}.{key}" if self.path else key for key in keys)

    def fault(self, key: str, what: str) -> DataError:
        """Return the error for one field."""
        return DataError(f"model config: {self._name((key,))} {what}; {_PUBLISHED}")

    def first(self, *keys: str) -> Any:
        """Return the value of the first key that is present and not null, else None."""
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def section(self, key: str) -> "Fields | None":
        """Return a nested section, or None when it is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fault(key, f"is {type(value).__name__} instead of an object")
        return Fields(value, f"{self.path}.{key}" if self.path else key)

    def integer(self, *keys: str, default: int | None = None, minimum: int = 1) -> int:
        """Return a whole number of at least ``minimum`` under the first key that is present.

        A list or tuple of equal numbers (``patch_size: [14, 14]``) counts as that number. Without ``default`` an
        absent field is a `DataError`: a guess would look like a measurement (C14).
        """
        value = self.first(*keys)
        if value is None:
            if default is None:
                raise DataError(f"model config: {self._name(keys)} is missing; {_PUBLISHED}")
            return default
        key = next(key for key in keys if self.values.get(key) is not None)
        whole = _whole(value)
        if whole is None and isinstance(value, (list, tuple)) and value:
            sides = {_whole(item) for item in value}
            whole = sides.pop() if len(sides) == 1 else None
        if whole is None:
            raise self.fault(key, f"is {_shown(value)} instead of a whole number")
        if whole < minimum:
            raise self.fault(key, f"is {_shown(value)}, less than {minimum}")
        if whole > LARGEST:
            raise self.fault(key, f"is {_shown(value)}, more than any model's")
        return whole

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, f"is {_shown(value)} instead of true or false")
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list of whole numbers, none of them negative."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
        ):
            raise self.fault(key, f"is {_shown(value)} instead of a list of whole numbers")
        return tuple(value)


def _whole(value: Any) -> int | None:
    """Return a whole number as an int; None for what is none, booleans and infinities among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value)


def _shown(value: Any) -> str:
    """Return a value for a message of one line: of long and nested ones only the beginning."""
    return reprlib.repr(value)
