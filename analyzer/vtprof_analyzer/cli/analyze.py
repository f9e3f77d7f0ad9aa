"""``vtprof analyze``: traces in, the report out."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vtprof_analyzer.cli import given, options
from vtprof_analyzer.cli.lists import list_devices
from vtprof_analyzer.interrupts import leaving

DEFAULT_FORMATS = "terminal,html"


class Severity(StrEnum):
    """Severities of findings, for ``--fail-on``."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=given.path,
            metavar="PATH…",
            help="Files, folders or quoted patterns of OTLP JSON lines or protobuf, plain, .gz or .zst, or of "
            "Parquet. A packed file is read up to 200 times its size, or 1 GiB if that is more.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            parser=given.path,
            metavar="MODEL",
            help="Folder with config.json, the file, or a bundled name: the model of every process, in place of"
            " configs that the traces hold; default: the ones recorded.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Device whose roofline to use; default: the one recorded."),
    ] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--list-devices",
            callback=list_devices,
            is_eager=True,
            help="Print the names that --device knows.",
        ),
    ] = False,
    formats: options.Formats = DEFAULT_FORMATS,
    out: options.OutOrReport = None,
    slo_ttft_ms: Annotated[
        float | None,
        typer.Option(parser=given.milliseconds, metavar="MS", help="Objective for time to first token."),
    ] = None,
    slo_tpot_ms: Annotated[
        float | None,
        typer.Option(parser=given.milliseconds, metavar="MS", help="Objective for time per output token."),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            parser=given.price,
            metavar="USD",
            help="Price of one node for an hour, for the cost of a request.",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Nodes that are paid; default: those that the traces name."),
    ] = None,
    rules: Annotated[
        list[Path] | None,
        typer.Option(parser=given.path, metavar="DIR", help="Folder of your own rules; may be repeated."),
    ] = None,
    rule_params: Annotated[
        list[str] | None,
        typer.Option(
            "--rule-param",
            metavar="ID.NAME=VALUE",
            help="Another threshold for a rule, as ENC001.min_share=0.2; may be repeated.",
        ),
    ] = None,
    rules_off: Annotated[
        list[str] | None,
        typer.Option(
            "--rule-off",
            metavar="ID=REASON",
            help="Do not judge a rule; the report repeats the reason. May be repeated.",
        ),
    ] = None,
    db: Annotated[
        Path | None,
        typer.Option(
            parser=given.path,
            metavar="FILE",
            help="Keep the tables in this DuckDB file, to query them later.",
        ),
    ] = None,
    cache: options.Cache = True,
    fail_on: Annotated[
        Severity | None, typer.Option(help="Exit 1 when a finding of this severity or above exists.")
    ] = None,
) -> None:
    """Say where time, bandwidth and KV went, what visual tokens cost, and what to change."""
    from vtprof_analyzer.analyze import Options, analyze
    from vtprof_analyzer.cli.deliver import check_formats, deliver
    from vtprof_analyzer.cli.progress import progress_bar, size_of
    from vtprof_analyzer.report.formats import REPORT_FORMATS

    wanted = check_formats(formats, REPORT_FORMATS)
    asked = Options(
        paths=paths,
        model=model,
        device=device,
        slo_ttft_ms=slo_ttft_ms,
        slo_tpot_ms=slo_tpot_ms,
        rules=rules or [],
        rule_params=rule_params or [],
        rules_off=rules_off or [],
        database=db,
        cache=cache,
        usd_per_node_hour=price_per_hour,
        nodes=nodes,
    )
    left = "no report was written"
    if db:
        left += f", and --db {db} is as it was before"
    if cache:
        left += "; the cache keeps only what was read to the end"
    with leaving(left), progress_bar("reading", lambda: size_of(paths)) as progress:
        report = analyze(asked, progress)
    deliver(report, REPORT_FORMATS, wanted, out, sys.stdout)
    severities = list(Severity)
    if fail_on and any(
        severities.index(Severity(finding.severity)) >= severities.index(fail_on)
        for finding in report.findings
    ):
        raise typer.Exit(1)
