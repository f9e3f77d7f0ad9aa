"""``vtprof tokens``: how many tokens an image, video or audio clip becomes in a model."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from vtprof_analyzer.cli import media
from vtprof_analyzer.cli.lists import list_models

SCHEMA_VERSION = 1


class Format(StrEnum):
    """Output formats."""

    TERMINAL = "terminal"
    JSON = "json"


def command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's folder, its config.json, or a bundled name (--list-models)."
        ),
    ],
    image: Annotated[
        list[Any] | None,
        typer.Option(parser=media.image, metavar="HxW", help="Height x width in pixels; may be repeated."),
    ] = None,
    video: Annotated[
        list[Any] | None,
        typer.Option(
            parser=media.video,
            metavar="FxHxW",
            help="Frames (as handed to the processor) x height x width; may be repeated.",
        ),
    ] = None,
    audio: Annotated[
        list[Any] | None,
        typer.Option(parser=media.seconds, metavar="SECONDS", help="Duration; may be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 2 when anything had to be assumed.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.TERMINAL,
    _: Annotated[
        bool,
        typer.Option("--list-models", callback=list_models, is_eager=True, help="Print the bundled models."),
    ] = False,
) -> None:
    """Count the tokens that images, videos and audio become, by the model's own resize and tiling rules.

    Tokens are positions filled with media features; tags are the text tokens around and between them.
    """
    from vtprof_analyzer.models.find import find_model
    from vtprof_analyzer.models.tokens.count import count_items
    from vtprof_schemas.errors import ConfigError, DataError
    from vtprof_schemas.printable import one_line

    items = media.in_order(context.find_root().obj or (), image or (), video or (), audio or ())
    if not items:
        raise ConfigError("nothing to count; give --image HxW, --video FxHxW or --audio SECONDS")
    files = find_model(model)
    counts = count_items(files, items)
    notes = (*files.notes, *counts.notes)
    if strict and notes:
        raise DataError(f"--strict: {files.name}: {'; '.join(notes)}")
    if format_ is Format.JSON:
        document = {
            "schema_version": SCHEMA_VERSION,
            "model": files.name,
            "items": [
                {
                    "kind": item.kind,
                    "height": item.height,
                    "width": item.width,
                    "frames": item.frames,
                    "seconds": item.seconds,
                    "tokens": count.tokens,
                    "extra_tokens": count.extra_tokens,
                }
                for item, count in counts.items
            ],
            "total_tokens": counts.tokens,
            "total_extra_tokens": counts.extra_tokens,
            "notes": list(notes),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    rows = [(_described(item), count.tokens, count.extra_tokens) for item, count in counts.items]
    if len(rows) > 1:
        rows.append(("all", counts.tokens, counts.extra_tokens))
    width = max(len(row[0]) for row in rows)
    typer.echo(one_line(files.name))
    typer.echo(f"{'':<{width}}  {'tokens':>9}  {'+ tags':>7}")
    for what, tokens, extra in rows:
        typer.echo(f"{what:<{width}}  {tokens:>9,}  {extra:>7,}")
    for note in notes:
        typer.echo(f"note: {one_line(note)}", err=True)


def _described(item: Any) -> str:
    if item.kind == "audio":
        return f"audio of {item.seconds:g} s"
    size = f"{item.height}x{item.width}"
    if item.kind == "image":
        return f"image {size}"
    return f"video of {item.frames} frame{'s' if item.frames != 1 else ''}, {size}"
