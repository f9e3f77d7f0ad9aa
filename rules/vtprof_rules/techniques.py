"""Methods from the literature for the symptom behind a finding: further reading under the advice that can be pasted."""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from vtprof_rules.fact_rows import Facts, number

SHOWN: Final = 5
OCR_LIKE_SHARE: Final = 0.3
"""From this share of requests on that look like reading, methods that leave fewer visual tokens come last, and findings
whose advice may change answers tell the share: what is read needs its tokens, while visual reasoning does best with few
of them and a larger model (scaling law of inference-optimal VLMs, arXiv 2411.03312)."""
_RELIEF: Final[Mapping[str, tuple[str, ...]]] = {
    "preprocess": ("CPU",),
    "encode": ("compute",),
    "prefill": ("compute", "attention FLOPs"),
    "decode": ("KV read", "output length"),
    "kv": ("KV capacity", "KV read"),
    "queue": ("KV capacity", "compute (interference)"),
    "slo": ("communication", "compute (interference)", "compute (idle bubbles)"),
    "system": ("communication", "compute (idle bubbles)"),
}
"""What relieves a phase, in the words of the catalogue."""
_TRAINING: Final[Mapping[str, int]] = {"yes": 2, "unknown": 1, "no": 0}


@dataclass(frozen=True)
class Technique:
    """One method, and the rules whose symptom it answers."""

    id: str
    rules: tuple[str, ...]
    method: str
    citation: str
    stage: str
    modality: str
    """``any``, or ``image``, ``video`` or both."""
    training_free: str
    """``yes``, ``no`` or ``unknown``."""
    relieves: tuple[str, ...]
    fewer_tokens: bool
    """Whether fewer visual tokens reach the language model."""
    mechanism: str
    caveats: str


@functools.cache
def techniques() -> tuple[Technique, ...]:
    """Return all of them, in the order of the catalogue."""
    text = resources.files("vtprof_rules").joinpath("techniques.csv").read_text("utf-8")
    return tuple(
        Technique(
            id=row["id"],
            rules=tuple(row["rules"].split()),
            method=row["method"],
            citation=row["citation"],
            stage=row["stage"],
            modality=row["modality"],
            training_free=row["training_free"],
            relieves=tuple(row["relieves"].split("; ")),
            fewer_tokens=row["fewer_tokens"] == "yes",
            mechanism=row["mechanism"],
            caveats=row["caveats"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def techniques_of(rule: str) -> list[Technique]:
    """Return the methods that answer the symptom of a rule, in the order of the catalogue."""
    return [technique for technique in techniques() if rule in technique.rules]


def further_reading(rule: str, phase: str, facts: Facts, limit: int = SHOWN) -> list[Technique]:
    """Return the methods for a finding, best fit first: what they relieve, then whether the model stays as it is.

    A method for a modality that no request had is left out. Where requests look like reading, methods that leave
    fewer visual tokens come last.
    """
    absent = _absent(facts)
    reading = reading_share(facts) is not None
    fitting = [t for t in techniques_of(rule) if not absent or set(t.modality.split()) - absent]
    return sorted(fitting, key=lambda technique: _unfitness(technique, phase, reading))[:limit]


def reading_share(facts: Facts) -> float | None:
    """Return the share of the requests with images that look like reading, where it is large enough to matter.

    ``None`` below ``OCR_LIKE_SHARE``, and where it is not known.
    """
    share = number(facts, "ocr_like_share")
    return share if share is not None and share >= OCR_LIKE_SHARE else None


def _absent(facts: Facts) -> set[str]:
    """Return the modalities that no request had, as far as that is known."""
    counted = {"image": number(facts, "images_per_request_mean"), "video": number(facts, "video_requests")}
    return {modality for modality, value in counted.items() if value == 0}


def _unfitness(
    technique: Technique, phase: str, reading: bool
) -> tuple[bool, bool, int, int, bool, int, str]:
    relief = sum(name in technique.relieves for name in _RELIEF.get(phase, ()))
    baseline = technique.relieves == ("none (reference point)",)
    return (
        baseline,
        reading and technique.fewer_tokens,
        -relief,
        -_TRAINING[technique.training_free],
        technique.modality == "any",  # what was made for the modality at hand comes before what is general
        len(technique.caveats),
        technique.id,
    )
