"""``--list-models`` and ``--list-devices``: what the tables hold."""

import typer


def list_devices(wanted: bool) -> None:
    """Print the device table's names and end."""
    if not wanted:
        return
    from vtprof_analyzer.devices.catalogue import catalogue

    typer.echo("\n".join(device.name for device in catalogue()))
    raise typer.Exit


def list_models(wanted: bool) -> None:
    """Print the bundled models, their size and where their numbers come from, and end."""
    if not wanted:
        return
    from vtprof_analyzer.models.bundled import bundled_models
    from vtprof_analyzer.models.registry import load_spec

    rows = [("name", "parameters", "sure", "where the numbers come from")]
    for model in sorted(bundled_models(), key=lambda model: model.name.lower()):
        spec = load_spec(model.files.config or {})
        text = "" if spec.vision or spec.audio else "text only; "
        size = f"{spec.params.total / 1e9:.3g} B"
        rows.append((model.name, size, model.confidence, text + model.source))
    names, sizes, sure = (max(len(row[column]) for row in rows) for column in range(3))
    for name, size, confidence, source in rows:
        typer.echo(f"{name:<{names}}  {size:>{sizes}}  {confidence:<{sure}}  {source}")
    raise typer.Exit
