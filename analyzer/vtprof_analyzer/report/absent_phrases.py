"""What stands where something was not recorded: why it is absent, and what would give it, if anything can."""

from vtprof_analyzer.report.format import NOT_RECORDED, percent, safe
from vtprof_analyzer.report.model import Deployment, Report
from vtprof_analyzer.report.phrases import DIALECTS
from vtprof_schemas import names


def no_roofline(report: Report) -> str:
    """Say why there is no roofline, and what would give one."""
    if report.deployment.dialect != "vtprof":
        return (
            f"Not recorded: {DIALECTS.get(report.deployment.dialect, 'these spans')} tell nothing of engine steps, "
            f"which it needs ({names.SPAN_STEP} spans)."
        )
    partly = [
        f"{percent(row.work_share)} of {safe(row.phase, 12)}" for row in report.phases if row.work_share
    ]
    if partly:
        return (
            f"No FLOP/B: the work of too few steps is known ({', '.join(partly)}); the others' processes recorded no"
            f" config of their model ({names.MODEL_CONFIG})."
        )
    if report.deployment.no_cost is not None:
        return f"Not drawn: {safe(report.deployment.no_cost, 300)}."
    return (
        f"Not recorded: it needs {names.SPAN_STEP} and {names.SPAN_WINDOW} spans and the model's config "
        f"({names.MODEL_CONFIG}, or --model)."
    )


def no_roof(deployment: Deployment) -> str:
    """Say that no ceilings are known, and why; where spans hold no steps, none could be used."""
    if deployment.dialect != "vtprof":
        spans = DIALECTS.get(deployment.dialect, "these spans")
        return f"The device's ceilings are {NOT_RECORDED}, and {spans} hold no work to set against them."
    if deployment.no_roof is not None:
        return f"No ceilings: {safe(deployment.no_roof, 300)}."
    return f"The device's ceilings are {NOT_RECORDED}: name it with --device ({names.HW_NAME} in the traces)."


def no_ttft(report: Report) -> str:
    """Say why there is no TTFT budget, and what would give one."""
    if report.ttft_budget.requests == 0:
        return f"Not recorded: no request has a first token ({names.TTFT_NS})."
    spans = ", ".join(names.PHASE_SPANS[phase] for phase in names.TTFT_PHASES if phase != names.TRANSFER)
    return f"Not recorded: the requests have no phase spans ({spans})."


def no_kv(report: Report) -> str:
    """Say why there is no KV footprint, and what would give one."""
    if report.deployment.dialect != "vtprof":
        spans = DIALECTS.get(report.deployment.dialect, "these spans")
        return f"Not recorded: {spans} do not tell tokens by modality."
    model = "" if report.deployment.no_cost and report.deployment.model_type else " (or --model)"
    return (
        f"Not recorded: KV by modality needs {names.TOKENS_TEXT} and {names.TOKENS_IMAGE} on requests, and "
        f"{names.KV_BYTES_PER_TOKEN} on the resource{model}."
    )
