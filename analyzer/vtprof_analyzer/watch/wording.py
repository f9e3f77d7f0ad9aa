"""Alerts in words: from what was found to labels, sentences with units, and the JSON that others read."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from vtprof_analyzer.watch.alerts import NAMES, Alert, Kind, Notification, Severity, clean_labels, clean_text
from vtprof_analyzer.watch.events import Alarm, Gap, LeftOut, LoadUnknown, Over, Standing, Unlike
from vtprof_analyzer.watch.kv_forecast import Exhaustion
from vtprof_analyzer.watch.slo import BUDGET_DAYS, Burn, Metric
from vtprof_schemas.printable import one_line

SCHEMA_VERSION: Final = 1
NO_LONGER_WATCHED: Final = "Not known to be better: it is watched no longer, or with another limit."
INSTANCE_SILENT: Final = "Not known to be better: the instance has told nothing for as long as a trend takes."
_MOST_EVIDENCE: Final = 20
_LONGEST_ID: Final = 128
_SHOWN_IDS: Final = 3
_WORDS: Final = {
    "kv": "KV bytes per token",
    "cache": "cache misses",
    "queue": "waiting in the queue",
    "decode": "decode (time per output token)",
}
_COLUMNS: Final = {
    "images": "n_images", "encoder_hit": "encoder_cache_hit", "in_flight": "requests_in_flight",
    "text_tokens": "n_text_tokens", "visual_tokens": "n_visual_tokens", "output_tokens": "n_output_tokens",
}  # fmt: skip
"""Columns by the names that a request table has for them."""


class Labels:
    """Makes the labels of alerts: the kind's own, and those that the user gave to all."""

    def __init__(self, service: str, extra: Mapping[str, str]) -> None:
        """Raises ValueError for a label's name that is none."""
        self._common = dict(clean_labels({**extra, "service": service}))

    def of(self, alert: Kind, severity: Severity, /, **own: str) -> tuple[tuple[str, str], ...]:
        """Return the labels of an alert."""
        return clean_labels({**self._common, **own, "alertname": NAMES[alert], "severity": severity})

    def regression(self, phase: str, kind: str, model: str) -> tuple[tuple[str, str], ...]:
        """Return the labels of a regression."""
        return self.of("regression", "warning", phase=phase, kind=kind, model=model)

    def slo_burn(self, metric: Metric, severity: Severity) -> tuple[tuple[str, str], ...]:
        """Return the labels of an objective whose budget burns."""
        return self.of("slo_burn", severity, objective=metric)

    def kv_exhaustion(self, instance: str) -> tuple[tuple[str, str], ...]:
        """Return the labels of an instance's cache."""
        return self.of("kv_exhaustion", "warning", phase="kv", instance=instance)

    def no_data(self) -> tuple[tuple[str, str], ...]:
        """Return the labels of silence."""
        return self.of("no_data", "warning")


