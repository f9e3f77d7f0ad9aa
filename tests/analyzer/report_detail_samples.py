"""Everything that a report may say in detail, ordinary and hostile, to be put on another sample."""

from dataclasses import replace

from vtprof_analyzer.report.model import Dominance, Report
from vtprof_analyzer.report.model_anomalies import Anomalies, SlowRequest
from vtprof_analyzer.report.model_caches import Cache
from vtprof_analyzer.report.model_dominance import ContextWindow, TpotWithoutVisual, VisualPreemptions
from vtprof_analyzer.report.model_interference import Interference
from vtprof_analyzer.report.model_kv import KvHeadroom, KvOverTime
from vtprof_analyzer.report.model_requests import (
    BudgetPart,
    PreprocessPart,
    QueueBlame,
    QueueCause,
    StratumBudget,
    TtftDetail,
)
from vtprof_analyzer.report.model_slo import ScalingRow, SloRow
from vtprof_analyzer.report.model_steps import (
    BoundShare,
    InstanceVerdict,
    MixedSteps,
    SplitPhase,
    StepSplit,
    StepVerdicts,
)
from vtprof_analyzer.report.model_trust import ClockOffsetRow, SpanFaultRow, TrustRow

MIB = 1024**2


def with_details(report: Report, text: str | None = None) -> Report:
    """Return the report with all that it may say in detail; ``text`` stands wherever a trace has a say."""
    foreign = text or ""
    names = {
        "host": text or "node-b", "process": text or "alpha-4000-1", "request": text or "chatcmpl-568",
        "model": text or "Qwen2.5-VL-7B", "kind": text or "cycle",
    }  # fmt: skip
    return replace(
        report,
        dominance=replace(
            report.dominance,
            tpot_without_visual_ms=TpotWithoutVisual(700, 4.2, 4.92, 4.5, 5.3, 4.65, 5.5, text or "by the steps' costs"),
            ttft=Dominance(0.4, 0.5, False),
            context_window=ContextWindow(700, 32_768, 0.01, 0.04, 0.09, 0.02, 0.5, False),
            preemptions=VisualPreemptions(149, 34.3, 0.23, 0.5, False),
        ),
        kv=replace(
            report.kv,
            over_time=[
                KvOverTime("text", 40.4 * 1024**3, 755_733.0, 744 * MIB, 0.6),
                KvOverTime(text or "image", None, 506_852.0, None, 0.4),
                KvOverTime("audio", 0.0, 0.0, 0, 0.0),
            ],
            over_time_difference=-0.034,
            headroom=[KvHeadroom(names["process"], 1.39 * 1024**3, 7.0 * MIB, 5e7, 2e8, 0, None, 0.006)],
        ),
        ttft_detail=TtftDetail(
            [
                StratumBudget("all", "p95", 36, 713, 7_480.0,
                              [BudgetPart("queue", 0.99, 7_405.0), BudgetPart("unexplained", 0.01, 75.0)]),
                StratumBudget("1k", "p95", 7, 129, 7_550.0,
                              [BudgetPart("queue", None, None), BudgetPart("unexplained", 1.0, 7_550.0)]),
            ],
            QueueBlame(713, 712, 2_830.0, [
                QueueCause("capacity", 0.86, 2_430.0, 6_300.0), QueueCause("image_prefill", 0.14, 151.0, None),
                QueueCause("unexplained", 0.00001, 0.0000002, 0.000002),
            ]),
            [PreprocessPart("fetch", 0.67, 0.0, 63.4, 715), PreprocessPart("processor", 0.33, 1.14, 18.5, 715)],
        ),
        interference=[
            Interference("ttft_ms", 395, 228.0, 68.5, 387.0, 0.08, "matched_steps", 224, 0.9,
                         190.0, 20.0, 360.0, True, None, "growth of the queue" + foreign),
            Interference("tpot_ms", 12, None, None, None, None, None, 0, None, None, None, None, None,
                         text or "fewer than 20 text-only requests", None),
        ],
        anomalies=Anomalies(713, 191, 2.0, 20, [
            SlowRequest(rank, names["request"], "0" * 32, "1" * 16, "1k", 7_900.0, 9_000.0, 6_930.0 - rank, "queue",
                        7_945.6, 1_000.2, "capacity", text or "queue took 7,946 ms, normally 1,000 ms")
            for rank in range(1, 6)
        ]),
        caches=[Cache("processor", "spans", "items", 459.0, 110.0, 0.24, 49_089.0),
                Cache("prefix", "engine_page", "tokens", 0.0, 0.0, None, None)],
        slo_rows=[
            SloRow("all", None, "ttft", 715.0, 0.43, 0.43, 2.49, 0.0021, None),
            SloRow("all", None, "completed", 715.0, 0.98, 0.43, 2.49, 0.0021, None),
            SloRow("model", names["model"], "ttft", 715.0, 0.43, 0.43, 2.49, 0.0021, None),
            SloRow("visual_stratum", "1k", "ttft", 129.0, 0.39, 0.39, 0.412, None, None),
        ],
        scaling=[ScalingRow(1, 600.0, 4.0, 0.9, 3.6, 1.0), ScalingRow(2, 600.0, 8.0, 0.8, 6.4, 0.889)],
        trust=[TrustRow("tokens", "ok", "", 1.0), TrustRow("clock", "weak", text or "bounds 3 ms apart", 0.9),
               TrustRow("kv", "refused", text or "no step tells what it held", 0.0)],
        span_faults=[SpanFaultRow(names["kind"], 4, None), SpanFaultRow("overlap", 12, 0.004)],
        clock_offsets=[ClockOffsetRow(names["host"], "node-a", 12.5, 11.0, None, 42)],
        step_verdicts=StepVerdicts(
            28_567, 12,
            [BoundShare("decode", "memory_bound", 0.9, 28_000), BoundShare("decode", "overhead_bound", 0.1, 567),
             BoundShare("encode", "compute_bound", 1.0, 275)],
            MixedSteps(4_018, 0.05, 201.0, 3e14, "hybrid", "medium",
                       "201 FLOP/B against a ridge of 184" + foreign, 0.4, None, None),
            StepSplit("the encoder's own time, the rest by the phases' floors" + foreign, 4_300, 0.06, "attributed",
                      [SplitPhase("prefill", 0.7, 0.68), SplitPhase("decode", 0.3, None)]),
            [InstanceVerdict("decode", names["process"], names["host"], names["model"], None,
                             "memory_bound", 0.9, 0.5, 0.9, 9_000),
             InstanceVerdict("decode", "beta", None, None, None, "overhead_bound", 0.8, 0.5, None, 900)],
        ),
    )  # fmt: skip
