"""Write the reference page of spans, attributes, ring records, metrics and report fields from their definitions.

``python -m vtprof_schemas.reference > schemas/REFERENCE.md``; a test fails when the page and the definitions differ.
"""

import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Tuple

from vtprof_schemas import names, records

REPORT_SCHEMA = Path(__file__).with_name("analyze_report.schema.json")
COMPARE_SCHEMA = Path(__file__).with_name("compare.schema.json")

_HEAD = """\
# Reference

Generated from `names.py`, `records.py`, `analyze_report.schema.json` and `compare.schema.json`; do not edit.
Refresh: `python -m vtprof_schemas.reference > schemas/REFERENCE.md`.
"""

_GROUPS: Tuple[Tuple[str, str], ...] = (
    ("resource", "Resource"),
    ("request", "Request"),
    ("phase", "Any phase"),
    (names.PREPROCESS, "Phase preprocess"),
    (names.QUEUE, "Phase queue"),
    (names.ENCODE, "Phase encode"),
    (names.TRANSFER, "Phase transfer"),
    (names.PREFILL, "Phase prefill"),
    (names.DECODE, "Phase decode"),
    ("step", "Steps and windows"),
    ("gpu", "Counters, on phases, steps and windows; also metrics of the same name"),
    ("engine", "Engines, of themselves: metrics that the agent reads on their /metrics page"),
    ("agent", "The agent, of itself"),
    ("probe", "The probe, in the ring's header only"),
)

_PROMETHEUS: Tuple[Tuple[str, str, str], ...] = (
    (names.PROM_TTFT, names.LABEL_VISUAL_STRATUM, "arrival to first token, histogram, seconds"),
    (
        names.PROM_TPOT,
        names.LABEL_VISUAL_STRATUM,
        "time per output token after the first, histogram, seconds",
    ),
    (
        names.PROM_PHASE_DURATION,
        "phase, " + names.LABEL_VISUAL_STRATUM,
        "duration of a phase, histogram, seconds",
    ),
    (names.PROM_TOKENS, "modality", "tokens of finished requests, counter"),
    (names.PROM_KV_BYTES, "modality", "KV held, gauge, bytes"),
    (names.PROM_GPU_ENERGY, "", "energy, counter, joules"),
    (names.PROM_RECORDS_LOST, "", "ring records overwritten, torn or void, counter"),
    (names.PROM_RECORDS_DROPPED, "", "records that the probe could not write, counter"),
    (names.PROM_HOOK_ERRORS, "", "exceptions that the probe's hooks swallowed, counter"),
)

_STRUCT_TYPES = {
    "Q": "u64", "q": "i64", "I": "u32", "i": "i32", "H": "u16", "h": "i16", "B": "u8", "d": "f64",
}  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return "`" + _cell(text) + "`" if text else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> List[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return [*lines, ""]


def _spans() -> List[str]:
    rows = [(_code(span.name), _cell(span.parent), _cell(span.meaning)) for span in names.SPANS.values()]
    return ["## Spans", "", *_table(("Span", "Parent", "Meaning"), rows)]


def _attributes() -> List[str]:
    lines = ["## Attributes", "", "The column is the attribute's name in the analyzer's tables.", ""]
    titles = dict(_GROUPS)
    # A group that is new in names.py is still printed, under its own name.
    groups = [*titles, *(a.where for a in names.ATTRIBUTES.values() if a.where not in titles)]
    for group in dict.fromkeys(groups):
        rows = [
            (_code(a.key), a.type, _cell(a.unit), _cell(a.meaning), _code(a.example), _code(a.column))
            for a in names.ATTRIBUTES.values()
            if a.where == group
        ]
        if rows:
            heads = ("Attribute", "Type", "Unit", "Meaning", "Example", "Column")
            lines += ["### " + titles.get(group, group), "", *_table(heads, rows)]
    return lines


def _ring() -> List[str]:
    header = (
        (
            0,
            records.FIXED_HEADER_BYTES,
            "fixed header: " + (records.MAGIC[:6].decode() + " magic, identity, crc32"),
        ),
        (records.CONTROL_OFFSET, records.CONTROL.size, "control word, written by the agent"),
        (records.STATE_OFFSET, records.STATE.size, "closed flag and the writer's counters"),
        (records.ANCHOR_OFFSET, records.ANCHOR.size, "clock anchor"),
        (records.INFO_BLOCK_OFFSET, records.INFO_BLOCK.size, "version, length and crc32 of the JSON text"),
        (records.INFO_OFFSET, records.INFO_MAX_BYTES, "JSON text: resource attributes"),
        (
            records.HEADER_BYTES,
            records.RECORD_BYTES,
            "first record; one slot each, default %d slots" % records.DEFAULT_CAPACITY,
        ),
    )
    lines = ["## Ring file, layout version %d" % records.LAYOUT_VERSION, "", "Little endian.", ""]
    lines += _table(("Offset", "Bytes", "Content"), [(str(at), str(size), what) for at, size, what in header])
    lines += ["A record is `crc32 u32, kind u16, flags u16, sequence u64` and the fields of its kind.", ""]
    for kind in records.KINDS.values():
        lines += [
            "### %d `%s`" % (kind.code, kind.name),
            "",
            kind.meaning[0].upper() + kind.meaning[1:] + ".",
            "",
        ]
        rows = [
            (_code(name), _STRUCT_TYPES.get(fmt, fmt.rstrip("s") + " bytes"), _cell(what))
            for name, fmt, what in kind.fields
        ]
        lines += _table(("Field", "Type", "Meaning"), rows)
    return lines


def _metrics() -> List[str]:
    rows = [(_code(name), _code(labels), meaning) for name, labels, meaning in _PROMETHEUS]
    return ["## Prometheus metrics of the agent", "", *_table(("Metric", "Labels", "Meaning"), rows)]


def _type_name(schema: Dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_name(part) for part in schema["anyOf"])
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        return "[%s](#%s)" % (name, name.lower())
    if "const" in schema:
        return "always " + json.dumps(schema["const"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = ["list of " + _type_name(schema["items"]) if kind == "array" else str(kind) for kind in kinds]
    return " or ".join(words)


def _fields(schema: Dict[str, Any]) -> List[str]:
    rows = [
        (_code(name), _type_name(field), _cell(field["description"]))
        for name, field in schema["properties"].items()
    ]
    return [schema["description"], "", *_table(("Field", "Type", "Meaning"), rows)]


def _document(title: str, path: Path) -> List[str]:
    schema = json.loads(path.read_text(encoding="utf-8"))
    lines = ["## " + title, "", *_fields(schema)]
    for name, part in schema["$defs"].items():
        lines += ["### " + name, "", *_fields(part)]
    return lines


def page() -> str:
    """Return the reference page as Markdown."""
    documents = [
        *_document("Report of `vtprof analyze --format json`", REPORT_SCHEMA),
        *_document("Comparison of `vtprof compare --format json`", COMPARE_SCHEMA),
    ]
    lines = [_HEAD, *_spans(), *_attributes(), *_ring(), *_metrics(), *documents]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
