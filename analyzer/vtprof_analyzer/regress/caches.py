"""What share of requests' media, or of their prompts, a cache did not hold, at like requests."""

from dataclasses import replace
from typing import Final, Literal

import numpy as np

from vtprof_analyzer.regress.contrast import bins, cells_of
from vtprof_analyzer.regress.estimate import EVIDENCE, FEWEST, FEWEST_ALIKE, Estimate, Sides, estimate
from vtprof_analyzer.regress.phases import Given, given_of, looks_like_hit
from vtprof_analyzer.regress.requests import Floats, Requests

_CACHE_RUN_NOISE: Final = 0.01
"""Hit rates differ by the items that a run happens to see: a point, from run to run."""


def cache(sides: Sides, what: Literal["encoder cache", "prefix cache"], *, moved: bool) -> Estimate | None:
    """Return the change of a cache's hit rate at like requests; None where no cache shows."""
    given = given_of("encode", sides.tables[sides.base], sides.tables[sides.new])
    hits, chosen = zip(*(_hits(table, what, given) for table in sides.tables), strict=True)
    rows = tuple(np.flatnonzero(one) for one in chosen)
    counts = tuple(sum(len(row) for row in rows[side]) for side in (sides.base, sides.new))
    if not any(float(hit[row].sum()) > 0 for hit, row in zip(hits, rows, strict=True)):
        return None
    empty = Estimate("cache", "cache", sides.model, what=what, requests=(counts[0], counts[1]))
    if min(counts) < FEWEST:
        side = "BASE" if counts[0] <= counts[1] else "NEW"
        return replace(
            empty,
            why_not=f"{min(counts)} requests of {side} tell of the {what}: at least {FEWEST} are needed",
        )
    tables = [(table, row) for table, row in zip(sides.tables, rows, strict=True)]
    visual = bins([table.visual_tokens[row] for table, row in tables], 8)
    text = bins([table.text_tokens[row] for table, row in tables], 8)
    cells = cells_of(
        [8 * one + other for one, other in zip(text, visual, strict=True)],
        [table.weight[row] for table, row in tables], sides.base_runs,
    )  # fmt: skip
    if cells.effective < FEWEST_ALIKE:
        return replace(
            empty, why_not="too few of NEW's requests have like ones in BASE", overlap=cells.overlap
        )
    values = [hit[row] for hit, row in zip(hits, rows, strict=True)]
    # Of misses, so that more is worse.
    missing = [1 - value for value in values]
    found = estimate("cache", "cache", sides, cells, missing, _CACHE_RUN_NOISE)
    if moved and what == "prefix cache":
        # As much of a longer prompt is a smaller share: it has to show in how many requests hit at all, too.
        none = [(value == 0).astype(np.float64) for value in values]
        other = estimate("cache", "cache", sides, cells, none, _CACHE_RUN_NOISE)
        if abs(other.difference) < abs(found.difference) or other.difference * found.difference < 0:
            found, missing = other, none
    if moved:
        doubt = max(cells.doubt(missing, group) for group in (visual, text))
        found = replace(found, block_variance=found.block_variance + doubt)
    rates = [
        float(np.abs(np.concatenate(cells.shares[side])) @ np.concatenate(values[side]))
        for side in (sides.base, sides.new)
    ]
    missed = [
        str(table.ids[row[at]])
        for table, row, hit in zip(sides.tables[sides.new], rows[sides.new], values[sides.new], strict=True)
        for at in np.flatnonzero(hit == 0)[:EVIDENCE]
    ]
    return replace(found, what=what, values=(rates[0], rates[1]), evidence=tuple(missed[:EVIDENCE]))


def _hits(q: Requests, what: str, given: Given) -> tuple[Floats, np.ndarray]:
    """Return each request's hit share, and which requests could have hit."""
    if what == "prefix cache":
        prompt = np.nan_to_num(q.text_tokens) + np.nan_to_num(q.visual_tokens) + np.nan_to_num(q.audio_tokens)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(q.cached_tokens / prompt, 0, 1)
        return np.nan_to_num(share), np.isfinite(share) & np.isfinite(q.visual_tokens + q.text_tokens)
    known = np.isfinite(q.encoder_hit)
    media = (q.visual_tokens > 0) & np.isfinite(q.text_tokens)
    if known.any():
        return np.nan_to_num(q.encoder_hit), media & known
    return looks_like_hit(q, given.hit_below).astype(np.float64), media & np.isfinite(q.encode_ms)