def regression(labels: Labels, alarm: Alarm) -> Alert:
    """Return the alert of a regression."""
    what = _WORDS.get(alarm.phase, alarm.phase)
    model = f" of {one_line(alarm.model, 80)}" if alarm.model else ""
    interval = f"95 % interval {_change(alarm.ci_low)} to {_change(alarm.ci_high)}"
    if alarm.kind == "shift" and alarm.phase != "cache":
        more = "more" if alarm.phase == "kv" else "slower"
        at_least = "at least " if alarm.at_least else ""
        summary = f"{what}{model} is {at_least}{_percent(alarm.effect_ratio)} {more} at like work and load"
    elif alarm.phase == "cache":
        summary = f"cache misses{model} changed by {_change(alarm.effect_ratio)}"
    elif alarm.share_ratio is not None and alarm.base_share_ratio is not None:
        summary = (
            f"{what}{model}: {_percent(alarm.share_ratio)} of requests take far longer than their work explains, "
            f"{_percent(alarm.base_share_ratio)} in the base"
        )
    else:
        summary = f"{what}{model}: {_change(alarm.effect_ratio)} requests far beyond what their work explains"
    evidence = tuple(one_line(one, _LONGEST_ID) for one in alarm.evidence[:_MOST_EVIDENCE])
    shown = f"Requests that show it: {', '.join(evidence[:_SHOWN_IDS])}." if evidence else ""
    least = (
        "At least: load that a slow engine makes of its own is taken off with all other. "
        if alarm.at_least
        else ""
    )
    of = "share of such requests: " if alarm.kind == "tail" else ""
    description = (
        f"{of}{_change(alarm.effect_ratio)} ({interval}) against the base since about {_time(alarm.began_unix_nano)}, "
        f"judged by {alarm.requests:,} requests. Bigger images, longer prompts and more load are "
        f"accounted for. {least}{shown}".rstrip()
    )
    return Alert(
        kind="regression",
        severity="warning",
        labels=labels.regression(alarm.phase, alarm.kind, alarm.model),
        began_unix_nano=alarm.began_unix_nano,
        time_unix_nano=alarm.time_unix_nano,
        summary=clean_text(summary),
        description=clean_text(description),
        detail={
            "phase": alarm.phase,
            "kind": alarm.kind,
            "model": one_line(alarm.model, _LONGEST_ID),
            "effect_ratio": _known(alarm.effect_ratio),
            "ci_low": _known(alarm.ci_low),
            "ci_high": _known(alarm.ci_high),
            "at_least": alarm.at_least,
            "share_ratio": alarm.share_ratio,
            "base_share_ratio": alarm.base_share_ratio,
            "requests": alarm.requests,
            "evidence": list(evidence),
            "statistic": _known(alarm.statistic),
            "threshold": _known(alarm.threshold),
        },
    )


def slo_burn(labels: Labels, burn: Burn) -> Alert:
    """Return the alert of an objective whose budget burns."""
    metric = burn.metric.upper()
    long, short = _span(burn.rule.long_minutes), _span(burn.rule.short_minutes)
    summary = (
        f"{metric} objective ({burn.limit_ms:g} ms for {burn.target_ratio:.4g} of requests) burns its error budget "
        f"{burn.burn_long:.3g} times too fast"
    )
    used = 1 - burn.budget_left_ratio
    spent = (
        f"All that was seen ({_minutes(burn.seen_minutes * 60)}) burned at {burn.burn_seen:.3g}: x "
        f"{burn.seen_minutes:,} min / {BUDGET_DAYS * 1440:,} min of {BUDGET_DAYS} days = "
        f"{_percent(used)} of the budget"
    )
    description = (
        f"{burn.bad_ratio * 100:.2f} % of the requests of the last {long} took longer than {burn.limit_ms:g} ms "
        f"({burn.bad_requests:,} that were recorded); burn rate {burn.burn_long:.3g} over {long} and "
        f"{burn.burn_short:.3g} over {short}, limit {burn.rule.burn_rate:g}. {spent}{', overspent' if used > 1 else ''}."
    )
    return Alert(
        kind="slo_burn",
        severity=burn.severity,
        labels=labels.slo_burn(burn.metric, burn.severity),
        began_unix_nano=burn.began_unix_nano,
        time_unix_nano=burn.time_unix_nano,
        summary=clean_text(summary),
        description=clean_text(description),
        detail={
            "objective": burn.metric,
            "limit_ms": burn.limit_ms,
            "target_ratio": burn.target_ratio,
            "burn_rate_limit": burn.rule.burn_rate,
            "long_window_seconds": burn.rule.long_minutes * 60,
            "short_window_seconds": burn.rule.short_minutes * 60,
            "burn_rate_long": burn.burn_long,
            "burn_rate_short": burn.burn_short,
            "bad_requests": burn.bad_requests,
            "bad_ratio": burn.bad_ratio,
            "seen_seconds": burn.seen_minutes * 60,
            "burn_rate_seen": burn.burn_seen,
            "budget_left_ratio": burn.budget_left_ratio,
        },
    )


