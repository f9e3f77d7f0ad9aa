"""Labelled pairs: what differs between BASE and NEW is known. The runs are simulated when they are asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from regress_days.engine import Engine, Tail, slower, with_kv
from regress_days.noise import USUAL, Noise, heavier
from regress_days.services import LARGE, SMALL, Served, Side, service, simulate
from regress_days.tables import ALL, BARE, Recorded
from regress_days.traffic import Traffic
from vtprof_analyzer.regress.requests import Run

Label = Literal[
    "no change",
    "mix only",
    "load only",
    "encode slower",
    "prefill slower",
    "decode slower",
    "preprocess slower",
    "tail",
    "kv",
    "masked",
    "cache",
    "encode slower under load",
    "improvement",
]
COUNTS: Final[dict[Label, int]] = {
    "no change": 64,
    "mix only": 70,
    "load only": 32,
    "encode slower": 40,
    "prefill slower": 40,
    "decode slower": 30,
    "preprocess slower": 30,
    "tail": 30,
    "kv": 20,
    "masked": 30,
    "cache": 25,
    "encode slower under load": 20,
    "improvement": 15,
}
UNCHANGED: Final[tuple[Label, ...]] = ("no change", "mix only", "load only")
"""The engine is the same: a regression is a false alarm."""
SIZES: Final = (3_000, 3_000, 4_000, 5_000, 6_000, 10_000)
"""Requests a side, as often as they stand here."""
SHORTEST_RUN = 1_500
SEEDS_EACH = 1_000
"""For a label's cases."""


@dataclass(frozen=True)
class Case:
    """A pair of sides and what is different."""

    name: str
    seed: int
    label: Label
    kind: str
    """What the label leaves open: "bigger images", "x 1.4", "encode"."""
    phase: str | None
    """The cause to name; None where the engine did not become slower."""
    base: Side
    new: Side

    def runs(self) -> tuple[list[Run], list[Run]]:
        """Simulate both sides."""
        return simulate(self.base, self.seed, 0), simulate(self.new, self.seed, 1)


def cases(first_seed: int = 1, share: float = 1.0) -> list[Case]:
    """Return the labelled cases of these seeds, the first ``share`` of each label; another seed has other cases."""
    return [
        _case(label, number, SEEDS_EACH * (first_seed * len(COUNTS) + place) + number)
        for place, (label, count) in enumerate(COUNTS.items())
        for number in range(max(1, round(count * share)))
    ]


Edit = Callable[[Served], Served]


def _engines(edit: Callable[[Engine], Engine]) -> Edit:
    return lambda each: replace(each, engine=edit(each.engine))


def _asks(edit: Callable[[Traffic], Traffic]) -> Edit:
    return lambda each: replace(each, traffic=edit(each.traffic))


def _slower(phase: str, ratio: float) -> Edit:
    return _engines(lambda engine: slower(engine, phase, ratio))


def _load(factor: float) -> Edit:
    return _asks(lambda traffic: replace(traffic, rate_per_s=traffic.rate_per_s * factor))


