"""Terminal, Markdown and JSON reports. Snapshots: refresh with ``python tests/analyzer/refresh_report_gold.py``."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import HOSTILE, SAMPLES, demo_run, empty_run, gpu_run, hostile_run, vllm_run
from rich.cells import cell_len

from vtprof_analyzer.report import html, json_text, kv_phrases, markdown, terminal
from vtprof_analyzer.report.advice_phrases import command, saving_line
from vtprof_analyzer.report.build_headline import build_headline
from vtprof_analyzer.report.formats import REPORT_FORMATS
from vtprof_analyzer.report.model import Advice, BudgetRow, Dominance, Report, Saving
from vtprof_analyzer.report.model_kv import KvFullest
from vtprof_analyzer.report.model_slo import SloRow

GOLD = Path(__file__).parents[1] / "gold"


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    text = terminal.render(SAMPLES[name](), width=width, full_report="some/where/index.html")
    assert max(cell_len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("name", ["gpu", "vllm", "details"])
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
        "KV of the requests",
        "What to do",
        "Can this be",
        "Full report",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        (
            {"pipeline_parallel": 2, "data_parallel": 4, "expert_parallel": 8},
            "TP 1, PP 2, DP 4, EP 8, vllm 0.33.0",
        ),
        ({"pipeline_parallel": 1, "data_parallel": 4, "expert_parallel": None}, "TP 1, DP 4, vllm 0.33.0"),
    ],
)
def test_the_heading_names_the_parallel_sizes_above_one(sizes: dict[str, int | None], shown: str) -> None:
    report = replace(gpu_run(), deployment=replace(gpu_run().deployment, **sizes))  # type: ignore[arg-type]
    heads = terminal.render(report, width=100), markdown.render(report), html.render(report)
    assert [shown in " ".join(head.split()) for head in heads] == [True] * 3


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
    assert "vtprof.step spans" in text
    # A roof would have nothing to judge in spans without steps.
    assert "name it with --device" not in text
    assert "or --model" not in text


@pytest.mark.parametrize("color", [True, False])
def test_hostile_text_cannot_steer_the_terminal(color: bool) -> None:
    text = terminal.render(SAMPLES["hostile_details"](), color=color)
    assert re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\n", "").isprintable()
    assert ("\x1b" in text) == color
    assert "\x1b[31mred" not in text
    assert "[bold]" in text.replace("\n", "")


def test_hostile_text_is_no_html_link_or_mention_in_markdown() -> None:
    report = replace(SAMPLES["hostile_details"](), headline="@team ![x](https://evil.example) <b>" + HOSTILE)
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
        saving_line(Saving("throughput_ratio", "ratio", 1.1, 1.4, "published", ""))
        == "throughput +10 % to +40 % (published)"
    )
    assert saving_line(Saving("kv_bytes", "bytes", None, 1024.0, "bound", "")) == "KV at most −1 KiB (bound)"
    assert saving_line(None) == "Gain not estimated."
    of_median = Saving("ttft_ms", "ms", 4.0, 32.0, "bound", "", 0.04, 0.32, relative_to="ttft_ms_p50")
    assert saving_line(of_median) == "TTFT −4.00 ms to −32.0 ms, −4 % to −32 % of the median (bound)"


def test_an_unknown_part_of_the_budget_is_a_dash_and_not_a_bar() -> None:
    report = gpu_run()
    rows = [BudgetRow("queue", None, None, None), BudgetRow("prefill", 1.0, 10.0, 20.0)]
    text = terminal.render(replace(report, ttft_budget=replace(report.ttft_budget, tail_phases=rows)))
    line = next(line for line in text.split("Where TTFT goes")[1].splitlines() if line.startswith("  queue"))
    assert "█" not in line
    assert "–" in line


def _section(text: str, title: str) -> str:
    return text.split(title)[1].split("\n\n")[0]


def test_a_full_bar_is_all_of_ttft_and_not_the_largest_phase() -> None:
    rows = [
        BudgetRow("queue", 0.5, 1.0, 1.0),
        BudgetRow("prefill", 0.25, 1.0, 1.0),
        BudgetRow("unexplained", 0.25, 1, 1),
    ]
    text = terminal.render(replace(gpu_run(), ttft_budget=replace(gpu_run().ttft_budget, tail_phases=rows)))
    lengths = [line.count("█") for line in _section(text, "Where TTFT goes").splitlines()[1:]]
    assert lengths == [12, 6, 6]  # of 24 cells


def test_a_column_that_nothing_recorded_is_left_out_and_one_with_a_value_is_not() -> None:
    for renderer in (terminal.render, markdown.render):
        assert "tensor" in renderer(gpu_run())
        assert "tensor" not in renderer(demo_run()).replace("tensor activity", "")
        assert "FLOP/B" in renderer(demo_run())


def test_modalities_that_no_request_had_are_left_out() -> None:
    assert "  audio" not in terminal.render(gpu_run())
    assert "  video " in terminal.render(gpu_run())
    assert "| audio" not in markdown.render(gpu_run())


def test_a_tiny_ratio_does_not_cut_the_confidence_off() -> None:
    run = gpu_run()
    tiny = [replace(row, floor_ratio=0.000123, confidence="medium") for row in run.phases]
    text = terminal.render(replace(run, phases=tiny), width=80)
    rows = [line for line in text.splitlines() if "< 0.01" in line]
    assert len(rows) == len(tiny)
    assert all(line.endswith("●●○") for line in rows)
    assert "0.00012" not in text


def test_a_long_path_never_touches_the_date() -> None:
    run = gpu_run()
    text = terminal.render(replace(run, source=replace(run.source, paths=["a/" * 100])), width=80)
    assert "…  2026-11-21 14:02" in text.splitlines()[0]


def test_what_wall_time_stands_for_is_said_once_and_only_where_it_does() -> None:
    assert " ".join(terminal.render(demo_run()).split()).count("wall time stands for device time") == 1
    assert "stands for device time" not in " ".join(terminal.render(gpu_run()).split())


def test_words_of_a_verdict_are_explained_where_they_occur() -> None:
    run = gpu_run()
    latency = [replace(row, bound="latency_bound") for row in run.phases]
    assert "far from both roofs" in " ".join(terminal.render(replace(run, phases=latency)).split())
    memory = [replace(row, bound="memory_bound") for row in run.phases]
    assert "far from both roofs" not in " ".join(terminal.render(replace(run, phases=memory)).split())


def test_rules_that_said_nothing_are_named_with_their_reason() -> None:
    text = " ".join(terminal.render(gpu_run(), width=100).split())
    assert (
        "DEC003 suppressed: the cache is far from full; ENC002 not applicable: for sglang, not vllm" in text
    )
    assert "CACHE001 not applicable: cached_tokens not recorded" in text
    assert "ENC001" not in text  # it passed
    many = " ".join(terminal.render(vllm_run()).split())
    assert "MM001, MM002 not applicable: one not recorded" in many
    assert "3 more in the JSON report" in many  # of nine reasons six are shown


def test_a_peak_that_is_a_mean_is_a_lower_bound_and_padding_is_said_to_be_left_out() -> None:
    text = " ".join(terminal.render(demo_run()).split())
    assert "peak at least 381 KiB" in text
    assert "without batch padding" in text
    assert "at least" not in " ".join(terminal.render(gpu_run()).split()).split("What to do")[0]


def test_markdown_has_ttft_by_visual_tokens() -> None:
    assert "| 1 to 256 | 1,210 | 180 ms | 420 ms |" in markdown.render(gpu_run())


def test_the_title_names_the_models_type_where_no_request_names_the_model() -> None:
    run = gpu_run()
    unnamed = replace(run, deployment=replace(run.deployment, model=None))
    assert "qwen2_5_vl on 1 × NVIDIA H200" in " ".join(terminal.render(unnamed).split())


def test_the_headline_rounds_as_the_table_does() -> None:
    # 66.6, 16.7 and 16.7 % have to print as 100 together: the two missing percents go to the largest remainders.
    rows = [
        BudgetRow("prefill", 0.666, 1, 1),
        BudgetRow("queue", 0.167, 1, 1),
        BudgetRow("unexplained", 0.167, 1, 1),
    ]
    budget = replace(gpu_run().ttft_budget, phases=rows)
    nothing = replace(gpu_run().summary, visual_tokens=0)
    text = build_headline(nothing, gpu_run().dominance, budget)
    assert text.endswith("The largest part of TTFT is prefill, 66 %.")


def test_the_headline_says_that_kv_is_held_over_time() -> None:
    assert "88 % of KV held over time" in build_headline(
        gpu_run().summary, gpu_run().dominance, gpu_run().ttft_budget
    )


def test_the_headline_claims_dominance_only_for_the_shares_that_dominate() -> None:
    run = gpu_run()
    low = {"share": 0.23, "threshold": 0.5, "dominant": False}
    some = replace(run.dominance, decode_bytes=Dominance(**low), ttft=Dominance(0.04, 0.5, False))
    text = build_headline(run.summary, some, run.ttft_budget)
    claimed, effect, rest = text.split(". ")
    assert (
        claimed
        == "Visual tokens dominate: 91 % of prompt tokens, 88 % of KV held over time, 79 % of prefill FLOPs"
    )
    assert effect.startswith("Without them TTFT p95")
    assert rest == "Not dominant: 23 % of bytes read in decode, 4 % of TTFT."
    measures = ("prompt_tokens", "kv_token_seconds", "prefill_flops", "decode_bytes")
    none = replace(run.dominance, ttft=None, **dict.fromkeys(measures, Dominance(**low)))
    text = build_headline(run.summary, none, run.ttft_budget)
    assert text.startswith("Visual tokens do not dominate: 23 % of prompt tokens, 23 % of KV held over time,")
    assert "Not dominant" not in text
    assert "ot dominant" not in build_headline(run.summary, run.dominance, run.ttft_budget)


@pytest.mark.parametrize("render", [terminal.render, markdown.render, html.render, json_text.render])
def test_the_cost_to_text_requests_says_what_it_does_not_count(render: Callable[[Report], str]) -> None:
    told = SAMPLES["details"]()
    assert "growth of the queue" in " ".join(render(told).split())
    without = [replace(row, excludes=None) for row in told.interference]
    assert "growth of the queue" not in " ".join(render(replace(told, interference=without)).split())


_GROUPS = [
    SloRow("all", None, "ttft", 90.0, 0.5, 0.5, 1.0, 0.02, None),
    SloRow("model", "a", "ttft", 40.0, 0.5, 0.5, 0.5, 0.03, None),
    SloRow("model", "b", "ttft", 50.0, 0.5, 0.5, 0.5, 0.01, None),
]
_NODES = [replace(row, scope="node") for row in _GROUPS[1:]]


@pytest.mark.parametrize("render", [terminal.render, markdown.render, html.render])
def test_objectives_say_what_a_price_divides_and_who_missed_them_without_a_whole_answer(
    render: Callable[[Report], str],
) -> None:
    def said(rows: list[SloRow], **counts: int) -> str:
        run = gpu_run()
        text = render(replace(run, slo_rows=rows, summary=replace(run.summary, **counts)))
        return " ".join(text.replace("\u00a0", " ").split())

    whole = "Price: of all, the cost of all nodes / all good requests"
    node = "; of a node, its own cost / the good requests that it took in"
    model = "; of other groups, the cost of all nodes × their share of GPU time / their good requests"
    missed = "counted as missing each, however quick, as nobody got a whole answer: 12 aborted, 2 failed"
    text = said([*_GROUPS, *_NODES])
    assert whole + node + model in text
    assert missed in text
    assert whole + model in said(_GROUPS)
    assert whole + node in said([_GROUPS[0], *_NODES]) and model not in said([_GROUPS[0], *_NODES])
    assert "counted as missing" not in said(_GROUPS, requests_aborted=0, requests_error=0)
    free = [replace(row, usd_per_ok_request=None) for row in _GROUPS]
    assert "Price: of all" not in said(free)


def test_models_of_one_family_are_told_apart_in_80_columns_and_owners_where_names_are_alike() -> None:
    def models(*named: str) -> str:
        rows = [SloRow("model", name, "ttft", 40.0, 0.5, 0.5, 0.5, 0.000347, 1.0) for name in named]
        rows += [replace(row, objective=other) for row in rows for other in ("tpot", "completed")]
        return terminal.render(replace(gpu_run(), slo_rows=rows))

    text = models("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct")
    assert "model Qwen2.5-VL-7" in text and "model Qwen2.5-VL-3" in text
    assert "model a/m " in models("a/m", "b/m")


def test_nothing_is_said_of_what_visual_tokens_do_where_there_are_none() -> None:
    told = SAMPLES["details"]()
    none = replace(told, summary=replace(told.summary, visual_tokens=0))
    for render in (terminal.render, markdown.render):
        assert "of the context window" in render(told)
        assert "of the context window" not in render(none)


def test_the_verdict_of_mixed_steps_is_said_once_and_an_effect_of_nothing_has_no_sign() -> None:
    told = SAMPLES["details"]()
    assert told.step_verdicts is not None and told.step_verdicts.mixed is not None
    mixed = replace(
        told.step_verdicts.mixed, explanation="mixed is hybrid: 201 FLOP/B against a ridge of 184"
    )
    nothing = [replace(row, effect_ms=1e-7, low_ms=-2e-6, high_ms=3e-6) for row in told.interference[:1]]
    run = replace(told, step_verdicts=replace(told.step_verdicts, mixed=mixed), interference=nothing)
    text = " ".join(terminal.render(run).split())
    assert "of steps: hybrid ●●○; 201 FLOP/B against a ridge of 184" in text
    assert "395 text-only requests: about 0 ns (-2.00 ns to +3.00 ns, 95 %)" in text


_NUMBER = re.compile(
    r"[$+−-]?\d[\d,.]*(e[+-]\d+)?(/s| .*)?|[<>] \d.*|–|not recorded|not determined|about 0 ns"
)


@pytest.mark.parametrize("name", SAMPLES)
def test_words_stand_on_the_left_and_numbers_on_the_right_in_markdown(name: str) -> None:
    for table in re.findall(r"^((?:\|.*\n?)+)", markdown.render(SAMPLES[name]()), re.M):
        lines = [line[2:-2].split(" | ") for line in table.splitlines()]
        for head, side, *cells in zip(*lines, strict=True):
            # Names may be made of digits, and a label may begin with a share.
            numbers = head not in ("request", "label") and all(_NUMBER.fullmatch(cell) for cell in cells)
            assert side == ("---:" if numbers else "---"), (head, cells)


@pytest.mark.parametrize("name", REPORT_FORMATS)
def test_every_format_can_be_rendered_by_name(name: str) -> None:
    assert REPORT_FORMATS[name].render(empty_run()).strip()


def test_kv_says_which_process_was_fullest_what_differs_and_what_was_reused() -> None:
    run = gpu_run()
    kv = replace(
        run.kv, bytes_per_token=None, bytes_per_token_min=36_864, bytes_per_token_max=57_344, peak_kind="mean",
        fullest=KvFullest("beta-4001-1", 99, 100.0, 0.99),
    )  # fmt: skip
    told = replace(run, kv=kv, summary=replace(run.summary, cached_tokens=206_944))
    assert kv_phrases.kv_peak(told).endswith("42 preemptions; fullest process beta-4001-1 at least 99 %")
    for rendered in (terminal.render(told), html.render(told)):
        text = " ".join(rendered.split())
        assert "bytes per token differ by process (36,864 to 57,344 B)" in text
        assert "206,944 tokens of it came from the prefix cache, not written again" in text
        assert "KV written" not in text
    assert kv_phrases.kv_reused(replace(run, summary=replace(run.summary, cached_tokens=None))) == ""
    assert kv_phrases.kv_per_token(replace(run, kv=replace(kv, bytes_per_token_max=None))) == "not recorded"
    assert "fullest" not in kv_phrases.kv_peak(run)


@pytest.mark.parametrize(("share", "told"), [(0.01, True), (0.009, False)])
def test_what_the_queue_waited_for_is_told_where_it_matters(share: float, told: bool) -> None:
    report = SAMPLES["details"]()
    phases = [replace(row, share=share) if row.phase == "queue" else row for row in report.ttft_budget.phases]
    report = replace(report, ttft_budget=replace(report.ttft_budget, phases=phases))
    assert ("What the queue waited for" in terminal.render(report)) == told
