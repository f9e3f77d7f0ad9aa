"""Make a day: draw its requests, serve them, write down what an agent would have seen, and keep the truth beside it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from synthetic.asks import REJECTED, Ask, draw_asks
from synthetic.batch import BLOCK_TOKENS
from synthetic.counters import Integrals, metric
from synthetic.engine import Engine
from synthetic.folding import Folded, fold
from synthetic.life import Life
from synthetic.preprocess import preprocess
from synthetic.recording import lose, sampling_ratios
from synthetic.scenarios import EngineSetup, Scenario
from synthetic.spans import EngineSpans, Span, Value, gateway_span, request_ids
from synthetic.truth import Served, add_interference, kv_table, request_table, step_row
from synthetic.write import Format, write_metrics, write_spans
from vtprof_schemas import SCHEMA_VERSION, names


@dataclass(frozen=True)
class Day:
    """A day's spans, the resources that sent them, and what really happened."""

    scenario: Scenario
    resources: list[dict[str, Value]]
    spans: list[Span]
    metrics: list[list[dict[str, object]]]
    """Of each engine's GPU, as OTLP JSON."""
    truth: dict[str, pl.DataFrame]
    """``requests``, ``steps``, ``kv``, ``clocks``, ``faults``: what they hold is in `truth.py`."""

    def write(
        self, folder: Path, format: Format = "jsonl", spans_per_line: int = 512, copies: int = 1
    ) -> list[Path]:
        """Write the traces into a folder, a file for each process; return their paths.

        With ``copies`` the day comes again so many times, each after the one before, from processes of their own.
        """
        paths = write_spans(folder, self.resources, self.spans, format, spans_per_line, copies)
        for resource, metrics in zip(self.resources, self.metrics, strict=False):
            paths.append(folder / f"metrics-{len(paths)}.jsonl")
            about = {key: resource[key] for key in (names.SERVICE_NAME, names.HOST_NAME)}
            write_metrics(paths[-1], about, metrics)
        return paths


def make_day(scenario: Scenario, seed: int, *, interference: bool = True) -> Day:
    """Make a day; the same arguments give the same day.

    ``interference``: serve it twice more, without image requests and without images, to know what these cost the others.
    """
    asks = draw_asks(scenario, np.random.default_rng([seed, 0]))
    served = [_serve(scenario, seed, place, asks) for place in range(len(scenario.engines))]
    refused = [
        (ask, preprocess(scenario.engines[ask.engine], [ask])[ask.number])
        for ask in asks
        if ask.status == REJECTED
    ]
    requests = request_table(served, refused)
    if interference:
        texts = {ask.number for ask in asks if not ask.items}
        requests = _add_counterfactuals(scenario, seed, served, requests, texts)
    rng = np.random.default_rng([seed, 1])
    ratios = sampling_ratios(scenario.recording, requests, rng)
    integrals = [Integrals(engine.setup, engine.iterations) for engine in served]
    if scenario.recording.counters:
        for engine, integral in zip(served, integrals, strict=True):
            integral.note(engine.lives)
    folded = [list(fold(engine.iterations, engine.setup.clock_offset_ns)) for engine in served]
    spans: list[Span] = []
    for place, engine in enumerate(served):
        spans += _engine_spans(scenario, seed, place, engine, folded[place], asks, ratios)
    for ask, before in refused:
        maker = _maker(scenario, seed, ask.engine)
        spans += maker.request(ask, before, None, 1.0)
    if scenario.recording.gateway:
        ends = dict(zip(requests["number"], requests["end_ns"], strict=True))
        resource = len(scenario.engines)
        spans += [gateway_span(seed, ask, ends[ask.number], resource) for ask in asks]
    arrived, faults = lose(scenario.recording, spans, rng)
    roots = {span.ids for span in arrived if span.name == names.SPAN_REQUEST}
    requests = requests.with_columns(
        pl.Series("sampling_ratio", ratios, pl.Float64),
        pl.Series("recorded", [request_ids(seed, ask) in roots for ask in asks]),
    )
    steps = [step_row(engine.setup, one) for engine, ones in zip(served, folded, strict=True) for one in ones]
    truth = {
        "requests": requests,
        "steps": pl.DataFrame(steps, infer_schema_length=None),
        "kv": kv_table(served),
        "clocks": pl.DataFrame([{"host": e.host, "offset_ns": e.clock_offset_ns} for e in scenario.engines]),
        "faults": faults,
    }
    metrics = [
        [metric(*sample, hw_id=f"GPU-{engine.setup.name}") for sample in integral.samples()]
        for engine, integral in zip(served, integrals, strict=True)
    ]
    return Day(
        scenario, _resources(scenario), arrived, metrics if scenario.recording.gpu_samples else [], truth
    )


