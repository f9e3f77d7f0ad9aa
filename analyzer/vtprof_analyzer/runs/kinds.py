"""Tell what a file is from its bytes: a request table, a database, or something with traces. Names lie."""

from pathlib import Path
from typing import Final, Literal

from vtprof_analyzer.ingest.formats import begins_database
from vtprof_analyzer.ingest.lines import is_packed, unpack_message
from vtprof_analyzer.runs.table_csv import header_of
from vtprof_analyzer.runs.tables import is_request_parquet

Kind = Literal["table", "database", "traces"]
_HEAD_BYTES: Final = 16 << 10
_UNPACKED_BYTES: Final = 16 << 20
_PARQUET: Final = (b"PAR1", b"PARE")
_TABLE_SUFFIXES: Final = (".csv", ".tsv")
_PACKED_SUFFIXES: Final = (".gz", ".zst")


def kind_of(path: Path) -> Kind:
    """Return what a file is; what nothing is known of counts as traces, whose readers look closer. Raises OSError."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if begins_database(head):
        return "database"
    if head.startswith(_PARQUET):
        return "table" if is_request_parquet(path) else "traces"
    if is_packed(head):
        head, _ = unpack_message(head, _UNPACKED_BYTES)
    return "table" if header_of(head) or is_named_table(path) else "traces"


def is_named_table(path: Path) -> bool:
    """Say whether a file's name is that of a CSV table, packed or not."""
    name = path.name.lower()
    for suffix in _PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(_TABLE_SUFFIXES) and not name.startswith(".")
