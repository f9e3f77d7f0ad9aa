"""Counts finished requests: latencies and phases by visual stratum, tokens, items, caches, GPU time and energy."""

from collections.abc import Iterable, Mapping

from vtprof_agent.facts import FinishedRequest, PhaseSpan, Value
from vtprof_agent.metrics import series
from vtprof_agent.metrics.store import Labels, Seen, Store
from vtprof_schemas import names
from vtprof_schemas.units import seconds_from_ns

MODALITY_OUTPUT = "output"
COVERED_WHOLE, COVERED_PART, COVERED_NONE = ("whole",), ("part",), ("none",)
"""How many of a request's phases on a GPU have an energy."""
CACHE_PROCESSOR = "processor"
CACHE_ENCODER = "encoder"
_ON_GPU = frozenset((names.ENCODE, names.PREFILL, names.DECODE))
_TOKENS = (
    (names.TOKENS_TEXT, ("text",)),
    (names.TOKENS_IMAGE, ("image",)),
    (names.TOKENS_VIDEO, ("video",)),
    (names.TOKENS_AUDIO, ("audio",)),
    (names.OUTPUT_TOKENS, (MODALITY_OUTPUT,)),
)
_ITEMS = (
    (names.ITEMS_IMAGE, ("image",)),
    (names.ITEMS_VIDEO, ("video",)),
    (names.ITEMS_AUDIO, ("audio",)),
)
_STRATUM_OF = {
    label: (label,) for label in (*(label for label, _ in names.VISUAL_STRATA), names.VISUAL_STRATUM_MORE)
}
_STATUS = {status: (status,) for status in names.STATUSES}
_SUMMED = (
    (names.GPU_TIME_NS, series.REQUEST_GPU_TIME, 1e-9),
    (names.GPU_ENERGY_MJ, series.REQUEST_ENERGY, 1e-3),
)
"""Attributes of phases that are added up, each with its counter and the factor to its unit."""


class _OfModel:
    """The store, where everything is of one model."""

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model

    def add(self, counter: series.Series, labels: Labels, amount: float) -> None:
        self._store.add(counter, (*labels, self._model), amount)

    def observe(self, histogram: series.Series, labels: Labels, value: float, seen: Seen | None) -> None:
        self._store.observe(histogram, (*labels, self._model), value, seen)


def count(
    everything: Store, finished: FinishedRequest, trace: tuple[int, int] | None, unix_s: float, model: str
) -> None:
    """Count a request; ``trace`` are trace and span id of its root span when that is exported, for exemplars."""
    store = _OfModel(everything, model)
    attributes = finished.attributes
    visual = sum(_number(attributes, key) for key in (names.TOKENS_IMAGE, names.TOKENS_VIDEO))
    stratum = _STRATUM_OF[names.visual_stratum(int(visual))]
    seen = None if trace is None else Seen(*trace, unix_s)
    store.add(
        series.REQUESTS, _STATUS.get(str(attributes.get(names.REQUEST_STATUS)), (names.STATUS_ERROR,)), 1
    )
    _count_known(store, series.TOKENS, attributes, _TOKENS)
    _count_known(store, series.ITEMS, attributes, _ITEMS)
    _phases(store, finished.phases, stratum, seen)
    covered = energy_coverage(finished.phases)
    if covered is not None:
        store.add(series.ENERGY_COVERAGE, (*covered, *stratum), 1)
    _caches(store, finished)
    if finished.first_token_ns is None:
        return
    store.observe(series.TTFT, stratum, seconds_from_ns(finished.first_token_ns - finished.start_ns), seen)
    output = int(_number(attributes, names.OUTPUT_TOKENS))
    if output >= 2:
        rest_s = seconds_from_ns(finished.end_ns - finished.first_token_ns)
        store.observe(series.TPOT, stratum, rest_s / (output - 1), seen)


def energy_coverage(phases: Iterable[PhaseSpan]) -> tuple[str] | None:
    """Return whether a request's phases on a GPU have an energy: all, some or none; None: it had no such phase."""
    known = [names.GPU_ENERGY_MJ in phase.attributes for phase in phases if _ran_on_gpu(phase)]
    if not known:
        return None
    return COVERED_WHOLE if all(known) else COVERED_PART if any(known) else COVERED_NONE


def _ran_on_gpu(phase: PhaseSpan) -> bool:
    told = phase.attributes
    if phase.phase not in _ON_GPU or told.keys() <= {names.PHASE}:
        return False  # of a phase in several fragments the first alone is told of
    return not (told.get(names.ENCODE_ITEMS) == 0 and _number(told, names.ENCODE_CACHE_HITS) > 0)


def _number(attributes: Mapping[str, Value], key: str) -> float:
    value = attributes.get(key, 0)
    return 0 if isinstance(value, str) else value


def _count_known(
    store: _OfModel,
    counter: series.Series,
    attributes: Mapping[str, Value],
    known: Iterable[tuple[str, tuple[str, ...]]],
) -> None:
    for key, labels in known:
        if key in attributes:
            store.add(counter, labels, _number(attributes, key))


def _phases(
    store: _OfModel, phases: Iterable[PhaseSpan], stratum: tuple[str, ...], seen: Seen | None
) -> None:
    durations: dict[str, int] = {}
    preemptions: list[float] = []
    for phase in phases:
        durations[phase.phase] = durations.get(phase.phase, 0) + phase.end_ns - phase.start_ns
        if names.DECODE_PREEMPTIONS in phase.attributes:
            preemptions.append(_number(phase.attributes, names.DECODE_PREEMPTIONS))
        for key, counter, scale in _SUMMED:
            if key in phase.attributes:
                store.add(counter, (phase.phase, *stratum), _number(phase.attributes, key) * scale)
    for name, duration_ns in durations.items():
        store.observe(series.PHASE_DURATION, (name, *stratum), seconds_from_ns(duration_ns), seen)
    if preemptions:
        store.add(series.PREEMPTIONS, (), sum(preemptions))


def _caches(store: _OfModel, finished: FinishedRequest) -> None:
    """Count what was looked up and what was found, only where the engine tells what it found."""
    processor: list[float] = []
    encoder: list[float] = []
    encoded = 0.0
    for phase in finished.phases:
        if names.PREPROCESS_CACHE_HITS in phase.attributes:
            processor.append(_number(phase.attributes, names.PREPROCESS_CACHE_HITS))
        if names.ENCODE_CACHE_HITS in phase.attributes:
            encoder.append(_number(phase.attributes, names.ENCODE_CACHE_HITS))
            encoded += _number(phase.attributes, names.ENCODE_ITEMS)
    if processor:
        items = sum(_number(finished.attributes, key) for key, _ in _ITEMS)
        _looked_up(store, CACHE_PROCESSOR, sum(processor), max(items, sum(processor)))
    if encoder:
        _looked_up(store, CACHE_ENCODER, sum(encoder), encoded + sum(encoder))
    if names.TOKENS_CACHED in finished.attributes and names.INPUT_TOKENS in finished.attributes:
        store.add(series.PREFIX_LOOKUPS, (), _number(finished.attributes, names.INPUT_TOKENS))
        store.add(series.PREFIX_HITS, (), _number(finished.attributes, names.TOKENS_CACHED))


def _looked_up(store: _OfModel, cache: str, hits: float, lookups: float) -> None:
    store.add(series.CACHE_LOOKUPS, (cache,), lookups)
    store.add(series.CACHE_HITS, (cache,), hits)
