"""Request tables of one folder are parts of one run, as jobs and lakes write them: they become one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.regress.requests import Requests, Run, joined
from vtprof_analyzer.report.format import counted, safe
from vtprof_analyzer.runs.tables import read_table
from vtprof_schemas.errors import NoData

_NOTES: Final = 10


def read_tables(paths: Sequence[Path], shown: str) -> list[Run]:
    """Return the run of several tables, or the runs that their columns ``run`` tell apart.

    Raises DataError for a table that cannot be used, NoData where none has requests.
    """
    parts: list[Run] = []
    empty: list[str] = []
    for path in paths:
        try:
            parts += read_table(path, safe(shown_name(path)))
        except NoData as error:
            empty.append(str(error))
    if not parts:
        raise NoData(empty[0] if len(empty) == 1 else f"{empty[0]} (and {len(empty) - 1} more like it)")
    if len(parts) == 1 or len(parts) > len(paths) - len(empty):
        return parts
    return [_joined(parts, shown, empty)]


def _joined(parts: Sequence[Run], shown: str, empty: list[str]) -> Run:
    skipped: Counter[str] = Counter()
    for part in parts:
        skipped.update(part.skipped)
    requests = joined([part.requests for part in parts])
    kept, again = _once(requests)
    if again:
        skipped["duplicate request id"] += again
    told = f"{counted(len(parts), 'table')} of one folder are read as one run; name the files to compare them as several"
    notes = dict.fromkeys([told, *(note for part in parts for note in part.notes), *empty])
    return Run(shown, kept, skipped=dict(skipped), notes=tuple(notes)[:_NOTES])


def _once(requests: Requests) -> tuple[Requests, int]:
    """Return the requests without those that are there a second time, by id and start, and how many these were."""
    keys = list(zip(requests.ids.tolist(), requests.start_ns.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return requests, 0
    seen: set[tuple[str, int]] = set()
    first = np.ones(len(keys), np.bool_)
    for place, key in enumerate(keys):
        first[place] = not key[0] or key not in seen
        seen.add(key)
    return requests.select(first), int(np.count_nonzero(~first))
