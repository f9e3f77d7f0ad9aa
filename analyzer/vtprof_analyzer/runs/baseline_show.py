"""Baselines as text of 80 columns and as the documents of ``baseline.schema.json``. Reads and decides nothing."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.noise import RUN_NOISE
from vtprof_analyzer.regress.requests import TTFT_PARTS, Floats, Requests, Run
from vtprof_analyzer.report.format import (
    DASH,
    NOT_RECORDED,
    count,
    counted,
    duration,
    known,
    plain,
    safe,
    size,
    time_range,
)
from vtprof_analyzer.runs.baseline_facts import Baseline, RunFacts

SCHEMA_VERSION: Final = 1
LEAST_RUNS: Final = 3
"""Runs from which a spread is told: that of two is as good as unknown."""
_TIMES: Final = (*(f"{part}_ms" for part in TTFT_PARTS), "ttft_ms", "tpot_ms")
_SHOWN: Final = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
_WIDTH: Final = 80
_LEAST_REQUESTS: Final = 1_000
"""With fewer, what a file takes is mostly its description."""


@dataclass(frozen=True)
class RunFigures:
    """What one run's requests took, as sampling weighs them; None where it was not recorded."""

    requests: int
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    tpot_ms_p50: float | None
    tpot_ms_p95: float | None
    visual_tokens_mean: float | None


def figures(requests: Requests) -> RunFigures:
    """Return the figures of a run."""
    visual = np.isfinite(requests.visual_tokens)
    weight = requests.weight[visual]
    mean = float(np.average(requests.visual_tokens[visual], weights=weight)) if visual.any() else None
    return RunFigures(
        len(requests),
        _quantile(requests, "ttft_ms", 0.5),
        _quantile(requests, "ttft_ms", 0.95),
        _quantile(requests, "tpot_ms", 0.5),
        _quantile(requests, "tpot_ms", 0.95),
        mean,
    )


def median_spreads(runs: Sequence[Run]) -> dict[str, float]:
    """Return the relative standard deviation of the runs' medians, by time; nothing from fewer than three runs.

    The requests that have the time count. What the runs' workloads differ by is not taken out of it.
    """
    if len(runs) < LEAST_RUNS:
        return {}
    spreads = {}
    for column in _TIMES:
        medians = [_quantile(run.requests, column, 0.5, least=0.0) for run in runs]
        told = np.array([median for median in medians if median])
        if len(told) == len(runs):
            spreads[column] = float(told.std(ddof=1) / told.mean())
    return spreads


def list_text(folder: Path, found: Sequence[Baseline], unreadable: Sequence[tuple[Path, str]]) -> str:
    """Return a line for each baseline."""
    if not found and not unreadable:
        return f"no baselines in {safe(folder)}; `vtprof baseline save NAME PATH` makes one\n"
    lines = []
    if found:
        longest = max(len(one.name) for one in found)
        wide = min(max(longest, 4), 30)
        lines.append(f"{'name':<{wide}}  runs   requests  saved                 engine, device, models")
        for one in found:
            saved = time_range(one.saved_unix_nano, None) if one.saved_unix_nano else NOT_RECORDED
            told = f"{_cut(one.name, wide):<{wide}} {len(one.runs):>5} {one.requests:>10,}  {saved:<20}  "
            lines.append(_cut(told + _joined(one), _WIDTH))
    lines += [safe(why, 300) for _, why in unreadable]
    return "\n".join(lines) + "\n"


def list_document(
    folder: Path, found: Sequence[Baseline], unreadable: Sequence[tuple[Path, str]]
) -> dict[str, Any]:
    """Return the document of `vtprof baseline list`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "folder": str(folder),
        "baselines": [
            _document(one) | {"runs": [_run_document(number, run) for number, run in enumerate(one.runs, 1)]}
            for one in found
        ],
        "unreadable": [{"file": str(file), "why": why} for file, why in unreadable],
    }


def show_text(baseline: Baseline, runs: Sequence[Run]) -> str:
    """Return a page about one baseline: what it was measured on, each run, and what its runs tell of noise."""
    requests = sum(len(run.requests) for run in runs)
    each = f", {plain(baseline.file_bytes / requests, 2)} B a request" if requests >= _LEAST_REQUESTS else ""
    saved = time_range(baseline.saved_unix_nano, None) if baseline.saved_unix_nano else f"time {NOT_RECORDED}"
    by = f", vtprof {safe(baseline.vtprof_version, 40)}" if baseline.vtprof_version else ""
    lines = [
        f"{baseline.name}: {counted(len(runs), 'run')}, {counted(requests, 'request')}",
        *_wrapped("saved", f"{saved}{by}"),
        *_wrapped("file", f"{safe(baseline.file)} ({size(baseline.file_bytes)}{each})"),
    ]
    if baseline.note:
        lines += _wrapped("note", safe(baseline.note, 500))
    for what, told in _DESCRIBED.items():
        lines += _wrapped(what, _by_run([told(run) for run in runs]))
    lines += ["", *_run_lines(baseline, runs), "", *_noise_lines(baseline, runs)]
    return "\n".join(lines) + "\n"


def show_document(baseline: Baseline, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the document of `vtprof baseline show`."""
    listed = []
    for number, (told, run) in enumerate(zip(baseline.runs, runs, strict=True), 1):
        figured = asdict(figures(run.requests))
        said = {"skipped": run.skipped, "notes": list(run.notes)}
        listed.append(_run_document(number, told) | figured | said)
    return {
        "schema_version": SCHEMA_VERSION,
        "baseline": _document(baseline) | {"runs": listed},
        "default_run_noise_ratio": RUN_NOISE,
        "median_spread_ratio": median_spreads(runs),
    }


