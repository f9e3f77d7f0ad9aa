"""`vtprof-agent stage DIR`: copy the probe to a shared volume."""

from pathlib import Path
from typing import Annotated

import typer


def stage(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that the inference image will see.")],
) -> None:
    """Copy the probe to a folder, such as a shared volume, and print the environment that turns it on.

    No pip in the image: every Python with that environment finds the probe, and vLLM and SGLang load it as their plugin.
    """
    from vtprof_agent.staging import child_environment
    from vtprof_agent.staging import stage as copy
    from vtprof_schemas.names import DEFAULT_RING_DIR

    copy(folder)
    for name, value in child_environment(folder.absolute(), Path(DEFAULT_RING_DIR), {}).items():
        typer.echo(f"{name}={value}")
