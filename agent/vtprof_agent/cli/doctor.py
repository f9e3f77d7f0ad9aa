"""`vtprof-agent doctor`: what this node offers, and where each setting comes from."""

from typing import Annotated, Literal

import typer

from vtprof_agent.cli.options import ConfigFile, Metrics, OtlpEndpoint, Out, RingDir


def doctor(
    out: Out = None,
    otlp_endpoint: OtlpEndpoint = None,
    ring_dir: RingDir = None,
    metrics: Metrics = None,
    config: ConfigFile = None,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Say what this node offers: GPUs, engines, processes to attach to, rings, and where each setting comes from."""
    import json

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.options import settings

    require_extra()
    from vtprof_agent.node_report import report
    from vtprof_schemas.printable import one_line

    document = report(settings(out, otlp_endpoint, ring_dir, metrics, config))
    if format_ == "json":
        typer.echo(json.dumps(document, indent=2))
        return
    for gpu in document["gpus"]:
        typer.echo(f"GPU {gpu['uuid']}: {gpu['name']}, performance metrics {'yes' if gpu['gpm'] else 'no'}")
    for sampler in document["samplers"]:
        typer.echo(
            f"sampler {sampler['name']}: {'on' if sampler['available'] else 'off: ' + sampler['reason']}"
        )
    for engine in document["engines"]:
        typer.echo(f"engine {engine['name']} {engine['version']} in this environment")
    typer.echo(f"attach allowed: {document['attach']}")
    for process in document["processes"]:
        state = f"no: {process['denied']}" if process["denied"] else "can be attached to"
        typer.echo(f"PID {process['pid']} ({process['name'] or 'ended'}): {process['engine']}, {state}")
    typer.echo(f"other Python processes, no engine seen in them: {document['other_python_processes']}")
    for ring in document["rings"]:
        typer.echo(f"ring {ring['file']}: PID {ring['pid']} ({ring['process']})")
    for setting in document["settings"]:
        typer.echo(f"setting {setting['name']} = {_told(setting['value'])} ({setting['origin']})")
    for problem in document["problems"]:
        typer.echo(f"problem: {one_line(problem)}")


def _told(value: object) -> str:
    """Return a setting's value as people write it."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
