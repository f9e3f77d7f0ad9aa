"""Write the reference page of all series from their declarations.

``python -m vtprof_agent.metrics.reference > deploy/prometheus/METRICS.md``; a test fails when the two differ.
"""

import sys

from vtprof_agent.metrics.series import AS_POINT, SERIES, Series

_HEAD = """\
# Metrics of the agent

Generated from `agent/vtprof_agent/metrics/series.py`; do not edit.
Refresh: `python -m vtprof_agent.metrics.reference > deploy/prometheus/METRICS.md`.

The same series go to an OTLP endpoint under the OpenTelemetry name, without a scrape. Where it has no unit here, it is one
of the metric points of `schemas/REFERENCE.md`, with the unit there. What an engine or a GPU does not tell is absent, not 0.

| Metric | Kind | Labels | Meaning | OpenTelemetry | Unit |
|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(map(_row, SERIES.values()))


def _row(series: Series) -> str:
    labels = ", ".join(f"`{label}`" for label in series.labels)
    unit = "" if series.unit == AS_POINT else f"`{series.unit}`"
    cells = (f"`{series.name}`", series.kind, labels, series.meaning, f"`{series.otel}`", unit)
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
