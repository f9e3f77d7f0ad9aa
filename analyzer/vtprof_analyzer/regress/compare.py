"""`compare`: two sides of runs in, a verdict out. Pure: no file is read here and nothing printed.

1. Each served model by itself: load on each request (`load.py`), a cost model of each phase over both sides
   (`cost_model.py`).
2. A phase's change at like work: means within cells of like requests (`contrast.py`), with the variance of blocks of
   time and the noise from run to run (`noise.py`): `shifts.py`, `tails.py`, `caches.py`.
3. Every estimate takes its share of alpha (`decide.py`). A queue that is longer because of what else was found, of more
   load or of other requests is no cause of its own.
4. What differs in mix and load (`workload.py`), why TTFT changed (`decompose.py`), where (`strata.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from vtprof_analyzer.regress import decompose, workload
from vtprof_analyzer.regress.caches import cache
from vtprof_analyzer.regress.common import in_common
from vtprof_analyzer.regress.comparable import warnings
from vtprof_analyzer.regress.comparison import Comparison, Effect, SideSummary, StratumEffect, Verdict
from vtprof_analyzer.regress.decide import bars, decide, needed
from vtprof_analyzer.regress.estimate import Estimate, Sides
from vtprof_analyzer.regress.fitted import Fitted, Missing, fit
from vtprof_analyzer.regress.load import with_known_flights
from vtprof_analyzer.regress.noise import RUN_NOISE
from vtprof_analyzer.regress.phases import COMPARED, is_whole
from vtprof_analyzer.regress.queues import queue
from vtprof_analyzer.regress.raw_metrics import metrics
from vtprof_analyzer.regress.requests import Floats, Requests, Run
from vtprof_analyzer.regress.shifts import shift
from vtprof_analyzer.regress.strata import strata
from vtprof_analyzer.regress.tails import tail
from vtprof_analyzer.regress.thin import judged as judged_of
from vtprof_analyzer.regress.thin import of_model, thin, with_load

_NEEDED_SHARE: Final = 0.2
"""Of TTFT, from which on a phase has to be judged before nothing is said to have changed."""
_NEEDED_FOR: Final = ("encode", "prefill", "decode")
"""Phases of which `requests_needed` speaks: where a single pair of runs can tell 5 % at all."""
_NEVER: Final = ("transfer", "unexplained", "kv")
"""Phases that most deployments do not have: where no request has them nothing is said."""
_WITH_TAIL: Final = ("preprocess", "encode", "transfer", "prefill", "decode")
_LONG_WAIT: Final = 0.15
"""Of BASE's mean TTFT."""
_MOSTLY_WHOLE: Final = 0.5
_MOST_MODELS: Final = 20
_COLUMNS: Final = {"kv": "kv_bytes", "decode": "tpot_ms"}
_SLOWS_QUEUE: Final = ("encode", "prefill", "decode", "transfer", "cache")
_CACHES: Final[tuple[Literal["encoder cache", "prefix cache"], ...]] = ("encoder cache", "prefix cache")
_TTFT: Final = ("preprocess", "encode", "prefill")


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    alpha: float = 0.01
    """Probability that a regression is called where the engine did not change."""
    min_effect: float = 0.02
    """Relative changes below it do not matter."""
    expect_change: bool = False
    """Another model, device or engine is the change under test, and no warning."""


@dataclass(frozen=True)
class _Judged:
    """One served model, and the models of its phases."""

    sides: Sides
    fitted: dict[str, Fitted]
    missing: dict[str, Missing]
    """Phases without a model."""