def _serve(scenario: Scenario, seed: int, place: int, asks: Sequence[Ask]) -> Served:
    setup = scenario.engines[place]
    own = [ask for ask in asks if ask.engine == place and ask.status != REJECTED]
    before = preprocess(setup, own)
    engine = Engine(setup, scenario.noise, np.random.default_rng([seed, 2, place]))
    lives = engine.run(own, before)
    return Served(setup, before, lives, engine.iterations)


def _add_counterfactuals(
    scenario: Scenario, seed: int, served: Sequence[Served], requests: pl.DataFrame, texts: set[int]
) -> pl.DataFrame:
    """Serve the day without image requests, and with their images taken out; compare the text requests' times.

    All are handed over when they were, whatever held up their CPUs.
    """
    absent: list[Life] = []
    stripped: list[Life] = []
    for place, actual in enumerate(served):
        asks = [life.ask for life in actual.lives]
        for found, others in (
            (absent, [ask for ask in asks if ask.number in texts]),
            (stripped, [ask.without_media() for ask in asks]),
        ):
            engine = Engine(actual.setup, scenario.noise, np.random.default_rng([seed, 2, place]))
            found += [life for life in engine.run(others, actual.before) if life.ask.number in texts]
    requests = add_interference(requests, absent, "interference")
    return add_interference(requests, stripped, "visual_interference")


def _engine_spans(
    scenario: Scenario,
    seed: int,
    place: int,
    engine: Served,
    folded: Sequence[Folded],
    asks: Sequence[Ask],
    ratios: Sequence[float | None],
) -> Iterator[Span]:
    maker = _maker(scenario, seed, place)
    for life in engine.lives:
        ratio = ratios[life.ask.number]
        if ratio is not None:
            yield from maker.request(life.ask, engine.before[life.ask.number], life, ratio)
    for one in folded:
        yield from maker.step(one, asks)


def _maker(scenario: Scenario, seed: int, place: int) -> EngineSpans:
    recording = scenario.recording
    return EngineSpans(
        seed, place, scenario.engines[place], gateway=bool(recording.gateway), counters=recording.counters
    )


def _resources(scenario: Scenario) -> list[dict[str, Value]]:
    """Return the resource of each engine's process, and behind them the gateway's."""
    found = [_resource(scenario, place, setup) for place, setup in enumerate(scenario.engines)]
    if scenario.recording.gateway:
        found.append({names.SERVICE_NAME: "gateway", names.HOST_NAME: scenario.recording.gateway})
    return found


def _resource(scenario: Scenario, place: int, setup: EngineSetup) -> dict[str, Value]:
    pid = 4000 + place
    values: dict[str, Value] = {
        names.SERVICE_NAME: "vtprof",
        names.HOST_NAME: setup.host,
        names.ROLE: "all",
        names.RANK: 0,
        names.SERVICE_INSTANCE_ID: f"{setup.name}-{pid}-1",
        names.RING_CREATED_NS: 2_874_885_552_189 + place,
        names.PROCESS_PID: pid,
        names.RESOURCE_SCHEMA_VERSION: SCHEMA_VERSION,
        names.ENGINE_NAME: "vllm",
        names.ENGINE_VERSION: "0.11.0",
        names.ENGINE_CONFIG: json.dumps(
            {"max_num_batched_tokens": setup.chunk_tokens, "max_num_seqs": setup.most_sequences}
        ),
        names.PARALLEL_TP: 1,
        names.PARALLEL_PP: 1,
        names.PARALLEL_DP: 1,
        names.MODEL_CONFIG: json.dumps(setup.model.config),
        names.WEIGHTS_DTYPE: "bfloat16",
        names.KV_DTYPE: "bfloat16",
        names.KV_BLOCK_TOKENS: BLOCK_TOKENS,
        names.KV_CAPACITY_TOKENS: setup.kv_capacity_tokens,
        names.KV_BYTES_PER_TOKEN: setup.model.kv_bytes_per_token,
        names.KV_FIXED_BYTES: 0,
        names.DEVICE_KIND: "cuda",
        names.HW_NAME: setup.device.name,
        names.HW_ID: f"GPU-{setup.name}",
    }
    if scenario.recording.attainable_peaks:
        values[names.DEVICE_PEAK_FLOPS] = setup.device.attainable_flops_per_s
        values[names.DEVICE_BANDWIDTH] = setup.device.attainable_bytes_per_s
        values[names.DEVICE_PEAK_SOURCE] = "bf16 GEMM 8192 and copy, measured"
    return values
