"""A deployment with its users, drawn at random, and the simulation of its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from regress_days.engine import Engine
from regress_days.noise import USUAL, Noise
from regress_days.serve import serve
from regress_days.steps import Change
from regress_days.tables import ALL, START_NS, Recorded, requests_of
from regress_days.traffic import Traffic, draw, draw_library
from vtprof_analyzer.regress.requests import Run

LARGE, SMALL = "vision-7b", "vision-3b"
DAY_NS = 86_400_000_000_000


@dataclass(frozen=True)
class Served:
    """A model's engine and who asks it."""

    engine: Engine
    traffic: Traffic


@dataclass(frozen=True)
class Side:
    """One side of a case: the same deployment in one or several runs."""

    models: Mapping[str, Served]
    requests: int
    """Of all runs."""
    runs: int = 1
    noise: Noise = USUAL
    recorded: Recorded = ALL


def service(rng: np.random.Generator, models: tuple[str, ...] = (LARGE,)) -> dict[str, Served]:
    """Draw a deployment: engines whose constants differ from case to case, loaded to a fifth or so."""
    made = {}
    for model in models:
        engine = _engine(rng, 0.5 if model == SMALL else 1.0)
        traffic = Traffic(
            burst_ratio=rng.uniform(1.5, 2.5),
            swing=rng.uniform(0.0, 0.25),
            mix_swing=rng.uniform(0.0, 0.1),
            periods=int(rng.integers(1, 4)),
            vision_share=rng.uniform(0.4, 0.75),
            image_tokens=rng.uniform(400, 800),
            more_images_ratio=rng.uniform(0.1, 0.35),
            catalogue_share=rng.uniform(0.3, 0.6),
            vision_text_tokens=rng.uniform(60, 150),
            chat_text_tokens=rng.uniform(180, 400),
            vision_output_tokens=rng.uniform(60, 110),
            chat_output_tokens=rng.uniform(120, 200),
        )
        busy = rng.uniform(0.13, 0.22)
        made[model] = Served(engine, replace(traffic, rate_per_s=busy * 1e3 / _work_ms(engine, traffic, rng)))
    return made


def _engine(rng: np.random.Generator, size: float) -> Engine:
    def about(value: float) -> float:
        return value * size * float(np.exp(rng.uniform(-0.2, 0.2)))

    plain = Engine()
    weights = about(plain.decode_weights_ms)
    return replace(
        plain,
        workers=int(rng.choice([4, 8, 16])),
        preprocess_ms_per_visual_token=about(plain.preprocess_ms_per_visual_token) / size,
        encode_ms=about(plain.encode_ms),
        encode_ms_per_patch=about(plain.encode_ms_per_patch),
        encode_ms_per_patch_squared=about(plain.encode_ms_per_patch_squared),
        encode_weights_ms=about(plain.encode_weights_ms),
        encoder_cache_images=int(rng.integers(250, 600)),
        prefill_weights_ms=weights,
        prefill_ms_per_token=about(plain.prefill_ms_per_token),
        prefill_ms_per_token_context=about(plain.prefill_ms_per_token_context),
        budget_tokens=int(rng.choice([2048, 4096, 8192])),
        decode_weights_ms=weights,
        decode_ms_per_sequence=about(plain.decode_ms_per_sequence),
        decode_ms_per_context_token=about(plain.decode_ms_per_context_token),
        kv_bytes_per_token=float(rng.choice([28_672, 57_344, 131_072])),
    )


def _work_ms(engine: Engine, traffic: Traffic, rng: np.random.Generator) -> float:
    asked = draw(traffic, draw_library(rng), 2_000, rng)
    patches = asked.image_tokens * 4.0
    encode = engine.encode_ms_per_patch * patches + engine.encode_ms_per_patch_squared * patches**2
    prompts = asked.text_tokens.sum() + asked.image_tokens.sum() - asked.prefix_tokens.sum()
    return float((0.7 * encode.sum() + engine.prefill_ms_per_token * prompts) / len(asked)) + engine.encode_ms


def simulate(side: Side, seed: int, number: int, begin_ns: int = START_NS) -> list[Run]:
    """Simulate the runs of a side; the service's images and system prompts follow from the seed alone."""
    name = ("base", "new")[number] if number < 2 else f"side{number}"
    runs = []
    for run in range(side.runs):
        served = {}
        rng = np.random.default_rng([seed, 2, number, run])
        rate = sum(each.traffic.rate_per_s for each in side.models.values())
        for place, (model, each) in enumerate(side.models.items()):
            count = round(side.requests / side.runs * each.traffic.rate_per_s / rate)
            library = draw_library(np.random.default_rng([seed, 1, place]))
            served[model] = serve(each.engine, draw(each.traffic, library, count, rng), side.noise, rng)
        begun = begin_ns + (2 * run + number) * DAY_NS
        requests = requests_of(served, side.recorded, begin_ns=begun, name=f"{name}{run}-")
        runs.append(Run(f"{name}{run}", requests, "simulated 1.0", "1 x simulated"))
    return runs


def stream(
    model: Served, seed: int, number: int, count: int, noise: Noise, later: Served | None, first: int
) -> Run:
    """Simulate one run in which from request ``first`` on another engine serves, and others ask."""
    rng = np.random.default_rng([seed, 3, number])
    library = draw_library(np.random.default_rng([seed, 1, 0]))
    change = None
    asked = draw(model.traffic, library, count, rng)
    if later:
        asked = asked.then(draw(later.traffic, library, count - first, rng), first)
        change = Change(first, later.engine)
    served = serve(model.engine, asked, noise, rng, change)
    return Run(f"stream{number}", requests_of({LARGE: served}, begin_ns=START_NS + number * DAY_NS))