def compare(base: Sequence[Run], new: Sequence[Run], options: Options = Options()) -> Comparison:
    """Return what changed from BASE to NEW. Raises nothing for data that is too little: that is an outcome."""
    given = (base, new)
    common = in_common(base, new)
    base, new = common.base, common.new
    if options.expect_change:
        base, new = _as_one_model(base, new)
    runs = [*base, *new]
    names, few = _most_served(base, new)
    kept = [*thin([run.requests for run in base]), *thin([run.requests for run in new])]
    thinned = [judged_of(run.requests, one) for run, one in zip(runs, kept, strict=True)]
    judged = []
    for name in names:
        pairs = [with_load(run.requests, one, name) for run, one in zip(runs, kept, strict=True)]
        loads = with_known_flights([load for _, load in pairs])
        sides = Sides(name, tuple(table for table, _ in pairs), tuple(loads), len(base))
        judged.append(_fit(sides, common.gone))
    changed = workload.changes(thinned[: len(base)], thinned[len(base) :], _costs(judged, thinned))
    moved = bool(changed.shifts)
    estimates = [one for each in judged for one in _estimate(each, moved=moved)]
    passing = bars(estimates, options.alpha, options.min_effect, moved=moved)
    effects = [decide(one, bar) for one, bar in zip(estimates, passing, strict=True)]
    told_metrics = metrics(*given) if base and new else ()
    means = {one.metric: (one.base or 0.0, one.new or 0.0) for one in told_metrics if one.statistic == "mean"}
    whole = bool(thinned) and all(is_whole(q).mean() > _MOSTLY_WHOLE for q in thinned if len(q))
    effects = _without_followers(effects, changed, means.get("ttft_ms", (0.0, 0.0))[0], whole=whole)
    causes = _largest([one for one in effects if one.outcome == "regression"])
    improvements = _largest([one for one in effects if one.outcome == "improvement"])
    change = {
        (one.phase, one.model): one.difference for one in estimates if one.kind == "shift" and not one.why_not
    }
    told = decompose.decompose(
        thinned[: len(base)], thinned[len(base) :],
        [
            decompose.Changed(fitted, each.sides, change[phase, each.sides.model])
            for each in judged for phase, fitted in each.fitted.items()
        ],
    )  # fmt: skip
    shifts = [
        (one, bar) for one, bar in zip(estimates, passing, strict=True)
        if one.kind == "shift" and not one.why_not and one.phase in _NEEDED_FOR
    ]  # fmt: skip
    requests_needed, runs_needed = needed(shifts, (len(base), len(new)))
    noise = max((one for one, _ in shifts), key=lambda one: one.between, default=None)
    return Comparison(
        verdict=_verdict(effects, causes, improvements, means, common.gone),
        workload_shift=changed.mix,
        load_increase=changed.more_load,
        masked=bool(
            told
            and told.new_ms < told.base_ms * (1 - options.min_effect)
            and (changed.shifts or improvements)
            and any(one.phase not in ("kv", "decode") for one in causes)
        ),
        causes=causes,
        improvements=improvements,
        effects=tuple(effects),
        shifts=changed.shifts,
        strata=_strata(judged, estimates),
        metrics=told_metrics,
        decomposition=told,
        alpha=options.alpha,
        min_effect=options.min_effect,
        mde=_mde(effects),
        requests_needed=requests_needed,
        runs_needed=runs_needed,
        run_noise_ratio=noise.between**0.5 if noise else RUN_NOISE,
        run_noise_source="replicas" if noise and noise.told_by_replicas else "default",
        base=_summary(given[0]),
        new=_summary(given[1]),
        warnings=(
            *([f"{few} more models have fewer requests: not judged"] if few else []),
            *common.warnings,
            *warnings(*given, options.expect_change),
            *_notes(given),
        ),
    )


