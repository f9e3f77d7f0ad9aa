"""Reports to render: a full GPU run, a tiny CPU demo, vLLM's own spans with little known, nothing, and a hostile one."""

import math
from dataclasses import replace

from report_detail_samples import with_details

from vtprof_analyzer.report.energy_model import CounterCoverage, Energy, EnergyRow, OtherGpu
from vtprof_analyzer.report.model import (
    Advice,
    BudgetRow,
    Deployment,
    Dominance,
    Finding,
    Integrity,
    IntegrityNote,
    Kv,
    KvByModality,
    KvPoint,
    Percentiles,
    PhaseRow,
    Report,
    Roof,
    RoofPoint,
    RuleCounts,
    RuleOutcome,
    Saving,
    Slo,
    Source,
    StratumRow,
    Summary,
    TtftBudget,
    TtftWithoutVisual,
    VisualDominance,
)

GIB = 1024**3
START = 1_795_269_720_000_000_000  # 2026-11-21 14:02 UTC
UNKNOWN = Percentiles(None, None, None)
RULES = (
    {"title": "vLLM: multimodal inputs", "url": "https://docs.vllm.ai/en/stable/features/multimodal_inputs/"},
)


def _cells(phase: str, intensity: float, rate: float, spread: int = 6) -> list[RoofPoint]:
    """Return a cloud of cells around one point of the roofline."""
    return [
        RoofPoint(
            phase=phase,
            intensity=intensity * math.exp(0.16 * i),
            flops_per_s=rate * math.exp(0.12 * j + 0.05 * i),
            steps=max(1, round(400 * math.exp(-(i * i + j * j) / 6))),
            seconds=4.0 * math.exp(-(i * i + j * j) / 6),
        )
        for i in range(-spread, spread + 1)
        for j in range(-spread // 2, spread // 2 + 1)
    ]


def gpu_run() -> Report:
    """A busy half hour of a 7B model on one H200: everything recorded, six findings."""
    attainable = Roof(
        "attainable", 791e12, 4.3e12, 184.0, "bfloat16", "vtprof calibrate, torch GEMM and copy"
    )
    datasheet = Roof("datasheet", 989.5e12, 4.8e12, 206.1, "bfloat16", "NVIDIA H200 datasheet, dense")
    return Report(
        schema_version=1,
        generator="vtprof 0.1.0",
        source=Source(["traces/"], 12, START, START + 1_800_000_000_000),
        deployment=Deployment(
            "Qwen2.5-VL-7B", "qwen2_5_vl", True, "vllm", "0.33.0", "vtprof", "NVIDIA H200", 1, "bfloat16", "bfloat16",
            1, 3, attainable, [attainable, datasheet],
            ["In mixed steps weight bytes are split between prefill and decode by tokens."], None, None,
        ),
        summary=Summary(
            18_204, 18_190, 12, 0, 2, 15_020, 214_332, 56_800_000, 5_112_000, 51_688_000, 0, 0, 3_641_000, 22_410, 96,
            1_800.0, Percentiles(612.0, 2_310.0, 4_800.0), Percentiles(14.2, 31.0, 44.8),
                Percentiles(3_450.0, 8_120.0, 13_900.0),
        ),
        headline="Visual tokens dominate: 91 % of prompt tokens, 88 % of KV, 79 % of prefill FLOPs, 46 % of bytes read "
        "in decode. Without them TTFT p95 would be about 340 ms (−85 %).",
        phases=[
            PhaseRow("preprocess", 15_020, 0.06, None, 110.0, 488.0, 720.0, None, None, None, "host_bound", "medium",
                     "one CPU thread was busy 97 % of the phase and the GPU idle", None, None, None, None),
            PhaseRow("queue", 18_204, 0.09, None, 84.0, 620.0, 1_480.0, None, None, None, "queue_bound", "high",
                     "62 % of the wait lay behind the image prefills of other requests", None, None, None, None),
            PhaseRow("encode", 15_020, 0.24, 0.31, 210.0, 780.0, 1_020.0, 5_211, 1_140.0, 459e12, "compute_bound", "high",
                     "1,140 FLOP/B is above the ridge of 184, and tensor cores were active 55 % of the time", 0.58, 0.21,
                         0.55, 88_000.0),
            PhaseRow("prefill", 18_202, 0.16, 0.28, 120.0, 330.0, 610.0, 9_340, 612.0, 482e12, "compute_bound", "high",
                     "612 FLOP/B is above the ridge of 184, and tensor cores were active 57 % of the time", 0.61, 0.34,
                         0.57, 71_000.0),
            PhaseRow("decode", 18_190, 0.45, 0.41, 2_600.0, 6_100.0, 9_800.0, 88_102, 7.9, 25.1e12, "memory_bound", "high",
                     "7.9 FLOP/B is below the ridge of 184, and DRAM was busy 71 % of its peak", 0.74, 0.71, 0.06,
                         103_000.0),
        ],
        ttft_budget=TtftBudget(
            18_202,
            [BudgetRow("preprocess", 0.205, 110.0, 488.0), BudgetRow("queue", 0.195, 84.0, 620.0),
                BudgetRow("encode", 0.365, 210.0, 780.0),
             BudgetRow("prefill", 0.205, 120.0, 330.0), BudgetRow("unexplained", 0.03, 12.0, 90.0)],
            911,
            [BudgetRow("preprocess", 0.2125, 490.0, 720.0), BudgetRow("queue", 0.2675, 620.0, 1_480.0),
                BudgetRow("encode", 0.3375, 780.0, 1_020.0),
             BudgetRow("prefill", 0.1425, 330.0, 610.0), BudgetRow("unexplained", 0.04, 90.0, 160.0)],
        ),
        strata=[StratumRow("0", 3_184, 92.0, 240.0), StratumRow("256", 1_210, 180.0, 420.0),
            StratumRow("1k", 4_920, 410.0, 990.0),
                StratumRow("4k", 5_800, 690.0, 2_040.0), StratumRow("16k", 3_090, 1_610.0, 4_600.0)],
        dominance=VisualDominance(
            Dominance(0.91, 0.5, True), Dominance(0.88, 0.5, True), Dominance(0.79, 0.5, True), Dominance(0.46, 0.3, True),
            TtftWithoutVisual(96.0, 340.0, "preprocess, encode and the visual part of prefill removed"),
        ),
        kv=Kv(
            57_344, "bfloat16", 3_465_953_280_000, 2_964_000_000_000, Percentiles(1.61e8, 4.9e8, 9.8e8),
            117_829_000_000, 126_701_535_232, 0.93, 42,
            [KvByModality("text", 5_112_000, 293_142_528_000, 0.0846), KvByModality("image", 49_880_000,
                2_860_318_720_000, 0.8252),
             KvByModality("video", 1_808_000, 103_677_952_000, 0.0299), KvByModality("audio", 0, 0, 0.0),
             KvByModality("output", 3_641_000, 208_789_504_000, 0.0602)],
            [KvPoint(i * 10.0, int((70 + 28 * math.sin(i / 9)) * GIB),
                int((9 + 3 * math.cos(i / 5)) * GIB)) for i in range(181)],
            "recorded by the probe", "max",
        ),
        slo=Slo(2_000.0, None, 0.71, None, 0.71, 7.2),
        integrity=Integrity(12, 0, 0, 0, 3, 0, 41, 0, 0, 18, 2, 0, 0, 36, 0.4, 0.997,
                            [IntegrityNote("traces/agent-2.jsonl", 8_112, "duplicate span; counted once")]),
        findings=_findings(),
        rules=RuleCounts(6, 40, 2, 0, 1, 0),
        not_fired=[RuleOutcome("ENC001", "passed", "median encode share of TTFT 9 %"),
                   RuleOutcome("ENC002", "not_applicable", "for sglang, not vllm"),
                   RuleOutcome("DEC003", "suppressed", "the cache is far from full"),
                   RuleOutcome("CACHE001", "not_applicable", "not judged: cached_tokens not recorded")],
        roofline=_cells("encode", 1_140.0, 459e12, 4) + _cells("prefill", 612.0, 482e12) + _cells("decode", 7.9, 25.1e12, 8)
        + _cells("mixed", 201.0, 310e12, 4),
        energy=Energy(
            18_190, 12, 262_000.0, 241_000.0, 285_500.0, 0.028, "estimated", 14.4, 13.2, 15.7, 9.61, 48.2,
            0.07196, 0.0662, 0.0784, 0.02843,
            [EnergyRow("encode", 15_020, 88_000.0, 83_100.0, 92_900.0, 88 / 262, 4.838, 0.0, "attributed"),
             EnergyRow("prefill", 18_190, 71_000.0, 62_900.0, 80_600.0, 71 / 262, 3.903, 0.103, "estimated"),
             EnergyRow("decode", 18_190, 103_000.0, 95_000.0, 112_000.0, 103 / 262, 5.662, 0.0, "attributed")],
            1, 768_400.0, 1_800.0, 0.341, 96.4, False, [],
        ),
        counters=[CounterCoverage(phase, counter, 0.983 if (phase, counter) == ("decode", "energy") else 0.9991)
                  for phase in ("encode", "prefill", "decode") for counter in ("energy", "dram", "tensor")],
    )  # fmt: skip


def _findings() -> list[Finding]:
    def rows(number: int) -> list[dict[str, object]]:
        return [
            {"trace_id": f"{i:032x}", "n_visual_tokens": 16_384 - 311 * i, "encode_ms": 912.4 - 20.25 * i,
                "ttft_ms": 4_803.1 - 77.5 * i}
            for i in range(number)
        ]  # fmt: skip

    links = [dict(link) for link in RULES]
    return [
        Finding(
            "MM001", "high", "encode", "Cap the resolution of images",
            "6,947 of 22,410 images exceed 4,096 visual tokens", rows(10),
            [Advice("Cap the pixels of an image", "vllm", ">=0.11", {"--mm-processor-kwargs": {"max_pixels": 1_003_520}},
                    "check accuracy on documents and small text first")],
            Saving("ttft_ms", "ms", 880.0, 1_200.0, "bound", "time above the cap, from a model fitted to this trace"),
                links, accuracy=True, ocr_like_share=0.34),
        Finding(
            "PRE001", "high", "preprocess", "Image preprocessing runs on one thread while the GPU waits",
            "15,020 of 15,020 requests with images", rows(4),
            [Advice("Give the renderer more workers", "vllm", ">=0.12", {"--renderer-num-workers": 8}, None)],
            Saving("ttft_ms", "ms", 210.0, 440.0, "bound", "Amdahl limit of the serial part"), links),
        Finding(
            "KV001", "medium", "kv", "Store the KV cache in fp8",
            "visual KV is 46 % of the bytes read in decode", [],
            [Advice("Store KV in fp8", "vllm", None, {"--kv-cache-dtype": "fp8"}, "measure answers before and after")],
            Saving("tpot_ms", "ms", 1.7, 2.9, "heuristic", "half the KV bytes at the measured bandwidth"), links),
        Finding("MM002", "medium", "encode", "The same images are encoded again", "2,204 of 22,410 images", rows(2),
                [Advice("Raise the encoder cache", "vllm", None, {"--mm-processor-cache-gb": 8}, None)],
                Saving("gpu_seconds", "s", 31.0, 31.0, "measured", "encode time of images seen before"), []),
        Finding("QUE003", "low", "queue", "Chunked prefill budget is small for image prompts", "8,890 of 18,204 requests",
            [],
                [Advice("Raise the token budget", "vllm", None, {"--max-num-batched-tokens": 16_384}, "TPOT may rise")],
                Saving("ttft_ms", "ms", None, 120.0, "bound", "queue time behind chunks"), []),
        Finding("DAT003", "info", "system", "A window shorter than an hour", "30.0 min", [],
            [Advice("Record longer", None, None, {}, None)],
                None, []),
    ]  # fmt: skip


def sampled_run() -> Report:
    """The same half hour when one ordinary request in ten was kept, with energy that nobody could tell apart."""
    run = gpu_run()
    assert run.energy is not None
    rows = [replace(row, low_j=0.0) if row.phase == "prefill" else row for row in run.energy.phases]
    others = [
        OtherGpu(f"GPU-{number:08x}-4b1d-9c55-0a6e-5f7d3c2b1a90", 61_200.0 / number) for number in range(1, 7)
    ]
    return replace(
        run,
        summary=replace(run.summary, weighted=True),
        integrity=replace(run.integrity, sampled_requests=16_384, estimated_requests=165_660),
        energy=replace(run.energy, phases=rows, low_j=25_000.0, per_request_low_j=1.2, per_output_token_low_j=0.005,
                       unattributed_share=None, sampled=True, other_gpus=others),
    )  # fmt: skip


def demo_run() -> Report:
    """Eight requests of a tiny model on two CPU cores: no GPU counters, little certainty."""
    roof = Roof("attainable", 1.9e11, 2.1e10, 9.05, "float32", "numpy float32 GEMM and copy, 2 threads")
    return replace(
        gpu_run(),
        energy=None,
        counters=[],
        source=Source(["run/"], 1, START, START + 9_000_000_000),
        deployment=Deployment("tiny-qwen2.5-vl", "qwen2_5_vl", True, "transformers", "5.23.0", "vtprof", "CPU, 2 cores",
            None, "float32",
                              "float32", 1, 1, roof, [roof],
                                  ["DRAM and tensor activity: not recorded (no GPU counters on this machine)"], None, None),
        summary=Summary(8, 8, 0, 0, 0, 6, 71, 2_412, 208, 2_204, 0, 0, 128, 6, 0, 9.0, Percentiles(41.0, 58.5, 60.1),
                        Percentiles(6.1, 7.0, 7.2), Percentiles(140.0, 165.0, 168.0)),
        headline="Visual tokens dominate: 91 % of prompt tokens, 86 % of KV. Eight requests: little certainty.",
        phases=[
            PhaseRow("preprocess", 6, 0.1, None, 5.2, 6.0, 6.1, None, None, None, "host_bound", "medium",
                "CPU work of one thread", None, None, None, None),
            PhaseRow("queue", 8, 0.02, None, 0.85, 2.2, 2.4, None, None, None, "insufficient_data", "low",
                "under 1 % of TTFT", None, None, None, None),
            PhaseRow("encode", 6, 0.21, None, 14.0, 16.2, 16.4, 6, 24.0, 6.1e10, "compute_bound", "low",
                "24 FLOP/B is above the ridge of 9.05", 0.32, None, None, None),
            PhaseRow("prefill", 8, 0.27, None, 18.1, 22.0, 22.2, 8, 41.0, 7.3e10, "compute_bound", "low",
                "41 FLOP/B is above the ridge of 9.05", 0.38, None, None, None),
            PhaseRow("decode", 8, 0.4, None, 98.0, 110.0, 111.0, 120, 0.49, 4.4e9, "memory_bound", "low",
                "0.49 FLOP/B is below the ridge of 9.05", 0.43, None, None, None),
        ],
        ttft_budget=TtftBudget(8, [BudgetRow("preprocess", 1 / 6, 5.2, 6.0), BudgetRow("queue", 1 / 6, 0.85, 2.2),
            BudgetRow("encode", 1 / 6, 14.0, 16.2),
                                   BudgetRow("prefill", 1 / 3, 18.1, 22.0), BudgetRow("unexplained", 1 / 6, 2.0, 3.0)],
                               1, [BudgetRow("preprocess", 1 / 3, 6.0, 6.0), BudgetRow("encode", 1 / 3, 16.0, 16.0),
                                   BudgetRow("prefill", 1 / 3, 22.0, 22.0),
                                   BudgetRow("unexplained", 0.0, 0.0, 0.0)]),
        strata=[StratumRow("0", 2, 20.0, 21.0), StratumRow("1k", 6, 44.0, 59.0)],
        dominance=VisualDominance(Dominance(0.914, 0.5, True), Dominance(0.86, 0.5, True), Dominance(0.9, 0.5, True),
            Dominance(0.11, 0.3, False),
                                  TtftWithoutVisual(9.8, 12.4, "preprocess, encode and the visual part of prefill removed")),
        kv=Kv(1_024, "float32", 2_592_768, 2_256_896, Percentiles(3.3e5, 3.9e5, 3.9e5), 390_144, None, None, 0,
              [KvByModality("text", 208, 212_992, 0.082), KvByModality("image", 2_204, 2_256_896, 0.87),
                  KvByModality("output", 120, 122_880, 0.048)],
              [KvPoint(float(i), 324_000 if i % 2 else 0, 40_000 + 900 * i) for i in range(10)], "recorded by the probe",
              "mean"),
        slo=Slo(None, None, None, None, None, None),
        integrity=Integrity(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 1.0, []),
        findings=[],
        rules=RuleCounts(0, 6, 0, 0, 0, 0),
        not_fired=[],
        roofline=[RoofPoint("encode", 24.0 + i, 6.1e10 - 1e9 * i, 1, 0.014) for i in range(6)]
        + [RoofPoint("prefill", 41.0 + i, 7.3e10, 1, 0.018) for i in range(8)]
        + [RoofPoint("decode", 0.49 + 0.01 * i, 4.4e9 + 1e8 * i, 12, 0.08) for i in range(10)],
    )  # fmt: skip


def vllm_run() -> Report:
    """vLLM's own request spans: times are known, what happened in the engine is not."""
    return replace(
        gpu_run(),
        energy=None,
        counters=[],
        deployment=Deployment(
            "Qwen/Qwen2.5-VL-7B-Instruct", None, False, "vllm", None, "vllm", None, None, None, None, None, 1, None, [],
            ["the model is not recorded; --model FOLDER gives KV bytes, but no FLOPs or roofline",
             "Tokens by modality not recorded: vLLM's spans count prompt tokens only"],
            "these spans hold no engine steps: FLOPs, bytes and verdicts are not known", None),
        summary=Summary(412, 412, 0, 0, 0, None, 412, 512_300, None, None, None, None, 61_800, None, None, 240.0,
                        Percentiles(480.0, 1_900.0, 2_600.0), Percentiles(15.5, 28.0, 33.0),
                            Percentiles(2_700.0, 5_100.0, 6_000.0)),
        headline="Prefill is the largest part of TTFT (64 %). What visual tokens cost is not recorded.",
        phases=[
            PhaseRow("queue", 412, 0.1, None, 90.0, 640.0, 900.0, None, None, None, "insufficient_data", "low",
                "queue is not judged: no step spans", None, None, None, None),
            PhaseRow("prefill", 412, 0.2, None, 310.0, 1_100.0, 1_500.0, None, None, None, "insufficient_data", "low",
                "prefill is not judged: no step spans", None, None, None, None),
            PhaseRow("decode", 412, 0.7, None, 2_100.0, 3_900.0, 4_200.0, None, None, None, "insufficient_data", "low",
                "decode is not judged: no step spans", None, None, None, None),
        ],
        ttft_budget=TtftBudget(412, [BudgetRow("queue", 0.24, 90.0, 640.0), BudgetRow("prefill", 0.64, 310.0, 1_100.0),
            BudgetRow("unexplained", 0.12, 60.0, 190.0)],
                               21, [BudgetRow("queue", 0.34, 640.0, 900.0), BudgetRow("prefill", 0.56, 1_100.0, 1_500.0),
                                   BudgetRow("unexplained", 0.1, 190.0, 200.0)]),
        strata=[],
        dominance=_unknown_dominance(0.5),
        kv=Kv(None, None, None, None, UNKNOWN, None, None, None, None, [], [], "not recorded", None),
        slo=Slo(2_000.0, 50.0, 0.96, 1.0, 0.96, 1.6),
        integrity=Integrity(2, 1, 1, 1, 0, 0, 0, 0, 3, 0, 0, 0, 0, None, None, 1.0,
                            [IntegrityNote("spans.jsonl", 413, "line ends in the middle; left out")]),
        findings=[],
        rules=RuleCounts(0, 3, 10, 0, 0, 0),
        not_fired=[RuleOutcome(f"MM{n:03d}", "not_applicable", f"not judged: {'one' if n < 3 else n} not recorded")
                   for n in range(1, 11)],
        roofline=[],
    )  # fmt: skip


def _unknown_dominance(threshold: float) -> VisualDominance:
    unknown = Dominance(None, threshold, None)
    return VisualDominance(
        unknown,
        unknown,
        unknown,
        unknown,
        TtftWithoutVisual(None, None, "tokens by modality are not recorded"),
    )


def empty_run() -> Report:
    """One rejected request and nothing else."""
    return replace(
        vllm_run(),
        source=Source(["empty/"], 1, None, None),
        deployment=Deployment(None, None, False, None, None, "vtprof", None, None, None, None, None, 0, None, [], [], None,
            None),
        summary=Summary(1, 0, 0, 1, 0, None, 1, None, None, None, None, None, None, None, None, None, UNKNOWN, UNKNOWN,
            UNKNOWN),
        headline="Nothing to judge: no request got a first token.",
        phases=[],
        ttft_budget=TtftBudget(0, [], 0, []),
        slo=Slo(None, None, None, None, None, None),
        integrity=Integrity(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, None, None, None, []),
        rules=RuleCounts(0, 0, 0, 1, 0, 0),
        not_fired=[RuleOutcome("ENC001", "insufficient_data", "0 requests, needs 20")],
    )  # fmt: skip


HOSTILE = (
    "\x1b[31mred\x07 [bold]</script><script>fetch('https://evil.example')</script> "
    "<img src=x onerror=alert(1)> \u202eback | `tick`\r\n# h\x00"
)


def hostile_run() -> Report:
    """Every text of a trace is an attack or far too long; every number is at an end of its range."""
    roof = Roof("attainable", 1e300, 1e-300, 1e300, HOSTILE, HOSTILE)
    full = gpu_run()
    assert full.energy is not None
    huge = 2**63 - 1
    return replace(
        full,
        source=Source([HOSTILE, "x" * 5_000], huge, -(2**63), huge),
        deployment=Deployment(HOSTILE, HOSTILE, True, HOSTILE, "9" * 9_000, "vtprof", HOSTILE, huge, HOSTILE, "\ud800",
            huge, huge, roof, [roof],
                              [HOSTILE, "y" * 9_000], HOSTILE, HOSTILE),
        summary=replace(full.summary, requests=huge, input_tokens=huge, duration_s=1e300, ttft_ms=Percentiles(0.0, 1e-300,
            1e300)),
        headline=HOSTILE * 40,
        phases=[replace(full.phases[0], phase=HOSTILE, bound="latency_bound", confidence="low", explanation=HOSTILE * 30,
            p50_ms=1e300, intensity=1e-300,
                        flops_per_s=1e300, steps=huge, floor_ratio=1e300, dram_bw_ratio=1e300), *full.phases],
        ttft_budget=TtftBudget(huge, [BudgetRow(HOSTILE, 1.0, 1e300, 1e300), BudgetRow("unexplained", None, None, None)],
            huge,
                               [BudgetRow("prefill", 1e300, 0.0, None)]),
        strata=[StratumRow(HOSTILE, huge, 1e300, 0.0)],
        energy=replace(
            full.energy, requests=huge, energy_j=1e300, quality=HOSTILE, estimated_share=1e300, per_request_j=1e300,
            phases=[EnergyRow(HOSTILE, huge, 1e300, 0.0, 1e300, 1e300, 1e-300, None, HOSTILE), *full.energy.phases],
            gpus=huge, gpu_energy_j=1e300, gpu_observed_s=1e300, unattributed_share=1e300,
        ),
        counters=[CounterCoverage(HOSTILE, HOSTILE, 1e-300), CounterCoverage("encode", "dram", None)],
        kv=replace(full.kv, dtype=HOSTILE, how=HOSTILE, peak_usage_ratio=1e300, by_modality=[KvByModality(HOSTILE, huge,
            huge, 1.0)],
                   held=[KvPoint(0.0, huge, 0), KvPoint(1e300, 0, huge)]),
        integrity=replace(full.integrity, records_lost=huge, clock_offset_ms=1e300, notes=[IntegrityNote(HOSTILE, huge,
            HOSTILE)]),
        findings=[Finding(HOSTILE, "high", HOSTILE, HOSTILE * 20, HOSTILE, [{HOSTILE: HOSTILE, "n": None, "deep": [[1]],
            "big": 1e300}],
                          [Advice(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE, "--flag": HOSTILE}, HOSTILE)],
                          Saving(HOSTILE, HOSTILE, -1e300, 1e300, "heuristic", HOSTILE),
                          [{"title": HOSTILE, "url": "javascript:alert(1)"}, {"title": "quote",
                              "url": 'https://x.example/"onclick="alert(1)'}])],
        not_fired=[RuleOutcome(HOSTILE, "suppressed", HOSTILE)],
        roofline=[RoofPoint(HOSTILE, 1e-300, 1e300, huge, 1e300), RoofPoint("encode", 1e300, 1e-300, 1, 0.0),
            *full.roofline],
    )  # fmt: skip


SAMPLES = {
    "gpu": gpu_run, "sampled": sampled_run, "demo": demo_run, "vllm": vllm_run, "empty": empty_run, "hostile": hostile_run,
    "details": lambda: with_details(gpu_run()), "hostile_details": lambda: with_details(hostile_run(), HOSTILE),
}  # fmt: skip
