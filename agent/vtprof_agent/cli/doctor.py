"""`vtprof-agent doctor`: what this node offers, and where each setting comes from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from vtprof_agent.cli.options import ALL, Given, takes


@takes(*ALL)
def doctor(
    given: Given,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also settings that nobody changed.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 when there is a problem, else with 0.")
    ] = False,
) -> None:
    """Say what this node offers, and what is wrong: GPUs, engines, processes to attach to, rings, endpoints, settings.

    Give it the options of `run`: it tries what they name. An OTLP endpoint is sent a message without spans.

    The exit code is 0, with --check 1 when there is a problem, and 2 for settings that cannot be read.
    """
    import json

    from vtprof_agent.cli import require_extra

    require_extra()
    from vtprof_agent.node_report import report

    document = report(given.settings())
    if format_ == "json":
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(document, verbose)
    if check and document["problems"]:
        raise typer.Exit(1)


def _show(document: Mapping[str, Any], verbose: bool) -> None:
    """Print the report for people."""
    from vtprof_agent.config import ORIGIN_DEFAULT
    from vtprof_agent.status_lines import untold
    from vtprof_schemas.printable import one_line

    for problem in document["problems"]:
        typer.echo(f"problem: {one_line(problem)}")
    if not document["problems"]:
        typer.echo("no problem found")
    for warning in document["warnings"]:
        typer.echo(f"warning: {one_line(warning)}")
    for gpu in document["gpus"]:
        offers = "cut into MIG instances" if gpu["mig"] else f"GPM {_told(gpu['gpm'])}"
        if not gpu["mig"]:
            offers += f", a MIG instance of {gpu['mig_of']}" if "mig_of" in gpu else ", MIG no"
        told = untold(gpu["missing"])
        missing = f"; not told: {told}" if told and not gpu["mig"] else ""
        typer.echo(one_line(f"GPU {gpu['uuid']}: {gpu['name']}, {offers}{missing}"))
    if document["driver"]:
        typer.echo(one_line(f"NVIDIA driver {document['driver']}"))
    for sampler in document["samplers"]:
        state = "on" if sampler["available"] else f"off: {sampler['reason']}; without it: {sampler['costs']}"
        typer.echo(one_line(f"sampler {sampler['name']}: {state}"))
    for engine in document["engines"]:
        typer.echo(f"engine {engine['name']} {engine['version']} in this environment")
    typer.echo(f"attach allowed: {document['attach']}")
    for one in document["permissions"]:
        typer.echo(one_line(f"permission, {one['what']}: {one['problem'] or 'yes'}"))
    for one in document["endpoints"]:
        through = f" through the proxy {one['proxy']}" if one["proxy"] else ""
        typer.echo(
            one_line(f"{one['what']} {one['target']}{through}: {one['problem'] or one['warning'] or 'fine'}")
        )
    for process in document["processes"]:
        state = f"no: {process['denied']}" if process["denied"] else "can be attached to"
        if process["ring"] is not None:
            state = f"is recorded, to {process['ring']}; `vtprof-agent detach {process['pid']}` ends that"
        who = f"PID {process['pid']} ({process['name'] or 'ended'})"
        typer.echo(one_line(f"{who}: {process['engine']}, {state}"))
    typer.echo(f"other Python processes, no engine seen in them: {document['other_python_processes']}")
    if not document["rings"]:
        typer.echo(
            "no ring: no process records now; `vtprof-agent exec` starts one that does, `attach` has one do so"
        )
    if document["agent"]["alive"]:
        typer.echo("an agent follows these rings: `vtprof-agent status` shows it")
    for ring in document["rings"]:
        typer.echo(f"ring {ring['file']}: PID {ring['pid']} ({ring['process']})")
    settings = document["settings"]
    shown = [one for one in settings if verbose or one["origin"] != ORIGIN_DEFAULT]
    for setting in shown:
        typer.echo(f"setting {setting['name']} = {_told(setting['value'])} ({setting['origin']})")
    if len(shown) < len(settings):
        typer.echo(f"{len(settings) - len(shown)} other settings are as by default (--verbose shows them)")


def _told(value: object) -> str:
    """Return a setting's value as people write it."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
