"""`vtprof-agent status`: the live agent, the rings of this node and how far they were read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vtprof_agent.cli.options import Given, takes

if TYPE_CHECKING:
    from vtprof_agent.rings_report import RingLine


@takes("ring_dir")
def status(
    given: Given,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each counter of each GPU, and why samplers are off.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit with 1 when there is a problem or no agent runs, else with 0."),
    ] = False,
) -> None:
    """Show the live agent, and the rings of this node: process, engine, hooks, records read and lost.

    The exit code is 0, with --check 1 when there is a problem or no agent runs on these rings, and 2 when they cannot be
    looked at.
    """
    import json
    import time

    from vtprof_agent.cli import require_extra

    require_extra()
    from vtprof_agent import agent_state
    from vtprof_agent.config import ORIGIN_DEFAULT
    from vtprof_agent.private_rings import sessions
    from vtprof_agent.rings_report import look

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
    else:
        shown = [
            agent
            for agent, (lines, _) in zip(agents, found.values(), strict=True)
            if lines or agent.known or (agent.ring_dir == folder and (check or len(found) == 1))
        ]
        _show(found, [line for agent in shown for line in agent.lines(verbose=verbose)], folder)
    # Of a session's folder nothing is wrong where there is no agent and there never was.
    sound = all(agent.sound for agent in agents if agent.known or agent.ring_dir == folder)
    if check and (problems or not sound):
        raise typer.Exit(1)


def _show(
    found: "Mapping[Path, tuple[Sequence[RingLine], Sequence[str]]]", agents: Sequence[str], folder: Path
) -> None:
    """Print agents, rings and what cannot be told of them, for people."""
    from vtprof_schemas.printable import one_line

    for line in agents:
        typer.echo(line)
    for place, (lines, _) in found.items():
        if not lines and (place != folder or len(found) == 1):
            typer.echo(
                f"no rings in {place} now: no process records there; `vtprof-agent doctor` says what it takes"
            )
        elif place != folder:
            typer.echo(f"in {place}:")
        for ring in lines:
            typer.echo(ring.text())
    for _, problems in found.values():
        for problem in problems:
            typer.echo(one_line(problem), err=True)
