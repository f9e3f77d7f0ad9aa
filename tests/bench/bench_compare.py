"""How often `vtprof compare` is right on labelled pairs of simulated days, how well it knows its limits, and what it takes.

``python tests/bench/bench_compare.py [--first-seed N] [--cases N] [--only LABEL...] [--parts cases power speed]``:
446 pairs whose truth is known (``tests/regress_days``), judged by `compare` and by the usual rules on TTFT; then the
effect that is found in 80 % of pairs beside the minimum detectable effect that was printed; then wall time and memory
of the command. Another first seed has other cases: the bar holds on seeds that nobody looked at. Exit code 1: a bar
is missed. Some fifteen minutes on two idle cores.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import bench_setting  # noqa: F401
import numpy as np
from bench_table import Row, lines
from compare_power import MULTIPLES, REQUESTS_A_RUN, Power
from compare_power import measure as measure_power
from compare_rules import RULES
from compare_scores import BARS, Judged, false_alarms, is_right, judge, share
from compare_speed import Speed
from compare_speed import measure as measure_speed
from regress_days.cases import COUNTS, cases

PARTS = ("cases", "power", "speed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for and print them; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first-seed", type=int, default=1, help="another one has other cases")
    parser.add_argument(
        "--cases", type=int, default=sum(COUNTS.values()), help="so many, of each label its share"
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(COUNTS), help="cases of these labels, nothing else"
    )
    parser.add_argument(
        "--pairs", type=int, default=40, help="for the minimum detectable effect, each number of runs"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="the tables of the documentation")
    options = parser.parse_args(arguments)
    met: list[bool] = []

    def show(rows: Sequence[Row]) -> None:
        print(*lines(rows, markdown=options.markdown), "", sep="\n", flush=True)

    with ProcessPoolExecutor(options.processes) as pool:
        if "cases" in options.parts:
            judged = list(_judge(pool, options.first_seed, options.cases, options.only))
            bars = list(_bars(judged))
            show(_by_label(judged))
            show(_beside_rules(judged))
            show([BAR_HEAD, *(row for row, _ in bars)])
            print(*_wrong(judged), "", sep="\n")
            met += [holds for _, holds in bars]
        if "power" in options.parts and not options.only:
            powers = measure_power(pool, options.pairs, options.first_seed, lambda: _progress("."))
            _progress("\n")
            show(_powers(powers))
            met += [power.holds() for power in powers]
    if "speed" in options.parts and not options.only:
        with tempfile.TemporaryDirectory(prefix="vtprof-bench-") as folder:
            speeds = list(measure_speed(Path(folder), options.first_seed))
        show(_speeds(speeds))
        met += [speed.holds() for speed in speeds]
    return 0 if all(met) else 1


def _judge(pool: Executor, first_seed: int, count: int, only: Sequence[str] | None) -> Iterator[Judged]:
    chosen = [
        case for case in cases(first_seed, count / sum(COUNTS.values())) if not only or case.label in only
    ]
    for judged in pool.map(judge, chosen, chunksize=2):
        _progress("." if is_right(judged) else "x")
        yield judged
    _progress("\n")


def _progress(sign: str) -> None:
    print(sign, end="", file=sys.stderr, flush=True)


def _by_label(judged: Sequence[Judged]) -> list[Row]:
    rows: list[Row] = [
        (
            "case",
            "pairs",
            "regression",
            "cause first",
            "cause named",
            "improvement",
            "workload",
            "load",
            "masked",
        )
    ]
    for label, group in _groups(judged):
        rows.append(
            (
                label,
                str(len(group)),
                _share(group, lambda each: each.flagged),
                _share(group, lambda each: each.first) if group[0].phase else "–",
                _share(group, lambda each: each.named) if group[0].phase else "–",
                _share(group, lambda each: each.verdict == "improvement"),
                _share(group, lambda each: each.workload_shift),
                _share(group, lambda each: each.load_increase),
                _share(group, lambda each: each.masked),
            )
        )
    return rows


SPLIT = ("no change", "mix only", "tail", "kv", "cache")
"""Labels whose kinds have rows of their own."""


def _groups(judged: Sequence[Judged]) -> Iterator[tuple[str, list[Judged]]]:
    for label in COUNTS:
        group = [each for each in judged if each.label == label]
        if group:
            yield label, group
        if label in SPLIT:
            for kind in sorted({each.kind for each in group}):
                yield f"· {kind}", [each for each in group if each.kind == kind]


def _share(group: Sequence[Judged], tells: Callable[[Judged], bool]) -> str:
    return f"{share(group, tells):.2f}"


BESIDE = {
    "nothing changed": ("no change", ()),
    "only bigger images": ("mix only", ("bigger images",)),
    "only more load": ("load only", ()),
    "encoder 8 % slower": ("encode slower", ()),
    "prefill 5 % slower": ("prefill slower", ()),
    "encoder 12 % slower, hidden by smaller images": ("masked", ()),
}


def _beside_rules(judged: Sequence[Judged]) -> list[Row]:
    rows: list[Row] = [("share called a regression (pairs)", *RULES, "vtprof compare")]
    for title, (label, kinds) in BESIDE.items():
        group = [each for each in judged if each.label == label and (not kinds or each.kind in kinds)]
        if group:
            rules = np.mean([each.rules for each in group], axis=0)
            rows.append(
                (
                    f"{title} ({len(group)})",
                    *(f"{one:.2f}" for one in rules),
                    _share(group, lambda each: each.flagged),
                )
            )
    return rows


BAR_HEAD: Row = ("bar", "pairs", "found", "bar", "")


def _bars(judged: Sequence[Judged]) -> Iterator[tuple[Row, bool]]:
    alarms, allowed, quiet = false_alarms(judged)
    if quiet:
        title = "no change, mix only, load only: called a regression"
        yield (title, str(quiet), str(alarms), f"<= {allowed}", _met(alarms <= allowed)), alarms <= allowed
    for bar in BARS:
        group = [each for each in judged if bar.chosen(each)]
        if group:
            reached = share(group, bar.tells)
            holds = reached >= bar.least
            yield (bar.title, str(len(group)), f"{reached:.3f}", f">= {bar.least}", _met(holds)), holds


def _met(holds: bool) -> str:
    return "met" if holds else "MISSED"


def _wrong(judged: Sequence[Judged]) -> Iterator[str]:
    """Name the cases that were not judged as they should, with what was said and the seed."""
    for each in judged:
        if not is_right(each):
            causes = ", ".join(f"{phase} {kind} {effect:+.3f}" for phase, kind, effect in each.causes)
            yield f"seed {each.seed} {each.case}: {each.verdict} {causes or 'no cause'}"
    walls = sorted(each.wall_s for each in judged)
    if walls:
        yield f"compare took {walls[len(walls) // 2]:.2f} s at the median, {walls[-1]:.2f} s at most"


def _powers(powers: Iterable[Power]) -> list[Row]:
    found = (f"found at {multiple:g} x" for multiple in MULTIPLES)
    rows: list[Row] = [
        ("phase", "runs a side", "requests a side", "pairs", "printed", *found, "80 % found at", "")
    ]
    for each in powers:
        rows.append(
            (
                each.phase,
                str(each.runs),
                f"{each.runs * REQUESTS_A_RUN[each.runs]:,}",
                str(each.pairs),
                f"{each.mde:.2%}",
                *(f"{one:.2f}" for one in each.shares or ("–",) * len(MULTIPLES) if isinstance(one, float)),
                f"{each.multiple:.2f} x",
                _met(each.holds()),
            )
        )
    return rows


def _speeds(speeds: Iterable[Speed]) -> list[Row]:
    rows: list[Row] = [("vtprof compare", "wall s", "bar s", "peak MiB", "bar MiB", "")]
    for each in speeds:
        bar_mib = f"{each.bar_mib:.0f}" if each.bar_mib < float("inf") else "–"
        rows.append(
            (
                each.what,
                f"{each.wall_s:.2f}",
                f"{each.bar_s:g}",
                f"{each.peak_mib:.0f}",
                bar_mib,
                _met(each.holds()),
            )
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
