"""A metrics page in Prometheus text form as values of our vocabulary, for each rank of the engine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from packaging.version import InvalidVersion, Version
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from vtprof_agent.engine_metrics.table import PREFIXES, SERIES, Series
from vtprof_schemas.units import NS_PER_S

_RANK_LABELS: Final = ("engine", "dp_rank")
"""vLLM's and SGLang's label of a data-parallel rank."""
_INNER_RANKS: Final = ("tp_rank", "pp_rank", "moe_ep_rank")
"""Ranks that repeat what rank 0 says of the same requests."""
_START: Final = "process_start_time_seconds"
_SUFFIXES: Final = ("", "_total", "_sum", "_count")
MAX_LINE: Final = 1 << 14
"""Characters; a model's name of any length that a file system has fits many times."""
MAX_WANTED: Final = 1 << 20
"""Characters of all lines that are parsed, which takes about a second; an engine's are some 5,000 for each rank."""
_NAME: Final = 128
"""Characters; longer than any name that is read."""
INT64_MAX: Final = 2**63 - 1
_LATEST_S: Final = INT64_MAX // NS_PER_S


@dataclass(frozen=True)
class Reading:
    """What a page says: for each data-parallel rank the values by our keys."""

    engine: str
    ranks: Mapping[int, Mapping[str, float]]
    started_s: float | None
    """Unix time since when its totals count, if it says so."""
    left_out: int = 0
    """Lines longer than any engine's, values that cannot be."""


def engine_of(text: str) -> str | None:
    """Tell whose page it is; None for another program's."""
    lines = text.splitlines()
    return next((e for e, prefix in PREFIXES.items() if any(line.startswith(prefix) for line in lines)), None)


def read_page(text: str, engine: str, version: str | None) -> Reading:
    """Read a page; raises ValueError when it is not in Prometheus' text form."""
    chosen = [series for series in SERIES if series.engine == engine and _in_range(series, version)]
    wanted = {series.name + suffix for series in chosen for suffix in _SUFFIXES} | {_START}
    samples: dict[str, list[Sample]] = {}
    # A page is mostly buckets, which nobody wants: only the lines needed are parsed.
    lines = [line for line in text.splitlines() if line[:_NAME].partition("{")[0].partition(" ")[0] in wanted]
    short = [line for line in lines if len(line) <= MAX_LINE]
    left_out = len(lines) - len(short)
    parsed = "\n".join(short) + "\n"
    if len(parsed) > MAX_WANTED:
        raise ValueError(f"more than {MAX_WANTED} characters of the series that are read")
    for family in text_string_to_metric_families(parsed):
        for sample in family.samples:
            if _possible(sample):
                samples.setdefault(sample.name, []).append(sample)
            else:
                left_out += 1
    marked = {s.marker for s in chosen if s.marker is not None and version is None}
    absent = {marker for marker in marked if f"\n{marker}" not in text}
    ranks: dict[int, dict[str, float]] = {}
    for series in chosen:
        if series.marker in absent:
            continue
        if series.ours_count is None:
            plain = samples.get(series.name) or samples.get(series.name + "_total") or ()
            _add(ranks, series, series.ours, plain)
        else:
            _add(ranks, series, series.ours, samples.get(series.name + "_sum", ()))
            _add(ranks, series, series.ours_count, samples.get(series.name + "_count", ()))
    started = min((sample.value for sample in samples.get(_START, ())), default=None)
    return Reading(engine, ranks, started, left_out)


def _possible(sample: Sample) -> bool:
    """Return whether a number can be what it stands for: nothing that is read is below zero."""
    return 0 <= sample.value <= (_LATEST_S if sample.name == _START else INT64_MAX)


def _add(ranks: dict[int, dict[str, float]], series: Series, key: str, samples: Iterable[Sample]) -> None:
    sums: dict[int, float] = {}
    for sample in samples:
        labels = sample.labels
        if any(labels.get(name) != value for name, value in series.labels):
            continue
        if any(labels.get(name, "0") not in ("0", "") for name in _INNER_RANKS):
            continue
        rank = next((labels[name] for name in _RANK_LABELS if labels.get(name)), "0")
        number = int(rank) if rank.isascii() and rank.isdecimal() and len(rank) < 6 else 0
        sums[number] = sums.get(number, 0.0) + sample.value
    for rank_number, value in sums.items():
        ranks.setdefault(rank_number, {}).setdefault(key, value)


def _in_range(series: Series, version: str | None) -> bool:
    """Return whether a version has a series; where it is not known, the page decides."""
    if version is None:
        return True
    try:
        # A build of a release candidate has what the release has.
        found = Version(Version(version).base_version)
    except InvalidVersion:
        return True
    return Version(series.since) <= found and (series.before is None or found < Version(series.before))
