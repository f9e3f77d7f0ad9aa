"""Whether two sides, or the runs of one, can be compared at all: one line for each reason to doubt it.

Only what runs themselves tell is judged: what was not recorded says nothing. Requests are in order of start, so that a
clock that went back no longer shows; and nothing tells when a process was started, only how long its run is.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from operator import attrgetter
from typing import Final

import numpy as np

from vtprof_analyzer.regress.requests import Integers, Requests, Run

_COLUMNS: Final = {
    "text_tokens": "text tokens",
    "visual_tokens": "visual tokens",
    "output_tokens": "output tokens",
    "cached_tokens": "cached tokens",
    "in_flight": "requests in flight",
    "queue_ms": "queue times",
    "prefill_ms": "prefill times",
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
}
"""What every request has where it is recorded at all; what depends on media may be missing for want of media."""
_KNOWN_SHARE: Final = 0.5
_NS: Final = 1e9
_DAY_S: Final = 86_400.0
_OLD_DAYS: Final = 30
_LONGER: Final = 10
_WARM_UP_S: Final = 60.0
_FIRST_DATE_S: Final = 946_684_800
"""The year 2000: what begins before counts time from something else than 1970."""
_MOST_NAMES: Final = 4


def warnings(base: Sequence[Run], new: Sequence[Run], expect_change: bool) -> tuple[str, ...]:
    """Return why BASE and NEW may not be comparable, a line each.

    With ``expect_change`` another model, engine, device or setting is the change under test, and none of these lines.
    """
    sides = {"BASE": base, "NEW": new}
    lines = [] if expect_change else [*_models(base, new), *_descriptions(base, new)]
    for side, runs in sides.items():
        lines += _unlike(side, runs)
    lines += _shared(base, new)
    lines += _recorded(base, new)
    lines += _when(base, new)
    lines += _how_long(sides)
    return tuple(lines)


def differences(there: Sequence[Run], added: Run) -> tuple[str, ...]:
    """Return in what a run differs from runs of one deployment: ``engine: vllm 0.33.0 there, vllm 0.34.0 here``."""
    found = []
    for what, told in _TOLD:
        before, here = _values(there, told), told(added)
        if before and here and here not in before:
            found.append(f"{what}: {_listed(before)} there, {_named(here)} here")
    return tuple(found)


def requests_in_both(first: Requests, second: Requests) -> int:
    """Return how many requests are in both tables: same id, same start and same TTFT.

    Ids alone do not tell: many are numbers that begin anew with each run.
    """
    if not len(first) or not len(second):
        return 0
    begin = max(first.start_ns[0], second.start_ns[0])
    end = min(first.start_ns[-1], second.start_ns[-1])
    if begin > end:
        return 0
    starts = np.intersect1d(first.start_ns, second.start_ns)
    if not len(starts):
        return 0
    return len(_keys(first, starts) & _keys(second, starts))


def _keys(requests: Requests, starts: Integers) -> set[tuple[str, int, str]]:
    found = requests.select(np.isin(requests.start_ns, starts))
    return {
        (str(id_), int(start), repr(float(ttft)))
        for id_, start, ttft in zip(found.ids, found.start_ns, found.ttft_ms, strict=True)
    }


def _served(run: Run) -> tuple[str, ...]:
    """Return the models that the run's requests name, in order of name."""
    models = run.requests.models
    named = {models[index] for index in np.unique(run.requests.model).tolist() if 0 <= index < len(models)}
    return tuple(sorted(named - {""}))


_TOLD: Final[tuple[tuple[str, Callable[[Run], object]], ...]] = (
    ("models", _served),
    ("engine", attrgetter("engine")),
    ("device", attrgetter("device")),
    ("settings", attrgetter("settings")),
)
"""What runs of one deployment have in common; nothing, where it was not recorded."""


def _values(runs: Sequence[Run], told: Callable[[Run], object]) -> list[object]:
    """Return what is known of runs, each value once, most frequent first."""
    counted = Counter(value for run in runs if (value := told(run)))
    return [value for value, _ in counted.most_common()]


