"""Write the snapshots of the report again: ``python tests/analyzer/refresh_report_gold.py``; read the diff."""

from pathlib import Path

from report_samples import SAMPLES, gpu_run, vllm_run

from vtprof_analyzer.report import markdown, terminal

GOLD = Path(__file__).parents[1] / "gold"


def refresh() -> None:
    """Write every snapshot."""
    GOLD.mkdir(exist_ok=True)
    for name, report in (("gpu", gpu_run()), ("vllm", vllm_run()), ("details", SAMPLES["details"]())):
        text = terminal.render(report, full_report="report/index.html")
        (GOLD / f"report_{name}.txt").write_text(text, encoding="utf-8")
    (GOLD / "report_gpu.md").write_text(markdown.render(gpu_run()), encoding="utf-8")


if __name__ == "__main__":
    refresh()
