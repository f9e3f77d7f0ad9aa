"""Comparisons made by hand for the tests of the report: one of each verdict, and the ends of what may come."""

from dataclasses import replace
from typing import Any

from report_samples import HOSTILE

from vtprof_analyzer.regress.comparison import (
    Comparison,
    Decomposition,
    Effect,
    Metric,
    Part,
    Shift,
    SideSummary,
    StratumEffect,
)

MODEL = "Qwen2.5-VL-7B"
MINUTE_NS = 60_000_000_000
BEGIN_NS = 1_795_269_720_000_000_000
"""2026-11-21 14:02 UTC."""


def side(label: str, requests: int, **more: Any) -> SideSummary:
    """Return half an hour of one run."""
    return replace(
        SideSummary(
            runs=(label,),
            requests=requests,
            skipped={},
            models=(MODEL,),
            engines=("vllm 0.33.0",),
            devices=("1 x NVIDIA H200",),
            settings=("bfloat16, TP 1",),
            begin_unix_nano=BEGIN_NS,
            end_unix_nano=BEGIN_NS + 30 * MINUTE_NS,
        ),
        **more,
    )


def effect(phase: str, ratio: float | None, half_width: float | None = None, **more: Any) -> Effect:
    """Return an effect whose interval is symmetric, of 2,400 requests a side."""
    low, high = (
        (None, None) if ratio is None or half_width is None else (ratio - half_width, ratio + half_width)
    )
    return replace(
        Effect(
            phase, "shift", MODEL, "no_change", ratio, low, high, 0.4, 0.03, 2_400, 2_410, 0.99, None, None
        ),
        **more,
    )


def stratum(phase: str, by: Any, name: str, ratio: float, half_width: float, base_ms: float) -> StratumEffect:
    """Return an effect of one stratum of 600 requests a side."""
    low, high = ratio - half_width, ratio + half_width
    return StratumEffect(phase, MODEL, by, name, 600, 610, base_ms, base_ms * (1 + ratio), ratio, low, high)


def metric_rows(name: str, base: tuple[float, ...], new: tuple[float, ...]) -> list[Metric]:
    """Return mean, p50, p95 and p99 of a metric."""
    return [
        Metric(name, statistic, before, after, after / before - 1)
        for statistic, before, after in zip(("mean", "p50", "p95", "p99"), base, new, strict=True)
    ]


