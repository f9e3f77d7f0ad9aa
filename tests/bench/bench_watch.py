"""How often `vtprof watch` fires without a reason, how soon it finds a slower engine, and which pace it keeps up with.

``python tests/bench/bench_watch.py [--first-seed N] [--streams N] [--only LABEL...] [--markdown]``: BASE is a simulated run
of 20,000 requests (``tests/regress_days``); streams of 22,000 follow, 120 of them without a slower engine, though
with other users or more load from some request on, and 80 whose engine becomes slower at a known request. Another
first seed has other streams. Exit code 1: a bar is missed. Some ten minutes on two idle cores.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import bench_setting  # noqa: F401
import numpy as np
from bench_table import Row, lines
from watch_pace import REQUESTS_PER_S, measure
from watch_streams import COUNTS, SLOWER, Heard, listen, streams

FALSE_ALARMS = (1, 118)
"""At most so many in so many streams without a slower engine."""
FOUND = {"encode": 0.91, "prefill": 0.84}
"""What a reference found, to be reached; its median delay in encode was 902 requests."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch the streams, print what was heard; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first-seed", type=int, default=1, help="another one has other streams")
    parser.add_argument(
        "--streams", type=int, default=sum(COUNTS.values()), help="so many, of each label its share"
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(COUNTS), help="streams of these labels, nothing else"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="the tables of the documentation")
    options = parser.parse_args(arguments)
    share = options.streams / sum(COUNTS.values())
    chosen = [
        each for each in streams(options.first_seed, share) if not options.only or each.label in options.only
    ]
    heard: list[Heard] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for each in pool.map(listen, chosen):
            heard.append(each)
            print(
                "x" if each.false else "." if each.delay or not each.slower else "o", end="", file=sys.stderr
            )
            sys.stderr.flush()
    print(file=sys.stderr)
    met = _show(heard, markdown=options.markdown)
    if not options.only:
        paces = list(measure(options.first_seed))
        rows = [(f"requests/s on one core, bar {REQUESTS_PER_S:,}", "reached")]
        rows += [(pace.what, f"{pace.requests_per_s:,.0f}") for pace in paces]
        print("", *lines(rows, markdown=options.markdown), sep="\n")
        met &= all(pace.holds() for pace in paces)
    return 0 if met else 1


def _show(heard: Sequence[Heard], *, markdown: bool) -> bool:
    rows: list[Row] = [
        ("stream", "number", "false alarms", "found", "bar", "median delay", "90th", "other phases too")
    ]
    met = True
    for label in COUNTS:
        group = [each for each in heard if each.label == label]
        if not group:
            continue
        false = sum(each.false for each in group)
        if label not in SLOWER:
            rows.append((label, str(len(group)), str(false), *("–",) * 5))
            continue
        delays = [each.delay for each in group if each.delay is not None]
        found = len(delays) / len(group)
        met &= found >= FOUND.get(label, 0.0)
        rows.append(
            (
                f"{label} +{SLOWER[label]:.0%}",
                str(len(group)),
                str(false),
                f"{found:.2f}",
                f"{FOUND[label]:.2f}" if label in FOUND else "–",
                f"{median(delays):.0f} requests" if delays else "–",
                f"{np.quantile(delays, 0.9):.0f}" if delays else "–",
                f"{np.mean([each.other_phases for each in group]):.2f}",
            )
        )
    print(*lines(rows, markdown=markdown), sep="\n")
    quiet = [each for each in heard if not each.slower]
    if quiet:
        allowed = max(1, len(quiet) * FALSE_ALARMS[0] // FALSE_ALARMS[1])
        false = sum(each.false for each in quiet)
        met &= false <= allowed
        print(f"\nfalse alarms: {false} in {len(quiet)} streams without a slower engine, at most {allowed}")
    for each in heard:
        if each.false or (each.slower and each.delay is None):
            told = ", ".join(
                f"{phase} {kind} {effect:+.3f} at {seen} (since {began})"
                for phase, kind, seen, began, effect in each.alarms
            )
            print(
                f"seed {each.seed} {each.label} {each.number}, change at {each.first}: {told or 'no alarm'}"
            )
    return met


if __name__ == "__main__":
    sys.exit(main())
