"""Turns the bytes of one ring record into its kind, number and values; what a record says is checked, not believed."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vtprof_schemas import names, records
from vtprof_schemas.records import RecordKind

_KINDS, _CRC_BYTES, _prefix = records.KINDS, records.CRC.size, records.RECORD_PREFIX.unpack_from
_VALUES_START = 3
"""kind, flags and sequence stand before the values."""


class Record(NamedTuple):
    """One record: its kind, ring sequence and the payload's fields in the order of ``kind.fields``."""

    kind: RecordKind
    sequence: int
    values: tuple[Any, ...]


def decode(raw: bytes, start: int = 0) -> Record | None:
    """Decode the record of 128 bytes at a place; None for a kind that this version does not know and for absurd values."""
    start += _CRC_BYTES
    code = _prefix(raw, start)[0]
    kind = _KINDS.get(code)
    if kind is None:
        return None
    unpacked = kind.packer.unpack_from(raw, start)
    values = unpacked[_VALUES_START:]
    if code in _CHECKS and not _CHECKS[code](values):
        return None
    return Record(kind, unpacked[2], values)


def _indexes(kind: RecordKind, field: str, options: int) -> Callable[[tuple[Any, ...]], bool]:
    place = kind.field_names.index(field)
    return lambda values: 0 <= values[place] < options


_CHECKS: dict[int, Callable[[tuple[Any, ...]], bool]] = {
    records.REQUEST_LABEL.code: _indexes(records.REQUEST_LABEL, "length", records.LABEL_BYTES + 1),
    records.TRANSFER.code: _indexes(records.TRANSFER, "kind", len(records.TRANSFER_KINDS)),
    records.REQUEST_FINISHED.code: _indexes(records.REQUEST_FINISHED, "status", len(names.STATUSES)),
}
"""Fields that index or measure something else, so that nobody downstream reads past an end."""
