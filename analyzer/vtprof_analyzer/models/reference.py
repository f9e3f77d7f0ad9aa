"""Writes the page of known models: ``python -m vtprof_analyzer.models.reference > analyzer/MODELS.md``."""

import sys

from vtprof_analyzer.models.bundled import Bundled, bundled_models
from vtprof_analyzer.models.known import FAMILIES, TOKEN_RULES
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.text.registry import DECODERS
from vtprof_analyzer.models.vision.registry import ENCODERS

_HEAD = """# Models that vtprof knows

Generated from the sources (`make docs`). A model is known by the `model_type` of its config.json. What is not in these lists
is put together from its sections where both are known, and its tokens are counted by patch arithmetic; the output says so.
"""


def page() -> str:
    """Return the page."""
    kinds = sorted({*FAMILIES, *TOKEN_RULES}, key=lambda kind: (kind.lower(), kind))
    rows = [f"| `{kind}` | {_mark(kind in TOKEN_RULES)} | {_mark(kind in FAMILIES)} |" for kind in kinds]
    models = sorted(bundled_models(), key=lambda model: model.name.lower())
    return "\n".join(
        [
            _HEAD,
            f"## Families: {len(kinds)} model types",
            "",
            "| model_type | tokens | sizes and cost |",
            "|---|---|---|",
            *rows,
            "",
            f"## Decoders: {len(DECODERS)} text model types",
            "",
            ", ".join(f"`{kind}`" for kind in sorted(DECODERS, key=str.lower)),
            "",
            f"## Towers: {len(ENCODERS)} vision and audio model types",
            "",
            ", ".join(f"`{kind}`" for kind in sorted(ENCODERS, key=str.lower)),
            "",
            f"## Bundled: {len(models)} released models",
            "",
            "`vtprof tokens NAME`, `vtprof estimate NAME`; a checkpoint's id works as well. Nothing is downloaded.",
            "",
            "| Name | Checkpoint | Parameters (10⁹) | Confidence | Where the numbers come from |",
            "|---|---|---|---|---|",
            *(_row(model) for model in models),
            "",
        ]
    )


def _row(model: Bundled) -> str:
    billions = _billions(model.files.config)
    return f"| {model.name} | {', '.join(model.ids)} | {billions} | {model.confidence} | {model.source} |"


def _mark(known: bool) -> str:
    return "yes" if known else "–"


def _billions(config: object) -> str:
    assert isinstance(config, dict)
    return f"{load_spec(config).params.total / 1e9:,.3g}"


if __name__ == "__main__":
    sys.stdout.write(page())