def _as_one_model(base: Sequence[Run], new: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs with one name for the model, where each side served another one, and but one: they are compared."""
    names = [_names(side) for side in (base, new)]
    if any(len(one) != 1 for one in names) or names[0] == names[1]:
        return list(base), list(new)
    both = f"{names[0][0]} -> {names[1][0]}"

    def renamed(run: Run) -> Run:
        q = run.requests
        return replace(run, requests=replace(q, model=np.zeros_like(q.model), models=(both,)))

    return [renamed(run) for run in base], [renamed(run) for run in new]


def _most_served(base: Sequence[Run], new: Sequence[Run]) -> tuple[list[str], int]:
    """Return the models with most requests on the side that has fewer of them, and how many others there are."""
    counts: list[dict[str, int]] = [{}, {}]
    for told, side in zip(counts, (base, new), strict=True):
        for run in side:
            for place, count in enumerate(
                np.bincount(run.requests.model, minlength=len(run.requests.models))
            ):
                if count:
                    name = run.requests.models[place]
                    told[name] = told.get(name, 0) + int(count)

    def size(name: str) -> tuple[int, int]:
        both = [told.get(name, 0) for told in counts]
        return min(both), max(both)

    names = sorted({*counts[0], *counts[1]}, key=size, reverse=True)
    return sorted(names[:_MOST_MODELS]), max(0, len(names) - _MOST_MODELS)


def _names(side: Sequence[Run]) -> list[str]:
    return sorted(
        {run.requests.models[at] for run in side for at in np.flatnonzero(np.bincount(run.requests.model))}
    )


def _fit(sides: Sides, gone: Mapping[str, str]) -> _Judged:
    fitted: dict[str, Fitted] = {}
    missing: dict[str, Missing] = {}
    for phase in COMPARED:
        found = fit(phase, sides)
        column = _COLUMNS.get(phase, f"{phase}_ms")
        if isinstance(found, Fitted):
            fitted[phase] = found
        elif column in gone:
            missing[phase] = Missing(gone[column], found.requests)
        elif not _absent(phase, sides):
            missing[phase] = found
    return _Judged(sides, fitted, missing)


def _estimate(judged: _Judged, *, moved: bool) -> list[Estimate]:
    """Estimate everything of one served model; ``moved``: the workload or load did."""
    sides = judged.sides
    estimates = [
        Estimate(phase, "shift", sides.model, requests=one.requests, why_not=one.why_not)
        for phase, one in judged.missing.items()
    ]
    for phase, fitted in judged.fitted.items():
        change = shift(fitted, sides, moved=moved)
        estimates.append(change)
        if phase in _WITH_TAIL:
            estimates.append(tail(fitted, sides, change.difference, moved=moved))
    waits = queue(sides)
    if waits is not None:
        estimates.append(waits)
    for what in _CACHES:
        hit = cache(sides, what, moved=moved)
        if hit is not None:
            estimates.append(hit)
    return estimates


def _absent(phase: str, sides: Sides) -> bool:
    """Say whether neither side has anything of a phase that a deployment need not have."""
    column = _COLUMNS.get(phase, f"{phase}_ms")
    some = any(np.any(getattr(q, column) > 0) for q in sides.tables)
    if phase in _NEVER:
        return not some
    if phase == "encode":
        return not some and not any(np.any(q.visual_tokens > 0) for q in sides.tables)
    return False


def _without_followers(
    effects: Sequence[Effect], changed: workload.Changed, ttft_ms: float, *, whole: bool
) -> list[Effect]:
    """Return the effects; a queue that something else explains is told as such, and so is a TTFT known as a ``whole``.

    A queue that grew by much of BASE's mean TTFT, for no reason that shows, is not passed over either.
    """
    found = []
    for one in effects:
        if (one.phase != "queue" and not (whole and one.phase == "unexplained")) or one.effect_ratio is None:
            found.append(one)
            continue
        why = _explained(one.model, effects, changed, slower=one.effect_ratio > 0)
        longer_ms = (one.new_value or 0.0) - (one.base_value or 0.0)
        if one.outcome != "no_change" and why:
            one = replace(one, outcome="no_change", why_not=why, evidence=())
        elif one.outcome == "no_change" and not why and longer_ms > _LONG_WAIT * ttft_ms:
            told = f"requests wait {longer_ms:.3g} ms longer, as queues do from run to run: several runs a side would tell"
            one = replace(one, outcome="insufficient_data", why_not=told)
        found.append(one)
    return found


def _explained(
    model: str, effects: Sequence[Effect], changed: workload.Changed, *, slower: bool
) -> str | None:
    """Return what else makes a model's requests wait longer, or shorter."""
    outcome, longer = ("regression", "longer") if slower else ("improvement", "shorter")
    others = [
        one.phase
        for one in effects
        if one.outcome == outcome and one.model == model and one.kind == "shift" and one.phase in _SLOWS_QUEUE
    ]
    if others:
        return f"requests wait {longer} because {others[0]} is {'slower' if slower else 'faster'}"
    if changed.more_load if slower else changed.less_load:
        return f"requests wait {longer} because {'more' if slower else 'fewer'} of them arrive"
    if changed.mix:
        return f"requests wait {longer} because those before them ask for other work"
    return None


def _verdict(
    effects: Sequence[Effect],
    causes: Sequence[Effect],
    improvements: Sequence[Effect],
    means: Mapping[str, tuple[float, float]],
    gone: Mapping[str, str],
) -> Verdict:
    """Return the verdict; ``means`` holds both sides' mean times, ``gone`` the columns that cannot be compared."""
    if causes:
        return "regression"
    judged = {one.phase for one in effects if one.outcome != "insufficient_data"}
    # A verdict of no change speaks for what a user waits for: decode, and what TTFT is made of.
    needed = set()
    for phase in (*_TTFT, "decode"):
        sides = means.get("tpot_ms" if phase == "decode" else f"{phase}_ms", (0.0, 0.0))
        share = 0.0 if phase == "decode" else _NEEDED_SHARE
        if max(sides) > share * max(means.get("ttft_ms", (0.0, 0.0))) or max(sides) > 0 == min(sides):
            needed.add(phase)
    waits = any(
        one.phase == "queue" and one.base_value is not None and one.phase not in judged for one in effects
    )
    if not judged & {*_TTFT, "decode", "unexplained"} or needed - judged or waits or "ttft_ms" in gone:
        return "insufficient_data"
    return "improvement" if improvements else "no_change"


def _largest(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Return effects in order of size: shifts of phases first, as a tail's ratio is of few requests."""
    return tuple(sorted(effects, key=lambda one: (one.kind == "tail", -abs(one.effect_ratio or 0.0))))


def _mde(effects: Sequence[Effect]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in effects:
        if one.kind == "shift" and one.mde is not None and np.isfinite(one.mde):
            found[one.phase] = max(found.get(one.phase, 0.0), one.mde)
    return found


def _strata(judged: Sequence[_Judged], estimates: Sequence[Estimate]) -> tuple[StratumEffect, ...]:
    between = {(one.phase, one.model): one.run_variance for one in estimates if one.kind == "shift"}
    return tuple(
        one
        for each in judged
        for phase, fitted in each.fitted.items()
        for one in strata(fitted, each.sides, between[phase, each.sides.model])
    )


def _costs(judged: Sequence[_Judged], tables: Sequence[Requests]) -> list[Floats] | None:
    """Return the work of each run's requests at one speed and load, over the phases of TTFT [ms]; None where not told."""
    found = [np.zeros(len(q)) for q in tables]
    any_phase = False
    for each in judged:
        for phase in _TTFT:
            fitted = each.fitted.get(phase)
            if fitted is None:
                continue
            any_phase = True
            for place, q in enumerate(tables):
                rows = np.flatnonzero(of_model(q, each.sides.model))[fitted.rows[place]]
                found[place][rows] += np.exp(fitted.workload[place])
    return found if any_phase else None


def _notes(given: Sequence[Sequence[Run]]) -> list[str]:
    """Return what the runs' reader noted, once each."""
    told: dict[str, list[str]] = {}
    for run in (run for side in given for run in side):
        for note in run.notes:
            told.setdefault(note, []).append(run.label)
    # A table's notes name it themselves.
    return [
        note if note.startswith(labels[0]) else f"{', '.join(labels)}: {note}"
        for note, labels in told.items()
    ]


def _summary(side: Sequence[Run]) -> SideSummary:
    skipped: dict[str, int] = {}
    for run in side:
        for what, count in run.skipped.items():
            skipped[what] = skipped.get(what, 0) + count
    starts = [run.requests.start_ns for run in side if len(run.requests)]
    return SideSummary(
        runs=tuple(run.label for run in side),
        requests=sum(len(run.requests) for run in side),
        skipped=skipped,
        models=tuple(_names(side)),
        engines=tuple(sorted({run.engine for run in side if run.engine})),
        devices=tuple(sorted({run.device for run in side if run.device})),
        settings=tuple(sorted({run.settings for run in side if run.settings})),
        begin_unix_nano=min((int(one[0]) for one in starts), default=None),
        end_unix_nano=max((int(one[-1]) for one in starts), default=None),
    )
