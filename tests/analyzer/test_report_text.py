"""Terminal, Markdown and JSON reports. Snapshots: refresh with ``python tests/analyzer/refresh_report_gold.py``."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import HOSTILE, SAMPLES, empty_run, gpu_run, hostile_run, vllm_run
from rich.cells import cell_len

from vtprof_analyzer.report import json_text, markdown, terminal
from vtprof_analyzer.report.advice_phrases import command, saving_line
from vtprof_analyzer.report.formats import FORMATS, render
from vtprof_analyzer.report.model import Advice, BudgetRow, Saving

GOLD = Path(__file__).parents[1] / "gold"


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    text = terminal.render(SAMPLES[name](), width=width, full_report="some/where/index.html")
    assert max(cell_len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("name", ["gpu", "vllm"])
def test_the_terminal_report_is_as_reviewed(name: str) -> None:
    text = terminal.render(SAMPLES[name](), full_report="report/index.html")
    assert text == (GOLD / f"report_{name}.txt").read_text(encoding="utf-8")


def test_the_markdown_report_is_as_reviewed() -> None:
    assert markdown.render(gpu_run()) == (GOLD / "report_gpu.md").read_text(encoding="utf-8")


def test_without_colour_there_is_no_escape_sequence_and_with_colour_the_words_are_the_same() -> None:
    plain, coloured = terminal.render(gpu_run()), terminal.render(gpu_run(), color=True)
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    unstyled = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert unstyled.split() == plain.split()


def test_the_budget_adds_up_to_100_with_the_unexplained_last() -> None:
    text = terminal.render(gpu_run())
    block = text.split("Where TTFT goes")[1].split("Phases against")[0]
    bars = re.findall(r"^  (\w+).*?(\d+) %", block, re.M)
    assert sum(int(number) for _, number in bars) == 100
    assert bars[-1][0] == "unexplained"


def test_the_verdict_comes_first_then_time_then_causes_then_advice_then_trust() -> None:
    text = terminal.render(gpu_run(), full_report="report/index.html")
    order = [
        "TTFT ",
        "VISUAL TOKENS DOMINATE",
        "Where TTFT goes",
        "Phases against",
        "KV footprint",
        "What to do",
        "Can this be",
        "Full report",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_unknown_is_said_and_never_a_zero() -> None:
    for renderer in (terminal.render, markdown.render):
        text = renderer(vllm_run())
        assert "not recorded" in text
        assert "0 B" not in text
        assert "0 preemptions" not in text
        assert "no record lost" not in text
    assert terminal.render(empty_run()).count("not recorded") >= 8


def test_what_would_make_it_known_is_named() -> None:
    text = " ".join(terminal.render(vllm_run()).split())
    assert "--model" in text
    assert "--device" in text
    assert "vtprof.step spans" in text


@pytest.mark.parametrize("color", [True, False])
def test_hostile_text_cannot_steer_the_terminal(color: bool) -> None:
    text = terminal.render(hostile_run(), color=color)
    assert re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\n", "").isprintable()
    assert ("\x1b" in text) == color
    assert "\x1b[31mred" not in text
    assert "[bold]" in text.replace("\n", "")


def test_hostile_text_is_no_html_link_or_mention_in_markdown() -> None:
    report = replace(hostile_run(), headline="@team ![x](https://evil.example) <b>" + HOSTILE)
    text = markdown.render(report)
    outside = re.sub(r"^ *(`{3,})sh\n.*?\n *\1$", "", text, flags=re.M | re.S)
    outside = re.sub(r"</?sub>", "", outside)
    assert not re.search(r"(?<!\\)[<>@]", outside)
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert "https://" not in outside
    assert text.replace("\n", "").replace("\u200b", "").isprintable()


def test_json_is_the_object_itself() -> None:
    document = json.loads(json_text.render(gpu_run()))
    assert next(iter(document)) == "schema_version"
    assert document["summary"]["ttft_ms"] == {"p50": 612.0, "p95": 2310.0, "p99": 4800.0}
    assert document == json.loads(json.dumps(gpu_run().as_dict()))


def test_json_refuses_numbers_that_json_cannot_hold() -> None:
    report = gpu_run()
    broken = replace(report, summary=replace(report.summary, duration_s=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        json_text.render(broken)


def test_json_of_hostile_text_can_be_written_and_read_back() -> None:
    text = json_text.render(hostile_run())
    assert json.loads(text.encode())["deployment"]["kv_dtype"] == "\ud800"


@pytest.mark.parametrize(
    ("engine", "settings", "line"),
    [
        (
            "vllm",
            {"--mm-processor-kwargs": {"max_pixels": 1}},
            "vllm serve … --mm-processor-kwargs '{\"max_pixels\": 1}'",
        ),
        (
            "sglang",
            {"--mm-enable-dp-encoder": True},
            "python -m sglang.launch_server … --mm-enable-dp-encoder",
        ),
        (
            "sglang",
            {"SGLANG_IMAGE_MAX_PIXELS": 9},
            "SGLANG_IMAGE_MAX_PIXELS=9 python -m sglang.launch_server …",
        ),
        ("vllm", {"--enforce-eager": False}, "vllm serve … --no-enforce-eager"),
        ("transformers", {"max_pixels": 9}, "max_pixels=9"),
        ("vllm", {"--x; rm -rf ~": "$(id)"}, "vllm serve … '--x; rm -rf ~' '$(id)'"),
    ],
)
def test_settings_become_a_line_to_paste(engine: str, settings: dict[str, object], line: str) -> None:
    assert command(Advice("do", engine, None, settings, None)) == line


def test_a_gain_is_an_interval_with_its_basis() -> None:
    assert saving_line(Saving("ttft_ms", "ms", 4.0, 32.0, "bound", "")) == "TTFT −4.00 ms to −32.0 ms (bound)"
    assert (
        saving_line(Saving("throughput_ratio", "ratio", 0.1, 0.4, "published", ""))
        == "throughput +10 % to +40 % (published)"
    )
    assert saving_line(Saving("kv_bytes", "bytes", None, 1024.0, "bound", "")) == "KV at most −1 KiB (bound)"
    assert saving_line(None) == "Gain not estimated."


def test_an_unknown_part_of_the_budget_is_a_dash_and_not_a_bar() -> None:
    report = gpu_run()
    rows = [BudgetRow("queue", None, None, None), BudgetRow("prefill", 1.0, 10.0, 20.0)]
    text = terminal.render(replace(report, ttft_budget=replace(report.ttft_budget, tail_phases=rows)))
    line = next(line for line in text.split("Where TTFT goes")[1].splitlines() if line.startswith("  queue"))
    assert "█" not in line
    assert "–" in line


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_be_rendered_by_name(name: str) -> None:
    assert render(name, empty_run()).strip()