def regression() -> Comparison:
    """The encoder is 8.3 % slower, and its tail is heavier; images are a little bigger."""
    slower = effect(
        "encode", 0.083, 0.024, outcome="regression", p_value=1e-7, mde=0.029, base_value=251.0, new_value=271.8,
        evidence=("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7a3ce929d0e0e4737"),
    )  # fmt: skip
    tail = effect(
        "encode", 0.42, 0.2, kind="tail", outcome="regression", p_value=1e-5, mde=None, base_value=0.015,
        new_value=0.034, evidence=("4bf92f3577b34da6a3ce929d0e0e4736",),
    )  # fmt: skip
    unknown = effect(
        "kv", None, outcome="insufficient_data", p_value=None, mde=None, overlap=None, requests_base=0,
        requests_new=0, why_not="no request tells kv_bytes",
    )  # fmt: skip
    effects = (
        slower,
        tail,
        effect("preprocess", 0.004, 0.019, base_value=48.2, new_value=48.4),
        effect("queue", 0.03, 0.09, mde=0.11, base_value=92.0, new_value=95.0),
        effect("prefill", -0.006, 0.02, base_value=188.0, new_value=187.0),
        effect("decode", 0.001, 0.012, mde=0.018, base_value=14.2, new_value=14.2),
        effect("cache", 0.02, 0.05, what="encoder cache", mde=0.08, base_value=0.62, new_value=0.612),
        unknown,
    )
    strata = tuple(
        stratum(phase, "visual_tokens", name, ratio, width, base)
        for phase, rows in {
            "encode": (("256", 0.071, 0.05, 61.0), ("1k", 0.084, 0.03, 190.0), ("4k", 0.09, 0.028, 402.0)),
            "prefill": (("0", 0.01, 0.04, 71.0), ("256", -0.012, 0.05, 95.0), ("1k", -0.004, 0.03, 180.0),
                        ("4k", -0.008, 0.026, 310.0)),
            "decode": (("0", 0.002, 0.02, 14.0), ("1k", 0.0, 0.02, 14.2), ("4k", 0.004, 0.02, 14.5)),
        }.items()
        for name, ratio, width, base in rows
    )  # fmt: skip
    metrics = [
        *metric_rows("ttft_ms", (612.3, 540.0, 1_480.0, 2_310.0), (640.4, 566.0, 1_540.0, 2_480.0)),
        *metric_rows("tpot_ms", (14.2, 13.8, 31.0, 44.8), (14.2, 13.9, 30.8, 45.0)),
        *metric_rows("encode_ms", (251.0, 230.0, 610.0, 820.0), (271.8, 249.0, 662.0, 1_010.0)),
        *metric_rows(
            "visual_tokens", (1_210.0, 1_036.0, 4_020.0, 8_100.0), (1_225.0, 1_036.0, 4_100.0, 8_100.0)
        ),
        Metric("arrivals_per_s", "rate", 1.7, 1.71, 1.71 / 1.7 - 1),
        Metric("encoder_cache_hits", "rate", 0.62, 0.612, 0.612 / 0.62 - 1),
    ]
    return Comparison(
        verdict="regression",
        workload_shift=False,
        load_increase=False,
        masked=False,
        causes=(slower, tail),
        improvements=(),
        effects=effects,
        shifts=(),
        strata=(*strata, stratum("encode", "text_tokens", "1 to 128", 0.08, 0.03, 250.0)),
        metrics=tuple(metrics),
        decomposition=Decomposition(
            612.3,
            640.4,
            (
                Part("mix", 3.1), Part("load", 0.6), Part("preprocess", 0.2), Part("queue", 4.7),
                Part("encode", 20.8), Part("prefill", -1.1), Part("unexplained", 0.1), Part("residual", -0.3),
            ),
        ),
        alpha=0.01,
        min_effect=0.02,
        mde={"encode": 0.029, "preprocess": 0.03, "queue": 0.11, "prefill": 0.03, "decode": 0.018},
        requests_needed=1_150,
        runs_needed=None,
        run_noise_ratio=0.008,
        run_noise_source="default",
        base=side("runs/main", 3_012, skipped={"aborted": 12, "negative duration": 2}),
        new=side("runs/pr-81", 3_040, begin_unix_nano=BEGIN_NS + 1_440 * MINUTE_NS,
                 end_unix_nano=BEGIN_NS + 1_470 * MINUTE_NS),
        warnings=(),
    )  # fmt: skip


def no_change() -> Comparison:
    """Images are bigger and load is a little higher; no phase is slower for it."""
    found = regression()
    calm = tuple(
        replace(one, outcome="no_change", effect_ratio=0.002, ci_low=-0.02, ci_high=0.024, evidence=())
        for one in found.effects
        if one.kind == "shift" and one.phase != "kv"
    )
    shifts = (
        Shift("visual tokens per request", 1_210.0, 1_612.0, "tokens", "mix"),
        Shift("share of requests with images", 0.71, 0.84, "share", "mix"),
        Shift("arrival rate", 1.70, 1.98, "requests/s", "load"),
        Shift("work per request", 412.0, 520.0, "ms of work at BASE's speed", "mix"),
    )
    parts = (
        Part("mix", 177.6),
        Part("load", 12.2),
        Part("encode", 0.4),
        Part("queue", -0.4),
        Part("residual", 0.0),
    )
    return replace(
        found, verdict="no_change", workload_shift=True, load_increase=True, causes=(), effects=calm, shifts=shifts,
        decomposition=Decomposition(612.3, 802.1, parts), warnings=(),
    )  # fmt: skip


def masked() -> Comparison:
    """The encoder is 12 % slower, and smaller images hide it."""
    slower = effect("encode", 0.12, 0.02, outcome="regression", base_value=251.0, new_value=210.0)
    parts = (Part("mix", -102.0), Part("load", -1.0), Part("encode", 24.0), Part("residual", 0.5))
    return replace(
        regression(), masked=True, workload_shift=True, causes=(slower,), effects=(slower, *no_change().effects[1:]),
        shifts=(Shift("visual tokens per request", 1_210.0, 806.0, "tokens", "mix"),),
        decomposition=Decomposition(612.3, 533.8, parts), run_noise_source="replicas",
        base=side("runs/a", 6_020, runs=("runs/a", "runs/b")), new=side("runs/c", 6_010, runs=("runs/c", "runs/d")),
    )  # fmt: skip