def kv_exhaustion(labels: Labels, found: Exhaustion) -> Alert:
    """Return the alert of a cache that will be full."""
    where = one_line(found.instance, 80) or "an instance"
    if found.seconds <= 0:
        summary = f"KV cache of {where} is full"
        description = f"{_percent(found.used_ratio)} of its tokens are in use: new requests wait, or others are preempted."
    else:
        latest = _minutes(found.seconds_high) if found.seconds_high is not None else "never"
        summary = f"KV cache of {where} is full in about {_minutes(found.seconds)}"
        description = (
            f"{_percent(found.used_ratio)} of its tokens are in use, "
            f"{found.growth_per_hour_ratio * 100:.0f} points more an hour; "
            f"95 % interval {_minutes(found.seconds_low)} to {latest}. From then on requests wait, or are preempted."
        )
    return Alert(
        kind="kv_exhaustion",
        severity="warning",
        labels=labels.kv_exhaustion(found.instance),
        began_unix_nano=found.began_unix_nano,
        time_unix_nano=found.time_unix_nano,
        summary=clean_text(summary),
        description=clean_text(description),
        detail={
            "phase": "kv",
            "instance": one_line(found.instance, _LONGEST_ID),
            "used_ratio": found.used_ratio,
            "growth_per_hour_ratio": found.growth_per_hour_ratio,
            "forecast_seconds": found.seconds,
            "forecast_seconds_low": found.seconds_low,
            "forecast_seconds_high": found.seconds_high,
        },
    )


def no_data(labels: Labels, last_unix_nano: int, now_unix_nano: int, limit_s: float) -> Alert:
    """Return the alert of a service that nothing is heard of."""
    since = f"since {_time(last_unix_nano)}" if last_unix_nano else "since the watch began"
    return Alert(
        kind="no_data",
        severity="warning",
        labels=labels.no_data(),
        began_unix_nano=last_unix_nano or now_unix_nano,
        time_unix_nano=now_unix_nano,
        summary=f"no request arrived for {_minutes(limit_s)}",
        description=(
            f"No complete request was read {since}: the service, what records it, or the way to this folder has stopped. "
            "Nothing else is judged meanwhile."
        ),
        detail={"limit_seconds": limit_s},
    )


def because(over: Over) -> str:
    """Return why a regression's alert ended, where it did not recover: what nobody may take for "it got better"."""
    if over.why == "recovered":
        return ""
    told = "; ".join(_unlike(over.unlike))
    if over.why == "no_longer_judged":
        return f"Not known to be better: {over.phase} is judged no longer{f', {told}' if told else ''}."
    what = f"from here on {told}" if told else "its columns are back"
    return f"Not known to be better: {over.phase} is judged anew, as {what}; it fires again if it is still slower."


def document(told: Notification) -> dict[str, Any]:
    """Return a notification as the JSON document that stdout and webhooks get."""
    alert, ended = told.alert, told.status == "resolved"
    ends = f"resolved: {_first_lower(told.because)} It was: " if told.because else "resolved: "
    return {
        "schema_version": SCHEMA_VERSION,
        "status": told.status,
        "alert": alert.kind,
        "id": told.id,
        "severity": alert.severity,
        "time_unix_nano": told.time_unix_nano,
        "began_unix_nano": alert.began_unix_nano,
        "resolved_unix_nano": told.time_unix_nano if ended else None,
        "resolved_reason": told.why,
        "summary": clean_text(f"{ends}{alert.summary}") if ended else alert.summary,
        "description": alert.description,
        "labels": dict(alert.labels),
        **alert.detail,
    }


def phase_json(standing: Standing) -> dict[str, Any]:
    """Return what is known of a phase as plain JSON."""
    values = {**standing._asdict(), "model": one_line(standing.model, _LONGEST_ID)}
    return {name: _known(value) if isinstance(value, float) else value for name, value in values.items()}


def unknown_model(model: str, lacks: Sequence[str] | None = None) -> str:
    """Return what is said of a model that the base has not, or of which it has requests that lack columns."""
    if lacks:
        return f"{_model(model)}: the base has no {_columns(lacks)}: its requests are not judged; record a base with that"
    if lacks is not None:
        return (
            f"{_model(model)}: the base has too few requests of it with times: its requests are not judged; record a base "
            "with more"
        )
    return f"model {one_line(model, 80)!r} is not in the base: its requests are not judged; record a base with it"