def as_json(document: dict[str, Any]) -> str:
    """Return a document as text; what UTF-8 cannot hold is escaped."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _quantile(requests: Requests, column: str, share: float, least: float = -1.0) -> float | None:
    """Return a quantile of the known values above ``least``: linear between them, or of the weighted distribution."""
    values: Floats = getattr(requests, column)
    chosen = np.isfinite(values) & (values > least)
    if not chosen.any():
        return None
    weight = requests.weight[chosen]
    if (weight == weight[0]).all():
        return float(np.quantile(values[chosen], share))
    return float(np.quantile(values[chosen], share, weights=weight, method="inverted_cdf"))


def _document(one: Baseline) -> dict[str, Any]:
    return {
        "name": one.name,
        "file": str(one.file),
        "file_bytes": one.file_bytes,
        "saved_unix_nano": one.saved_unix_nano,
        "note": one.note,
        "vtprof_version": one.vtprof_version,
    }


def _run_document(number: int, run: RunFacts) -> dict[str, Any]:
    return {"run": number} | asdict(run) | {"models": list(run.models), "notes": list(run.notes)}


def _models(run: Run) -> str | None:
    names = [run.requests.models[index] for index in np.unique(run.requests.model)]
    return ", ".join(sorted(name for name in names if name)) or None


_DESCRIBED: Final[dict[str, Callable[[Run], str | None]]] = {
    "engine": lambda run: run.engine,
    "device": lambda run: run.device,
    "settings": lambda run: run.settings,
    "models": _models,
}


def _by_run(values: Sequence[str | None]) -> str:
    """Return a value that all runs have, or each with its runs."""
    runs: dict[str | None, list[int]] = {}
    for number, value in enumerate(values, 1):
        runs.setdefault(value, []).append(number)
    if len(runs) == 1:
        return known(values[0], safe)
    return "; ".join(
        f"run{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: {known(value, safe)}"
        for value, numbers in runs.items()
    )


def _run_lines(baseline: Baseline, runs: Sequence[Run]) -> list[str]:
    lines = ["  run   requests   TTFT p50        p95   TPOT p50        p95 visual tokens, mean"]
    for number, (told, run) in enumerate(zip(baseline.runs, runs, strict=True), 1):
        one = figures(run.requests)
        times = (one.ttft_ms_p50, one.ttft_ms_p95, one.tpot_ms_p50, one.tpot_ms_p95)
        cells = " ".join(f"{known(value, duration, DASH):>10}" for value in times)
        visual = known(one.visual_tokens_mean, lambda value: count(round(value)), DASH)
        lines.append(f"  {number:>3} {one.requests:>10,} {cells} {visual:>19}")
        when = time_range(told.begin_unix_nano, told.end_unix_nano)
        lines += textwrap.wrap(f"{safe(told.label, 120)}, {when}", _WIDTH - 6, **_INDENTED)
        left_out = sum(run.skipped.values())
        if left_out:
            why = ", ".join(f"{safe(reason, 80)} {number:,}" for reason, number in run.skipped.items())
            lines += textwrap.wrap(f"{left_out:,} left out: {why}", _WIDTH, **_INDENTED)
        for note in run.notes:
            lines += textwrap.wrap(safe(note), _WIDTH, **_INDENTED)
    return lines


_INDENTED: Final[dict[str, Any]] = {"initial_indent": " " * 6, "subsequent_indent": " " * 6}


def _noise_lines(baseline: Baseline, runs: Sequence[Run]) -> list[str]:
    """Return what the runs tell of noise from run to run."""
    default = f"{plain(100 * RUN_NOISE)} %"
    more = f"add runs of the same deployment with `vtprof baseline save {baseline.name} PATH --add`"
    if len(runs) == 1:
        text = f"One run: noise from run to run of {default} is assumed; {more}"
        return textwrap.wrap(text, _WIDTH)
    if len(runs) < LEAST_RUNS:
        text = f"{len(runs)} runs tell little of the noise from run to run; {more}"
        return textwrap.wrap(text, _WIDTH)
    title = f"Spread of the medians of {len(runs)} runs (standard deviation; workload not taken out)"
    spreads = median_spreads(runs)
    if not spreads:
        return [*textwrap.wrap(title, _WIDTH), "  no time is recorded in all runs"]
    lines = textwrap.wrap(title, _WIDTH)
    for column, spread in spreads.items():
        name = _SHOWN.get(column, column.removesuffix("_ms"))
        lines.append(f"  {name:<12} {plain(100 * spread, 2):>6} %")
    return lines


def _joined(one: Baseline) -> str:
    """Return engines, devices and models of all runs, each once."""
    told = [
        *(run.engine for run in one.runs),
        *(run.device for run in one.runs),
        *(model for run in one.runs for model in run.models),
    ]
    return ", ".join(dict.fromkeys(safe(value, 60) for value in told if value)) or NOT_RECORDED


def _wrapped(what: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - 12, break_on_hyphens=False)
    return [f"  {what if index == 0 else '':<9} {line}" for index, line in enumerate(lines)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