def _models(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    before = {model for run in base for model in _served(run)}
    after = {model for run in new for model in _served(run)}
    if not before or not after or before == after:
        return []
    if not before & after:
        return [f"no served model is on both sides: BASE has {_names(before)}, NEW has {_names(after)}"]
    only = [
        f"only {side} has {_names(models)}"
        for side, models in (("BASE", before - after), ("NEW", after - before))
        if models
    ]
    return [f"other served models: {'; '.join(only)}; what both have is compared"]


def _descriptions(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    lines = []
    for what, told in _TOLD[1:]:
        before, after = _values(base, told), _values(new, told)
        if before and after and set(before) != set(after):
            other = f"other {what}" if what == "settings" else f"another {what}"
            lines.append(f"{other}: BASE {_listed(before)}, NEW {_listed(after)}")
    return lines


def _unlike(side: str, runs: Sequence[Run]) -> list[str]:
    """Return in what the runs of one side differ, and which of them are the same run twice."""
    lines = []
    for what, told in _TOLD:
        values = _values(runs, told)
        if len(values) > 1:
            lines.append(
                f"runs of {side} differ in {what} ({_listed(values)}): that counts as noise from run to run"
            )
    for (first, one), (second, other) in combinations(enumerate(runs, 1), 2):
        if common := requests_in_both(one.requests, other.requests):
            lines.append(
                f"runs {first} and {second} of {side} have {_requests(common)} in common: noise from run to run looks"
                " smaller than it is"
            )
    return lines


def _shared(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    common = sum(requests_in_both(one.requests, other.requests) for one in base for other in new)
    whole = min(sum(len(run.requests) for run in side) for side in (base, new))
    if not common:
        return []
    return [f"{_requests(common)} of {whole:,} are on both sides: give runs that do not overlap"]


def _recorded(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """Return what only one side's requests tell: the other's cannot be compared by it, nor at like values of it."""
    only: dict[str, list[str]] = {"BASE": [], "NEW": []}
    for column, words in _COLUMNS.items():
        before, after = _known_share(base, column), _known_share(new, column)
        if after == 0 and before > _KNOWN_SHARE:
            only["BASE"].append(words)
        elif before == 0 and after > _KNOWN_SHARE:
            only["NEW"].append(words)
    return [f"only {side} records {', '.join(words)}" for side, words in only.items() if words]


def _known_share(runs: Sequence[Run], column: str) -> float:
    """Return the share of requests that have a value; 0.5, which decides nothing, without requests."""
    known = [np.isfinite(getattr(run.requests, column)) for run in runs if len(run.requests)]
    return float(np.concatenate(known).mean()) if known else _KNOWN_SHARE


def _span_s(run: Run) -> tuple[float, float] | None:
    """Return when the first and the last request started [s]; None without requests."""
    if not len(run.requests):
        return None
    return float(run.requests.start_ns[0]) / _NS, float(run.requests.start_ns[-1]) / _NS


def _when(base: Sequence[Run], new: Sequence[Run]) -> list[str]:
    before = [span for run in base if (span := _span_s(run))]
    after = [span for run in new if (span := _span_s(run))]
    if not before or not after or min(begin for begin, _ in before + after) < _FIRST_DATE_S:
        return []
    days = (min(begin for begin, _ in after) - max(end for _, end in before)) / _DAY_S
    if days > _OLD_DAYS:
        return [
            f"BASE ended {days:,.0f} days before NEW began: what is around the engine may have changed too"
        ]
    if min(begin for begin, _ in before) > max(end for _, end in after):
        return ["NEW ended before BASE began: they may have been swapped"]
    return []


def _how_long(sides: dict[str, Sequence[Run]]) -> list[str]:
    lasted = {}
    for side, runs in sides.items():
        spans = [end - begin for run in runs if (span := _span_s(run)) for begin, end in [span]]
        if not spans:
            return []
        lasted[side] = sum(spans) / len(spans)
    lines = []
    shortest, longest = min(lasted.values()), max(lasted.values())
    if longest >= _LONGER * shortest and longest > _WARM_UP_S:
        lines.append(
            f"a run of BASE lasts {_time(lasted['BASE'])}, one of NEW {_time(lasted['NEW'])}: what drifts slowly weighs"
            " differently"
        )
    short = [side for side, seconds in lasted.items() if seconds < _WARM_UP_S]
    if short:
        lines.append(
            f"{' and '.join(short)}: runs of less than {_WARM_UP_S:g} s show little but warm-up if the engine had just been"
            " started"
        )
    return lines


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"


def _named(value: object) -> str:
    return _names(value) if isinstance(value, tuple) else str(value)


def _names(models: Sequence[str] | set[str] | tuple[str, ...]) -> str:
    """Return names as a list, cut where there are many."""
    listed = sorted(models)
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return ", ".join(listed[:_MOST_NAMES]) + more


def _listed(values: Sequence[object]) -> str:
    more = f" or {len(values) - _MOST_NAMES} others" if len(values) > _MOST_NAMES else ""
    return " or ".join(map(_named, values[:_MOST_NAMES])) + more
