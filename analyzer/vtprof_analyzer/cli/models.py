"""``--list-models``: the bundled models, with where their numbers come from."""

import typer


def list_models(wanted: bool) -> None:
    """Print the bundled models and end."""
    if not wanted:
        return
    from vtprof_analyzer.models.bundled import bundled_models

    models = sorted(bundled_models(), key=lambda model: model.name.lower())
    width = max(len(model.name) for model in models)
    for model in models:
        typer.echo(f"{model.name:<{width}}  {model.source} (confidence {model.confidence})")
    raise typer.Exit
