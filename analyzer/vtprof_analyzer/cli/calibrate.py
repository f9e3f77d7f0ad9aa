"""``vtprof calibrate``: what this machine attains, measured and kept for `analyze` and `estimate`."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vtprof_analyzer.cli import given

_LONGEST_S = 600.0


class Format(StrEnum):
    """Output formats of ``calibrate``."""

    TERMINAL = "terminal"
    JSON = "json"


def _seconds(text: str) -> float:
    """Return a duration that is neither zero nor more than anyone waits for."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _LONGEST_S:
        raise typer.BadParameter(f"{text!r} is no number of seconds above 0 and up to {_LONGEST_S:g}")
    return value


def command(
    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda|cuda:N", help="Device to measure; default: the first GPU, else the CPU."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="D", help="float32, bfloat16 or float16; may be repeated. Default: the usual ones."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(parser=_seconds, metavar="S", help="Time for each measurement.")
    ] = 2.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            parser=given.path,
            metavar="FILE",
            help="Keep the result in this file, where only you find it, and not with your settings.",
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.TERMINAL,
) -> None:
    """Measure the compute and the memory bandwidth that this machine attains, for rooflines that are no datasheet's.

    Needs torch. Keeps the result with your settings (~/.config/vtprof/calibration.json), where `vtprof analyze` and
    `vtprof estimate` find it for traces of this very device.
    """
    from vtprof_analyzer.calibrate.machine import open_machine
    from vtprof_analyzer.calibrate.measure import check_dtypes, measure
    from vtprof_analyzer.calibrate.show import as_json, as_text
    from vtprof_analyzer.cli.progress import counted
    from vtprof_analyzer.devices.measured import calibration_file, check_place, store
    from vtprof_schemas.errors import ConfigError

    dtypes = check_dtypes(dtype)
    file = out or calibration_file()
    if file is None:
        raise ConfigError("there is no home folder to keep the result in; name a file with --out")
    check_place(file)
    machine = open_machine(device)
    with counted("measuring") as progress:
        entries, notes = measure(machine, dtypes, seconds, progress)
    notes += [note for note in [store(entries, file)] if note]
    for note in notes:
        typer.echo(f"vtprof calibrate: {note}", err=True)
    typer.echo(as_json(entries, file) if format_ is Format.JSON else as_text(entries, file, out is None))
