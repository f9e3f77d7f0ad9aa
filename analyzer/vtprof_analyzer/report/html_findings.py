"""The findings of the HTML report: gain, line to paste, risk, evidence rows, references."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

from vtprof_analyzer.report import advice_phrases
from vtprof_analyzer.report.format import DASH, count, counted, plain, safe
from vtprof_analyzer.report.html_tags import cell, missing, note, section, table
from vtprof_analyzer.report.model import Advice, Finding, Report, Technique

EVIDENCE_ROWS = 20
EVIDENCE_COLUMNS = 12


def findings(report: Report) -> str:
    """Return the section of what to do, largest gain first as the report has them."""
    parts = [_finding(finding) for finding in report.findings] or [missing(advice_phrases.NO_FINDING)]
    return section(
        "findings",
        "What to do, largest gain first",
        *parts,
        note(together) if (together := advice_phrases.combined(report)) else "",
        note(advice_phrases.rule_counts(report.rules)),
        note(advice_phrases.not_fired(report)) if advice_phrases.not_fired(report) else "",
        _all_rules(report),
    )


def _all_rules(report: Report) -> str:
    """Return every rule that did not fire with its reason, folded away."""
    if not report.not_fired:
        return ""
    heads = [("rule", ""), ("outcome", ""), ("why", "")]
    lines = [
        cell(safe(rule.rule, 16))
        + cell(advice_phrases.NOT_FIRED_SHOWN.get(rule.status, safe(rule.status, 24)))
        + cell(safe(rule.reason, 400))
        for rule in report.not_fired
    ]
    caption = f"The {counted(len(lines), 'rule')} that did not fire"
    return f"<details><summary>{caption}</summary>{table('', heads, lines)}</details>"


def _finding(finding: Finding) -> str:
    severity = safe(finding.severity, 12)
    kind = severity if severity in advice_phrases.SEVERITIES else "info"
    saving = finding.saving
    how = (
        f' <span class="soft">{escape(safe(saving.how))}</span>' if saving is not None and saving.how else ""
    )
    title = escape(safe(finding.title, 160))
    notes = (
        advice_phrases.interval(saving),
        advice_phrases.same_saving(finding),
        advice_phrases.ACCURACY if finding.accuracy else None,
        advice_phrases.reading(finding),
    )
    return f"""<article>
<h3><span class="tag {kind}">{escape(severity)}</span><span class="rule">{escape(safe(finding.rule, 16))}</span>{title}</h3>
<p>{escape(safe(finding.summary, 400))}</p>
<p><span class="gain">{escape(advice_phrases.saving_line(saving))}</span>{how}</p>
{"".join(note(text) for text in notes if text)}
{"".join(_advice(advice) for advice in finding.advice)}
{_evidence(finding.evidence)}
{_reading(finding.further_reading)}
{_about(finding)}
{_references(finding.references)}
</article>"""


def _advice(advice: Advice) -> str:
    whose = " ".join(safe(part, 40) for part in (advice.engine, advice.versions) if part)
    aside = f' <span class="soft">({escape(whose)})</span>' if whose else ""
    line = advice_phrases.command(advice)
    paste = f"<pre>{escape(line)}</pre>" if line else ""
    risk = f'<p class="note">Mind: {escape(safe(advice.risk, 400))}</p>' if advice.risk else ""
    return f"<p>→ {escape(safe(advice.action, 400))}{aside}</p>{paste}{risk}"


def _evidence(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))[:EVIDENCE_COLUMNS]
    heads = [(safe(name, 40), "n" if _numeric(rows, name) else "") for name in columns]
    lines = ["".join(_value(row, name) for name in columns) for row in rows[:EVIDENCE_ROWS]]
    caption = f"Evidence: {count(len(lines))} of {counted(len(rows), 'row')}"
    return f"<details><summary>{caption}</summary>{table('', heads, lines)}</details>"


def _numeric(rows: list[dict[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def _value(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return cell(DASH)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return cell(safe(value, 80))
    if name.endswith("_unix_nano"):  # a time is found by all of its digits
        return cell(str(value), "n")
    return cell(count(value) if isinstance(value, int) else plain(value, 4), "n")


def _reading(techniques: Sequence[Technique]) -> str:
    if not techniques:
        return ""
    heads = [("method", ""), ("what it does", ""), ("training-free", ""), ("mind", "")]
    lines = [
        cell(f"{safe(technique.method, 80)} ({safe(technique.citation, 80)})")
        + cell(safe(technique.mechanism, 400))
        + cell(safe(technique.training_free, 12))
        + cell(safe(technique.caveats, 400))
        for technique in techniques
    ]
    caption = f"Further reading: {counted(len(lines), 'technique')}, best fit first"
    return f"<details><summary>{caption}</summary>{table('', heads, lines)}</details>"


def _about(finding: Finding) -> str:
    """Return the page of the rule: why it matters, when it fires, when not."""
    about = finding.about
    if about is None:
        return ""
    thresholds = [
        cell(f"${safe(threshold.name, 40)}")
        + cell(safe(threshold.value, 40))
        + cell(safe(threshold.unit or "", 60))
        + cell(safe(threshold.source, 400))
        for threshold in about.thresholds
    ]
    heads = [("threshold", ""), ("value", ""), ("unit", ""), ("source", "")]
    unless = "".join(f"<li>{escape(safe(because, 300))}</li>" for because in about.unless)
    parts = [
        f"<p>{escape(safe(about.description, 2000))}</p>",
        f"<p>Fires when</p><pre>{escape(safe(about.condition, 1000))}</pre>",
        table("", heads, thresholds) if thresholds else "",
        f"<p>Not when</p><ul>{unless}</ul>" if unless else "",
        f"<p>Gain</p><pre>{escape(safe(about.how, 2000))}</pre>" if about.how else "",
        f"<p>In a terminal: <code>vtprof rules show {escape(safe(finding.rule, 16))}</code></p>",
    ]
    return f"<details><summary>About {escape(safe(finding.rule, 16))}</summary>{''.join(parts)}</details>"


def _references(references: list[dict[str, str]]) -> str:
    links = [_link(reference) for reference in references[:8]]
    return f'<p class="note">{" · ".join(links)}</p>' if links else ""


def _link(reference: Mapping[str, str]) -> str:
    """Return a link to an https address, and the bare title for anything else."""
    title, url = escape(safe(reference.get("title", ""), 160)), reference.get("url", "")
    try:
        address = urlsplit(url)
    except ValueError:
        return title
    if address.scheme != "https" or not address.hostname or url != safe(url, 500):
        return title
    return f'<a href="{escape(url)}" rel="noopener noreferrer">{title or escape(url)}</a>'