def _case(label: Label, number: int, seed: int) -> Case:
    rng = np.random.default_rng([seed, 0])
    models: tuple[str, ...] = (LARGE,) if rng.random() < 0.75 else (LARGE, SMALL)
    runs, requests = (3 if rng.random() < 0.25 else 1), int(rng.choice(SIZES))
    noise, recorded = USUAL, _recorded(rng)
    kind, phase, edits = "", None, []
    grown = 1.0
    match label:
        case "no change":
            kind = ("plain", "heavy noise", "diurnal", "replicas", "plain", "uneven")[number % 6]
        case "mix only":
            kind = tuple(MIXES)[number % len(MIXES)]
            if kind == MODEL_MIX:
                models = (LARGE, SMALL)
            else:
                edits.append(MIXES[kind](rng))
        case "load only" | "encode slower under load":
            factor = rng.uniform(1.2, 1.8) if label == "load only" else rng.uniform(1.3, 1.6)
            kind, grown = f"x {factor:.1f}", factor
            edits.append(_load(factor))
            if label == "encode slower under load":
                phase = "encode"
                edits.append(_slower("encode", rng.uniform(0.08, 0.12)))
        case "tail":
            kind = phase = ("encode", "prefill", "preprocess")[number % 3]
            tail = Tail(phase, rng.uniform(0.015, 0.02), 3.0, 6.0)
            edits.append(_engines(lambda engine: replace(engine, tails=(tail,))))
        case "kv":
            phase, ratio = "kv", (1.0, 0.1)[number % 2]
            kind = ("doubled", "+10 %")[number % 2]
            edits.append(_engines(lambda engine: with_kv(engine, ratio)))
        case "masked":
            phase, factor = "encode", rng.uniform(0.6, 0.8)
            kind = f"images x {factor:.2f}"
            edits += [
                _slower("encode", 0.12),
                _asks(lambda traffic: replace(traffic, image_tokens=traffic.image_tokens * factor)),
            ]
        case "cache":
            phase = "cache"
            kind, edit = _broken_cache(number, rng)
            edits.append(edit)
            recorded = BARE if number % 8 == 7 else replace(recorded, hits=True, others=True)
        case "improvement":
            edits.append(_slower("encode", -0.1))
        case _:
            phase = label.split()[0]
            edits.append(_slower(phase, SLOWER[phase]))
    served = service(rng, models)
    if label == "tail" and kind == "encode":
        # Otherwise few requests run the encoder, and a tail of them is a handful.
        served = {
            model: _asks(lambda traffic: replace(traffic, vision_share=0.8, catalogue_share=0.25))(each)
            for model, each in served.items()
        }
    base_requests = requests
    if label == "no change":
        served, noise, runs, base_requests = _unchanged(kind, served, noise, runs, requests, rng)
    changed = dict(served)
    for edit in edits:
        changed = {model: edit(each) for model, each in changed.items()}
    if label == "mix only" and kind == MODEL_MIX:
        changed = _other_model_mix(changed, rng)
    runs = max(1, min(runs, requests // SHORTEST_RUN))
    return Case(
        f"{label} {number}" + (f" ({kind})" if kind else ""),
        seed,
        label,
        kind,
        phase,
        Side(served, base_requests, runs, noise, recorded),
        Side(changed, round(requests * grown), runs, noise, recorded),
    )


SLOWER: Final = {"encode": 0.08, "prefill": 0.05, "decode": 0.06, "preprocess": 0.20}
MODEL_MIX = "another model mix"


def _more(name: str, low: float, high: float) -> Callable[[np.random.Generator], Edit]:
    def edit(rng: np.random.Generator) -> Edit:
        factor = rng.uniform(low, high)
        return _asks(lambda traffic: replace(traffic, **{name: getattr(traffic, name) * factor}))

    return edit


def _longer(names: tuple[str, ...], low: float, high: float) -> Callable[[np.random.Generator], Edit]:
    def edit(rng: np.random.Generator) -> Edit:
        factor = rng.uniform(low, high)
        return _asks(lambda each: replace(each, **{name: getattr(each, name) * factor for name in names}))

    return edit


def _more_images(rng: np.random.Generator) -> Edit:
    share = rng.uniform(0.5, 0.65)
    return _asks(lambda traffic: replace(traffic, more_images_ratio=share))


def _other_kinds(rng: np.random.Generator) -> Edit:
    moved = rng.uniform(0.2, 0.3) * rng.choice([-1, 1])

    def edit(traffic: Traffic) -> Traffic:
        share = traffic.vision_share + moved
        return replace(traffic, vision_share=share if 0.1 < share < 0.9 else traffic.vision_share - moved)

    return _asks(edit)


MIXES: Final[dict[str, Callable[[np.random.Generator], Edit]]] = {
    "bigger images": _more("image_tokens", 1.4, 2.0),
    "more images": _more_images,
    "longer text": _longer(("vision_text_tokens", "chat_text_tokens"), 1.6, 2.5),
    "longer outputs": _longer(("vision_output_tokens", "chat_output_tokens"), 1.4, 2.0),
    MODEL_MIX: lambda _: lambda each: each,
    "chat for image work": _other_kinds,
    "smaller images": _more("image_tokens", 0.5, 0.75),
}
"""Both sides have the same engine, cache and law of which images come again."""


def _other_model_mix(served: Mapping[str, Served], rng: np.random.Generator) -> dict[str, Served]:
    """Move requests from one model to the other: their number stays."""
    rates = {model: each.traffic.rate_per_s for model, each in served.items()}
    total = sum(rates.values())
    # From the one with more to the other: no engine is driven past what it can do.
    giver, taker = sorted(rates, key=lambda model: -rates[model])
    moved = min(rng.uniform(0.15, 0.25) * total, 0.8 * rates[taker])
    changes = {giver: -moved, taker: moved}
    return {
        model: replace(each, traffic=replace(each.traffic, rate_per_s=rates[model] + changes[model]))
        for model, each in served.items()
    }


def _broken_cache(number: int, rng: np.random.Generator) -> tuple[str, Edit]:
    if number % 2:
        ratio = rng.uniform(0.5, 1.0)
        return "look-ups fail", _engines(lambda engine: replace(engine, encoder_cache_fault_ratio=ratio))
    entries = int(rng.integers(8, 25))
    return "made smaller", _engines(lambda engine: replace(engine, encoder_cache_images=entries))


def _unchanged(
    kind: str,
    served: dict[str, Served],
    noise: Noise,
    runs: int,
    requests: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Served], Noise, int, int]:
    match kind:
        case "heavy noise":
            return served, heavier(noise), runs, requests
        case "diurnal":
            swing = {
                model: _asks(lambda traffic: replace(traffic, swing=0.45, mix_swing=0.2))(each)
                for model, each in served.items()
            }
            return swing, noise, runs, requests
        case "replicas":
            return served, replace(noise, run_sd=float(rng.choice([0.007, 0.012]))), 3, max(requests, 6_000)
        case "uneven":
            return served, noise, runs, int(requests * rng.uniform(1.5, 3.0))
    return served, noise, runs, requests


def _recorded(rng: np.random.Generator) -> Recorded:
    draw = rng.random()
    if draw < 0.65:
        return ALL
    if draw < 0.80:
        return Recorded(in_flight=False)
    return Recorded(hits=False) if draw < 0.88 else BARE
