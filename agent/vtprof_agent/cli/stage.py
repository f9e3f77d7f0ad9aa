"""`vtprof-agent stage DIR`: copy the probe to a shared volume."""

from pathlib import Path
from typing import Annotated

import typer

from vtprof_agent.cli.options import path_option


def stage(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", readable=False, help="Folder that the inference image will see.")
    ],
    ring_dir: Annotated[
        Path | None,
        path_option(
            "--ring-dir",
            help="Where the probes are to put their rings, as the image sees it; else `rings` beside DIR.",
        ),
    ] = None,
) -> None:
    """Copy the probe to a folder, such as a shared volume, and print the environment that turns it on.

    No pip in the image: every Python with that environment finds the probe, and vLLM and SGLang load it as their plugin.
    """
    from vtprof_agent.staging import probe_environment
    from vtprof_agent.staging import stage as copy

    copy(folder)
    # Not /dev/shm: each container has one of its own.
    rings = (ring_dir or folder.absolute().parent / "rings").absolute()
    for name, value in probe_environment(folder.absolute(), rings).items():
        typer.echo(f"{name}={value}")
    typer.echo(f"vtprof-agent: then `vtprof-agent run --ring-dir {rings} --out traces` exports", err=True)
