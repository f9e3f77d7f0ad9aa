"""What two findings say that their advice saves, against reality: a pixel limit (MM001) and a larger batch (KV004).

``python tests/bench/bench_savings.py [--only pixels|batch] [--images N] [--rounds N] [--out DIR] [--json]``: a tiny
random-weight vision-language model on this CPU, recorded and analyzed as a user does; the advice is applied to a second
server, and both take turns under the same requests, so that what else the machine does hits both. Prints what was
predicted from the first server's traces alone, what was measured, and how one lies to the other; exit code 1 where they
have no value in common, or a rule did not fire. The batch needs the vLLM of `make test-engines`, and is left out where
there is none. Some fifteen minutes on two idle cores.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import savings_batch
import savings_pixels
from savings_prediction import Prediction, Spread, Traces, spread

PIXELS, BATCH = "MM001", "KV004"
PHASES: Final = ("preprocess_ms", "encode_ms", "prefill_ms")


@dataclass(frozen=True)
class Check:
    """One saving: predicted and measured, in the same unit."""

    title: str
    unit: str
    predicted: Prediction | None
    measured: Spread
    notes: list[str]

    def verdict(self) -> str:
        """Tell in a word whether the measured saving lies in the predicted interval."""
        if self.predicted is None:
            return "the rule did not fire: nothing to compare"
        return self.measured.lies(self.predicted.low, self.predicted.high)

    def holds(self) -> bool:
        """Tell whether the rule fired and what was measured does not contradict it."""
        return self.predicted is not None and self.measured.meets(self.predicted.low, self.predicted.high)

    def lines(self) -> list[str]:
        """Return what is printed."""
        shown = [self.title]
        if self.predicted:
            found = self.predicted
            within = ""
            if found.interval:
                within = f", 90 % interval {found.interval[0]:.4g} to {found.interval[1]:.4g}"
            shown.append(
                f"  predicted by {found.rule}: {found.low:.4g} to {found.high:.4g} {self.unit}"
                f" ({found.basis}{within})"
            )
        measured = self.measured
        shown.append(
            f"  measured: {measured.mean:.4g} {self.unit} (90 %: {measured.low:.4g} to {measured.high:.4g},"
            f" {measured.count} pairs): {self.verdict()}"
        )
        return shown + [f"  {note}" for note in self.notes]


def check_pixels(folder: Path, images: int, rng: random.Random) -> Check:
    """Compare the pixel limit's saving of TTFT."""
    run = savings_pixels.measure(folder, images, rng)
    ttft_ms = statistics.fmean(run.without.times_ms("ttft_ms"))
    saved = spread(run.saved_ms())
    predicted = run.without.predicted(PIXELS)
    notes = [f"that is {saved.mean / ttft_ms:.0%} of a mean TTFT of {ttft_ms:.4g} ms"]
    if predicted:
        notes[0] += f"; predicted {predicted.low / ttft_ms:.0%} to {predicted.high / ttft_ms:.0%}"
    notes.append(f"CPU time of the server, which others' load stretches less: {run.cpu_saved():.0%} less")
    notes += [
        f"{name}: {statistics.fmean(run.without.times_ms(name)):.4g} ms, then"
        f" {statistics.fmean(run.limited.times_ms(name)):.4g} ms"
        for name in PHASES
    ]
    mfu = run.without.facts["encode_mfu"]
    notes.append(f"encoder before: {mfu:.2f} of the compute peak that was measured when its server started")
    title = f"MM001, at most 4096 tokens an image: Transformers, {images} images of 4,608 to 6,400"
    return Check(title, "ms of TTFT", predicted, saved, notes)


def check_batch(folder: Path, rounds: int, rng: random.Random) -> Check:
    """Compare the larger batch's gain in throughput."""
    run = savings_batch.measure(folder, rounds, rng)
    gain = spread(run.log_gains(), lambda logs: math.exp(statistics.fmean(logs)))
    notes = [
        f"tokens/s: {statistics.fmean(run.few):.0f}, then {statistics.fmean(run.many):.0f}",
        _scheduler("before", run.few_traces),
        _scheduler("after", run.many_traces),
    ]
    title = (
        f"KV004, --max-num-seqs {savings_batch.ADVISED_REQUESTS} instead of {savings_batch.FEW_REQUESTS}:"
        f" vLLM, {savings_batch.CLIENTS} clients"
    )
    return Check(title, "x throughput", run.few_traces.predicted(BATCH), gain, notes)


def _scheduler(when: str, traces: Traces) -> str:
    facts = traces.facts
    return (
        f"{when}: {facts['batch_mean']:.2f} requests in a decode step of {facts['decode_step_ms_p50']:.2f} ms,"
        f" {facts['waiting_mean']:.2f} waiting, KV used to {facts['kv_usage_p95']:.2%}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print them, as text or with --json as one object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("pixels", "batch"))
    parser.add_argument("--images", type=int, default=36, help="MM001 asks for 30 at least")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of requests to each vLLM")
    parser.add_argument("--out", type=Path, help="a new folder that keeps traces and tables")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    checks: list[Check] = []
    with ExitStack() as held:
        folder = options.out or Path(held.enter_context(tempfile.TemporaryDirectory()))
        if options.only != "batch":
            checks.append(check_pixels(folder / "pixels", options.images, rng))
        if options.only != "pixels":
            if savings_batch.installed():
                checks.append(check_batch(folder / "batch", options.rounds, rng))
            else:
                print(
                    "no vLLM here (`make test-engines` installs it): the batch is left out", file=sys.stderr
                )
    if options.json:
        print(json.dumps({check.title: _shown(check) for check in checks}, indent=1))
    else:
        print("\n".join(line for check in checks for line in check.lines()))
    return 0 if all(check.holds() for check in checks) else 1


def _shown(check: Check) -> dict[str, Any]:
    return asdict(check) | {"verdict": check.verdict()}


if __name__ == "__main__":
    sys.exit(main())
