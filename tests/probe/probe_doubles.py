"""A ring in memory that keeps records as (kind, fields), for tests of the hooks."""

from typing import Any

from vtprof_schemas import records


class ListRing:
    """Stands where the ring writer stands; packs every record, so that one that would not fit fails."""

    reason = ""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.info: dict[str, Any] = {}
        self.hook_errors = 0
        self.probe_ns = 0
        self.word = (records.DETAIL_DEFAULT, False)
        self.closed = False

    def write(self, kind: records.RecordKind, *values: Any) -> None:
        kind.packer.pack(kind.code, 0, 1, *values)
        self.rows.append((kind.name, dict(zip(kind.field_names, values, strict=True))))

    def set_info(self, info: dict[str, Any]) -> None:
        self.info = info

    def refresh_anchor(self) -> None: ...

    def control(self) -> tuple[int, bool]:
        return self.word

    def add_probe_ns(self, spent_ns: int) -> None:
        self.probe_ns += spent_ns

    def count_hook_error(self) -> None:
        self.hook_errors += 1

    def close(self) -> None:
        self.closed = True

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of all records of one kind."""
        return [fields for kind, fields in self.rows if kind == name]

    def one(self, name: str) -> dict[str, Any]:
        """Return the only record of a kind."""
        (fields,) = self.of(name)
        return fields
