"""``vtprof rules``: list, show, check and test rule packs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vtprof_analyzer.cli import given

app = typer.Typer(no_args_is_help=True, help="List, show, check and test the rules behind the findings.")

Folder = Annotated[
    Path,
    typer.Argument(parser=given.path, help="Folder of rule files (*.toml) and their cases (*.cases.toml)."),
]
Extra = Annotated[
    list[Path] | None,
    typer.Option("--rules", parser=given.path, help="Folder of your own rules; may be repeated."),
]


class ListFormat(StrEnum):
    """Output formats of ``rules list``."""

    TERMINAL = "terminal"
    JSON = "json"


@app.command("list")
def list_rules(
    rules: Extra = None,
    format_: Annotated[ListFormat, typer.Option("--format", help="Output format.")] = ListFormat.TERMINAL,
) -> None:
    """List the rules: id, title, phase and default severity."""
    from vtprof_rules.load import load_packs

    loaded = load_packs(rules or ())
    if format_ is ListFormat.JSON:
        document = [
            {"id": rule.id, "title": rule.title, "phase": rule.phase, "severity": rule.severity}
            for rule in loaded
        ]
        typer.echo(json.dumps({"schema_version": 1, "rules": document}, indent=2))
        return
    for rule in loaded:
        typer.echo(f"{rule.id:<8} {rule.severity:<7} {rule.phase:<11} {rule.title}")


@app.command("show")
def show(
    rule_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the rule, as PRE001.")],
    rules: Extra = None,
) -> None:
    """Show one rule in full: condition, thresholds with sources, saving, advice, references."""
    from vtprof_rules.catalogue import as_text
    from vtprof_rules.load import load_packs
    from vtprof_schemas.errors import ConfigError

    loaded = {rule.id: rule for rule in load_packs(rules or ())}
    wanted = loaded.get(rule_id.upper())
    if wanted is None:
        raise ConfigError(f"no rule {rule_id!r}; there are {', '.join(loaded)}: see `vtprof rules list`")
    typer.echo(as_text(wanted))


@app.command("check")
def check(folder: Folder) -> None:
    """Check a folder of rules and cases; print every fault with its file and key, exit 2 if there is one."""
    from vtprof_rules.cases import read_checked

    checked = read_checked(folder)
    typer.echo(f"no faults: rules {len(checked)}, cases {sum(len(cases) for _, cases in checked)}")


@app.command("test")
def test(
    folder: Annotated[
        Path | None, typer.Argument(parser=given.path, help="Folder of rules; the shipped pack if left out.")
    ] = None,
) -> None:
    """Run the cases beside each rule; exit 1 if one of them fails."""
    from vtprof_rules.cases import read_checked, run_cases
    from vtprof_rules.load import CORE_PACK

    failed = 0
    for rule, cases in read_checked(folder or CORE_PACK):
        results = run_cases(rule, cases)
        failures = [result for result in results if result.failures]
        failed += len(failures)
        typer.echo(f"{rule.id:<8} {len(results) - len(failures)} of {len(results)} cases hold")
        for result in failures:
            for failure in result.failures:
                typer.echo(f"  {result.case}: {failure}")
    if failed:
        raise typer.Exit(1)
