"""`vtprof-agent status`: the live agent, the rings of this node and how far they were read."""

from typing import Annotated, Literal

import typer

from vtprof_agent.cli.options import Given, takes


@takes("ring_dir")
def status(
    given: Given,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each counter of each GPU, and why samplers are off.")
    ] = False,
) -> None:
    """Show the live agent, and the rings of this node: process, engine, hooks, records read and lost."""
    import json
    import time

    from vtprof_agent.cli import require_extra

    require_extra()
    from vtprof_agent import agent_state
    from vtprof_agent.config import ORIGIN_DEFAULT
    from vtprof_agent.private_rings import sessions
    from vtprof_agent.rings_report import look
    from vtprof_schemas.printable import one_line

    merged = given.settings()
    folder = merged.config.ring_dir
    others = sessions() if merged.origins["ring_dir"] == ORIGIN_DEFAULT else []
    found = {place: look(place) for place in (folder, *others)}
    rings = [ring for lines, _ in found.values() for ring in lines]
    agents = [agent_state.look(place, time.time_ns()) for place in found]
    problems = [problem for _, told in found.values() for problem in told]
    if format_ == "json":
        document = {
            "ring_dir": str(folder),
            "ring_dirs": [str(place) for place in found],
            "agents": [agent.document() for agent in agents],
            "rings": [ring.document() for ring in rings],
            "problems": problems,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for agent, (lines, _) in zip(agents, found.values(), strict=True):
        if lines or agent.known:
            typer.echo("\n".join(agent.lines(verbose=verbose)))
    for place, (lines, _) in found.items():
        if not lines and (place != folder or not others):
            typer.echo(f"no rings in {place}: no process has recorded anything there yet")
        elif place != folder:
            typer.echo(f"in {place}:")
        for ring in lines:
            typer.echo(ring.text())
    for problem in problems:
        typer.echo(one_line(problem), err=True)
