"""Read typed fields from a model's config; what is missing or wrong becomes one `DataError` that names the field."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from vtprof_schemas.errors import DataError
from vtprof_schemas.printable import one_line

LARGEST = 2**40
"""No size of a model is larger: what is comes from a broken file, and would only overflow later."""


class Fields:
    """One section of a config: a mapping, the path and the file by which messages call it.

    ``assumed``, where given, collects the names of fields that were absent and answered by a default.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        path: str = "",
        file: str = "model config",
        assumed: list[str] | None = None,
    ) -> None:
        self.values = values
        self.path = path
        self.file = file
        self.assumed = assumed

    def _name(self, keys: tuple[str, ...]) -> str:
        return one_line(" or ".join(f"{self.path}.{key}" if self.path else key for key in keys))

    @property
    def _remedy(self) -> str:
        return (
            f"use the {'config.json' if self.file == 'model config' else self.file} of the model as published"
        )

    def missing(self, *keys: str) -> DataError:
        """Return the error for a field that no default can stand for (C14)."""
        return DataError(f"{self.file}: {self._name(keys)} is missing; {self._remedy}")

    def assume(self, *keys: str) -> None:
        """Note that a default stands for a field that is absent."""
        if self.assumed is not None:
            note = f"{self.file}: {self._name(keys)}"
            if note not in self.assumed:
                self.assumed.append(note)

    def fault(self, key: str, what: str) -> DataError:
        """Return the error for one field."""
        return DataError(f"{self.file}: {self._name((key,))} {what}; {self._remedy}")

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
        return Fields(value, f"{self.path}.{key}" if self.path else key, self.file, self.assumed)

    def integer(self, *keys: str, default: int | None = None, minimum: int = 1) -> int:
        """Return a whole number of at least ``minimum`` under the first key that is present.

        A list or tuple of equal numbers (``patch_size: [14, 14]``) counts as that number. Without ``default`` an
        absent field is a `DataError`: a guess would look like a measurement (C14).
        """
        value = self.first(*keys)
        if value is None:
            if default is None:
                raise self.missing(*keys)
            self.assume(*keys)
            return default
        key = next(key for key in keys if self.values.get(key) is not None)
        whole = _whole(value)
        if whole is None and isinstance(value, (list, tuple)) and value:
            sides = {_whole(item) for item in value}
            whole = sides.pop() if len(sides) == 1 else None
        if whole is None:
            raise self.fault(key, f"is {shown(value)} instead of a whole number")
        if whole < minimum:
            raise self.fault(key, f"is {shown(value)}, less than {minimum}")
        if whole > LARGEST:
            raise self.fault(key, f"is {shown(value)}, more than any model's")
        return whole

    def number(self, *keys: str, default: float | None = None) -> float:
        """Return a finite number that is not negative; without ``default`` an absent field is a `DataError`."""
        value = self.first(*keys)
        if value is None:
            if default is None:
                raise self.missing(*keys)
            self.assume(*keys)
            return default
        key = next(key for key in keys if self.values.get(key) is not None)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST:
            raise self.fault(key, f"is {shown(value)} instead of a number")
        return float(value)

    def text(self, *keys: str, default: str | None = None) -> str | None:
        """Return a string, or the default when it is absent."""
        value = self.first(*keys)
        if value is None:
            return default
        if not isinstance(value, str):
            key = next(key for key in keys if self.values.get(key) is not None)
            raise self.fault(key, f"is {shown(value)} instead of a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.values.get(key)
        if value is None:
            self.assume(key)
            return default
        if not isinstance(value, bool):
            raise self.fault(key, f"is {shown(value)} instead of true or false")
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list of whole numbers, none of them negative."""
        value = self.values.get(key)
        if value is None:
            self.assume(key)
            return default
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
        ):
            raise self.fault(key, f"is {shown(value)} instead of a list of whole numbers")
        return tuple(value)


def divide(fields: Fields, key: str, width: int, parts: int) -> int:
    """Return ``width / parts``; raise the fault of ``key`` where it is no divisor."""
    if width % parts:
        raise fields.fault(key, f"is {parts}, no divisor of the width {width}")
    return width // parts


def _whole(value: Any) -> int | None:
    """Return a whole number as an int; None for what is none, booleans and infinities among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value)


def shown(value: Any) -> str:
    """Return a value for a message of one line: of long and nested ones only the beginning."""
    return reprlib.repr(value)
