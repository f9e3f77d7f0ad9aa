"""What is recorded of a day: which requests sampling keeps, and which spans are lost or exported twice."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from synthetic.scenarios import Recording
from synthetic.spans import Span
from vtprof_schemas import names

_SLOW_QUANTILE = 0.95


def sampling_ratios(
    recording: Recording, requests: pl.DataFrame, rng: np.random.Generator
) -> list[float | None]:
    """Return for each request the probability with which it was kept; None: it was left out.

    As tail sampling does, the slowest twentieth of each stratum of visual tokens and all that failed are kept for certain.
    """
    ratios: list[float | None] = []
    drawn = rng.random(len(requests))
    visual = (requests["image_tokens"] + requests["video_tokens"]).to_list()
    strata = [names.visual_stratum(count) for count in visual]
    ttft = requests["ttft_ns"].to_list()
    limits = {
        stratum: float(
            np.quantile([t for s, t in zip(strata, ttft, strict=True) if s == stratum and t], _SLOW_QUANTILE)
        )
        for stratum in {s for s, t in zip(strata, ttft, strict=True) if t}
    }
    rows = zip(strata, ttft, requests["status"].to_list(), drawn.tolist(), strict=True)
    for stratum, first, status, chance in rows:
        certain = status != names.STATUS_OK or (first is not None and first >= limits[stratum])
        if certain or recording.keep_ratio >= 1:
            ratios.append(1.0)
        else:
            ratios.append(recording.keep_ratio if chance < recording.keep_ratio else None)
    return ratios


def lose(
    recording: Recording, spans: Sequence[Span], rng: np.random.Generator
) -> tuple[list[Span], pl.DataFrame]:
    """Return the spans that arrive, some of them twice, and how many of which name did not."""
    lost = (rng.random(len(spans)) < recording.lost_span_share).tolist()
    again = (rng.random(len(spans)) < recording.duplicate_share).tolist()
    arrived: list[Span] = []
    counts: dict[tuple[str, str], int] = {}
    for span, is_lost, is_double in zip(spans, lost, again, strict=True):
        if is_lost:
            counts["lost", span.name] = counts.get(("lost", span.name), 0) + 1
            continue
        arrived.append(span)
        if is_double:
            arrived.append(span)
            counts["duplicate", span.name] = counts.get(("duplicate", span.name), 0) + 1
    roots = {(span.ids.low, span.ids.span) for span in arrived if span.name == names.SPAN_REQUEST}
    phases = set(names.PHASE_SPANS.values())
    orphans = {
        span.ids for span in arrived if span.name in phases and (span.ids.low, span.parent) not in roots
    }
    rows = [(kind, name, count) for (kind, name), count in sorted(counts.items())]
    rows.append(("orphan", "", len(orphans)))
    return arrived, pl.DataFrame(
        rows, {"kind": pl.String, "span": pl.String, "count": pl.Int64}, orient="row"
    )
