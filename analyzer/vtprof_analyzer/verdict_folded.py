"""What a verdict is worth when iterations of its phase were folded into windows that mix phases."""

from dataclasses import dataclass, replace

from vtprof_analyzer import verdict as v
from vtprof_analyzer.verdict import Thresholds, Verdict

_DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Folded:
    """What of one phase was left out, a row of `folded_phases`."""

    phase: str
    left_out: int
    """Iterations of the windows that held it."""
    judged: int
    """Iterations that held it and were judged."""
    work_share: float | None
    """Part of its work in those windows, 0..1; None where not recorded."""
    iterations_share: float
    """Part of all iterations of the run in those windows, 0..1."""


def despite_folding(verdict: Verdict, folded: Folded | None, limits: Thresholds = _DEFAULTS) -> Verdict:
    """Return the verdict as sure as the judged iterations allow: low confidence when they are the smaller part."""
    if folded is None:
        return verdict
    if not folded.judged:
        reason = (
            f"all {folded.left_out:,} iterations that may hold it were folded into windows with other work, as the"
            " agent had shed detail"
        )
        unknown = v.not_judged(folded.phase, reason)
        return replace(
            verdict, bound=unknown.bound, confidence=unknown.confidence, explanation=unknown.explanation
        )
    work = folded.work_share or 0.0
    if verdict.bound == v.INSUFFICIENT_DATA or max(work, folded.iterations_share) <= limits.folded_ratio:
        return verdict
    share, whole = (
        (work, "its work") if work > limits.folded_ratio else (folded.iterations_share, "all iterations")
    )
    doubt = f"{v.percent(share)} of {whole} went into folded windows with other work, which are not judged"
    return replace(verdict, confidence=v.LOW, explanation=f"{verdict.explanation}; {doubt}")