def insufficient(seen: int, judged: int, blocks: int) -> str:
    """Return what is said where too little was judged for no alarm to mean that nothing is slower."""
    part = f"{judged:,} of {seen:,} requests had requests like them in the base"
    if blocks:
        return f"only {part}: no alarm does not mean that the others are no slower"
    return (
        f"nothing was judged: {part}, and no block of them was full: no alarm does not mean that nothing is slower;"
        " give more requests, or a base with such requests"
    )


def left_out(one: LeftOut) -> str:
    """Return what is said of a model whose requests carry other columns than the base's."""
    shown, told = _model(one.model), _unlike(one.unlike, dict(one.since))
    if not one.judged:
        return f"{shown}: {'; '.join(told)}; nothing of it is watched"
    if one.lost:
        told.append(f"not watched: {', '.join(one.lost)}")
    return f"{shown}: {'; '.join(told)}; watched without: {', '.join(one.judged)}"


def gap(one: Gap) -> str:
    """Return what is said of what was left out for a while."""
    lost = f"; not watched then: {', '.join(one.phases)}" if one.phases else ""
    told = "; ".join(_unlike(one.unlike))
    return f"{_model(one.model)}, from {_time(one.begin_ns)} to {_time(one.end_ns)}: {told}{lost}"


def silence(last_ns: int, first_ns: int) -> str:
    """Return what is said of a long time without requests in what was read."""
    length = _minutes((first_ns - last_ns) / 1e9)
    return (
        f"no request from {_time(last_ns)} to {_time(first_ns)} ({length}): nothing is known of that time;"
        " --no-data-minutes makes it an alert"
    )


def load_unknown(one: LoadUnknown) -> str:
    """Return what is said of phases that are judged without their load."""
    return (
        f"{_model(one.model)}: neither the base nor its requests have {_columns(one.columns)}: more load can look like a"
        f" slower {' or '.join(one.phases)}; record it on both sides"
    )


def _unlike(one: Unlike, since: Mapping[str, int] = {}) -> list[str]:
    """Return a sentence for each reason; ``since`` when columns have been zero, Unix time [ns]."""
    zero: dict[str, tuple[str, ...]] = {}
    for name in one.zero:
        when = f"have been all zero since about {_time(since[name])}" if name in since else "are all zero"
        zero[when] = (*zero.get(when, ()), name)
    sides: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("the base has {}, its requests do not", one.base_alone),
        ("its requests have {}, the base does not", one.requests_alone),
        *(
            (f"{{}} of its requests {when}, the base's are not: were they recorded?", names)
            for when, names in zero.items()
        ),
        ("{} of the base are all zero, its requests' are not: were they recorded?", one.zero_in_base),
        (
            "{} are in other units than the base's, 1,000 times or a power of that apart: record both alike",
            one.units,
        ),
    )
    return [sentence.format(_columns(names)) for sentence, names in sides if names]


def _model(name: str) -> str:
    return f"model {one_line(name, 80)!r}" if name else "requests without a model's name"


def _columns(names: Iterable[str]) -> str:
    return ", ".join(_COLUMNS.get(name, name) for name in names)


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _known(value: float) -> float | None:
    """Return a number as JSON has it: what is none is not known."""
    return value if math.isfinite(value) else None


def _change(ratio: float) -> str:
    if not math.isfinite(ratio):
        return "an unknown amount"
    return f"{ratio * 100:+,.1f} %".replace("-", "−")


def _percent(ratio: float) -> str:
    """Return the size of a ratio: 6.5 %, 14 %, 1,967 %."""
    if not math.isfinite(ratio):
        return "an unknown amount"
    size = abs(ratio) * 100
    return f"{size:,.0f} %" if size >= 10 else f"{size:.1f} %"


def _time(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _span(minutes: int) -> str:
    if minutes % 1440 == 0:
        return f"{minutes // 1440} days"
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"
