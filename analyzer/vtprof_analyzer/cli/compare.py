"""``vtprof compare``: two sides of runs in, a verdict out: slower, or other requests?

Several runs a side are given as ``--base A B C --new D E``, or with the option before each: ``--base A --base B``.
"""

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from vtprof_analyzer.cli import given, options
from vtprof_analyzer.interrupts import leaving
from vtprof_schemas.errors import ConfigError

if TYPE_CHECKING:
    from vtprof_analyzer.regress.comparison import Comparison
    from vtprof_analyzer.regress.requests import Run

DEFAULT_FORMATS: Final = "terminal"
_SIDES: Final = ("--base", "--new")
_WILDCARDS: Final = frozenset("*?[")
_LARGEST_ALPHA: Final = 0.2
_WIDEST: Final = 110
"""Columns that a comparison takes at most."""


class FailOn(StrEnum):
    """Outcomes that make the exit code 1."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SHIFT = "shift"
    INSUFFICIENT = "insufficient"
    NEVER = "never"


class Command(TyperCommand):
    """A command whose ``--base`` and ``--new`` take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words."""
        return super().parse_args(ctx, spread(args))


def spread(words: Sequence[str]) -> list[str]:
    """Return the words with ``--base A B`` as ``--base A --base B``; behind ``--`` nothing is an option."""
    found: list[str] = []
    side: str | None = None
    for place, word in enumerate(words):
        if word == "--":
            return [*found, *words[place:]]
        if word.startswith("-") and word != "-":
            side = word if word in _SIDES else None
        elif side is not None and found[-1] != side:
            found.append(side)
        found.append(word)
    return found


def alpha(text: str) -> float:
    """Return a probability above 0 and up to 0.2."""
    return _ratio(text, "probability above 0 and up to 0.2", lambda value: 0 < value <= _LARGEST_ALPHA)


def min_effect(text: str) -> float:
    """Return a relative change from 0 to below 1."""
    return _ratio(text, "relative change from 0 to below 1, as 0.02 for 2 %", lambda value: 0 <= value < 1)


def _ratio(text: str, what: str, holds: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not holds(value):
        raise typer.BadParameter(f"{text!r} is no {what}")
    return value


def command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=given.path,
            metavar="[BASE NEW]",
            help="Two runs: a folder, file or quoted pattern of traces, a request table (CSV, Parquet), a database of"
            " `vtprof analyze --db`, a baseline's file, or its name. A request table needs start_unix_nano and ttft_ms"
            ' or the times of phases; all of its columns: analyzer/README.md, "Compare two runs".',
        ),
    ] = None,
    base: Annotated[
        list[Path] | None,
        typer.Option(
            "--base", parser=given.path, metavar="PATH…", help="Runs of BASE instead: --base A B C --new D E."
        ),
    ] = None,
    new: Annotated[
        list[Path] | None,
        typer.Option("--new", parser=given.path, metavar="PATH…", help="Runs of NEW."),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            parser=alpha,
            metavar="P",
            help="Probability that a regression is called where nothing changed, all phases together; up to 0.2.",
        ),
    ] = 0.01,
    min_effect: Annotated[
        float,
        typer.Option(
            parser=min_effect, metavar="RATIO", help="Smaller relative changes are no findings: 0.02 is 2 %."
        ),
    ] = 0.02,
    expect_change: Annotated[
        bool,
        typer.Option(
            "--expect-change",
            help="Another model, engine, device or setting is the change under test: no warning of it.",
        ),
    ] = False,
    cache: options.Cache = True,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="Exit 1 on improvement, shift (of mix or load) or insufficient (data) as well as on regression;"
            " never: always exit 0. May be repeated.",
        ),
    ] = None,
    formats: options.Formats = DEFAULT_FORMATS,
    out: options.Out = None,
) -> None:
    """Say whether NEW is slower than BASE at like images and load, in which phase, and how sure that is."""
    from vtprof_analyzer.cli.deliver import check_formats, deliver
    from vtprof_analyzer.report.formats import COMPARISON_FORMATS

    wanted = check_formats(formats, COMPARISON_FORMATS)
    failing = fails_on(fail_on or [])
    base_paths, new_paths = sides(paths or [], base or [], new or [])

    from vtprof_analyzer.cli.progress import progress_bar, size_of
    from vtprof_analyzer.regress.compare import Options, compare
    from vtprof_analyzer.runs.read import read_runs

    found = [[_place(path) for path in side] for side in (base_paths, new_paths)]

    def read(side: list[Path], progress: Callable[[int], None]) -> "list[Run]":
        return [run for path in side for run in read_runs(path, progress, cache=cache)]

    left = "nothing was compared" + ("; the cache keeps only runs that were read to the end" if cache else "")
    with leaving(left):
        with progress_bar("reading", lambda: size_of([*found[0], *found[1]])) as progress:
            runs = [read(side, progress) for side in found]
        comparison = compare(runs[0], runs[1], Options(alpha, min_effect, expect_change))
    deliver(comparison, COMPARISON_FORMATS, wanted, out, sys.stdout, _WIDEST)
    if outcomes(comparison) & failing:
        raise typer.Exit(1)


def sides(paths: list[Path], base: list[Path], new: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the paths of both sides. Raises ConfigError where they are not two."""
    if base or new:
        if paths:
            raise ConfigError(f"{paths[0]}: give BASE NEW, or --base PATH… --new PATH…, not both")
        if not (base and new):
            lacks = "--new" if base else "--base"
            raise ConfigError(
                f"{lacks} is missing; give --base PATH… --new PATH…, each up to the next option"
            )
        return base, new
    if len(paths) != 2:
        raise ConfigError(
            f"{len(paths) or 'no'} path{'' if len(paths) == 1 else 's'} given; compare takes two, BASE and NEW, or"
            " several runs a side as --base A B --new C D"
        )
    return paths[:1], paths[1:]


def fails_on(given_lists: Sequence[str]) -> frozenset[FailOn]:
    """Return the outcomes that exit 1: a regression always does, but with ``never``. Raises ConfigError."""
    words = [word.strip().lower() for text in given_lists for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in list(FailOn)]
    if unknown:
        raise ConfigError(f"--fail-on: unknown outcome {unknown[0]!r}; choose from {', '.join(FailOn)}")
    chosen = frozenset(map(FailOn, words))
    if FailOn.NEVER not in chosen:
        return chosen | {FailOn.REGRESSION}
    if len(chosen) > 1:
        raise ConfigError("--fail-on: never stands alone; leave it out, or the others")
    return frozenset()


def outcomes(comparison: "Comparison") -> frozenset[FailOn]:
    """Return what of a comparison may be failed on."""
    shown = {
        FailOn.REGRESSION: comparison.verdict == "regression",
        FailOn.IMPROVEMENT: comparison.verdict == "improvement" or bool(comparison.improvements),
        FailOn.SHIFT: comparison.workload_shift or comparison.load_increase,
        FailOn.INSUFFICIENT: comparison.verdict == "insufficient_data",
    }
    return frozenset(outcome for outcome, holds in shown.items() if holds)


def _place(path: Path) -> Path:
    """Return where a run is: a path, or the file of the baseline of this name where there is no such path.

    Raises ConfigError where it is neither.
    """
    text = os.fspath(path)
    if os.path.lexists(path) or _WILDCARDS & set(text):
        return path
    from vtprof_analyzer.runs import baselines

    found = baselines.find(text)
    if found is None:
        raise ConfigError(f"{text}: no such file or folder, nor a baseline; see `vtprof baseline list`")
    return found