def improvement() -> Comparison:
    """Prefill is faster, on another device."""
    faster = effect("prefill", -0.11, 0.03, outcome="improvement", base_value=188.0, new_value=167.0)
    parts = (Part("mix", 0.4), Part("load", -2.0), Part("prefill", -21.0), Part("residual", 0.2))
    return replace(
        regression(), verdict="improvement", causes=(), improvements=(faster,), effects=(faster,),
        decomposition=Decomposition(612.3, 589.9, parts), requests_needed=None, runs_needed=4,
        new=side("runs/new", 3_040, devices=("1 x NVIDIA B200",)), run_noise_source="replicas",
        warnings=("other device: 1 x NVIDIA H200 in BASE, 1 x NVIDIA B200 in NEW; --expect-change if that is the change",),
    )  # fmt: skip


def insufficient() -> Comparison:
    """Forty requests a side, and next to nothing known."""
    missing = "40 requests of BASE and 38 of NEW have it, at least 200 of each are needed"
    effects = tuple(
        effect(phase, None, outcome="insufficient_data", p_value=None, mde=None, overlap=None, requests_base=40,
               requests_new=38, why_not=missing)
        for phase in ("encode", "prefill", "decode")
    )  # fmt: skip
    unseen = effect("kv", None, outcome="insufficient_data", mde=None, why_not="no request tells kv_bytes")
    return replace(
        regression(), verdict="insufficient_data", causes=(), effects=(*effects, unseen), strata=(), metrics=(),
        decomposition=None, mde={}, requests_needed=None, runs_needed=None,
        base=side("base.csv", 40, engines=(), devices=(), settings=(), begin_unix_nano=None, end_unix_nano=None),
        new=side("new.csv", 38, engines=(), devices=(), settings=(), begin_unix_nano=None, end_unix_nano=None),
    )  # fmt: skip


def two_models() -> Comparison:
    """Two models share the service; KV per token doubled for one, and the encoder's cache misses more for both."""
    found = regression()
    kv = effect("kv", 1.0, 0.0, outcome="regression", base_value=57_344.0, new_value=114_688.0)
    cache = effect(
        "cache", 0.63, 0.12, outcome="regression", what="encoder cache", base_value=0.62, new_value=0.38
    )
    other = tuple(replace(one, model="InternVL3-8B") for one in no_change().effects)
    return replace(
        found, causes=(kv, cache), improvements=(replace(other[0], outcome="improvement", effect_ratio=-0.05),),
        effects=(kv, cache, *no_change().effects[1:5], *other),
    )  # fmt: skip


def hostile() -> Comparison:
    """Every text is an attack or far too long, there is too much of everything, and numbers are at their ends."""
    found = regression()
    huge = 1e300
    row = effect(
        HOSTILE, huge, 1.0, model=HOSTILE, what=HOSTILE, why_not=HOSTILE * 20, evidence=(HOSTILE,) * 50
    )
    nan = float("nan")
    return replace(
        found,
        causes=(row,) * 300,
        effects=tuple(replace(row, model=f"{HOSTILE}{n % 20}", outcome="insufficient_data") for n in range(600)),
        shifts=(Shift(HOSTILE, nan, huge, HOSTILE, "mix"), Shift(HOSTILE, 0.0, -huge, "share", "load")) * 100,
        strata=(StratumEffect(HOSTILE, HOSTILE, "visual_tokens", HOSTILE, 1, 1, huge, nan, huge, 1.0, huge),) * 500,
        metrics=(Metric(HOSTILE, "p50", nan, huge, huge), Metric("ttft_ms", "mean", 0.0, huge, None)) * 100,
        decomposition=Decomposition(1e-300, huge, (Part(HOSTILE, huge), Part("mix", nan))),
        mde={HOSTILE: nan, "encode": huge},
        run_noise_ratio=nan,
        base=side(HOSTILE, 2**62, runs=(HOSTILE,) * 900, skipped={f"{HOSTILE}{n}": n for n in range(300)},
                  models=(HOSTILE,) * 50, begin_unix_nano=-(2**62), end_unix_nano=2**62),
        warnings=(HOSTILE * 30,) * 400,
    )  # fmt: skip


SAMPLES = {
    "regression": regression,
    "no_change": no_change,
    "masked": masked,
    "improvement": improvement,
    "insufficient": insufficient,
    "two_models": two_models,
    "hostile": hostile,
}
