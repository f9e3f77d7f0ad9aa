"""``vtprof watch``: follows a running service's traces and alerts when it gets slower than BASE at like work and load."""

import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtprof_analyzer.cli import given
from vtprof_analyzer.interrupts import Interrupted, leaving

if TYPE_CHECKING:
    from vtprof_analyzer.watch import assembly
    from vtprof_analyzer.watch.figures import Figures
    from vtprof_analyzer.watch.loop import Watch
    from vtprof_analyzer.watch.sinks import JsonLines


class FailOn(StrEnum):
    """What ``--once`` fails on."""

    ALARM = "alarm"
    INSUFFICIENT = "insufficient"


class Format(StrEnum):
    """What is printed."""

    JSON = "json"


def _token_file(variable: str) -> Any:
    """Return the option for a bearer token's file; ``variable`` of the environment may hold the token instead."""
    return typer.Option(
        parser=given.path,
        metavar="FILE",
        help=f"File with the bearer token for it; or {variable} in the environment.",
    )


def command(
    path: Annotated[
        Path,
        typer.Argument(
            parser=given.path,
            metavar="PATH",
            help="Folder that an agent or Collector writes traces to, a Parquet lake, or a request table that grows.",
        ),
    ],
    base: Annotated[
        list[str],
        typer.Option(
            metavar="BASE",
            help="What is normal: a baseline's name or file, a folder of traces, or a request table. Several are runs of "
            "the same deployment.",
        ),
    ],
    once: Annotated[
        bool,
        typer.Option("--once", help="Judge what is there, print one JSON document, and end."),
    ] = False,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            help="With --once: exit 1 when there is an alarm or another alert; insufficient: also when most requests had "
            "nothing like them in the base, or no block of them was full."
        ),
    ] = None,
    _format: Annotated[Format, typer.Option("--format", help="One JSON line an alert.")] = Format.JSON,
    state: Annotated[
        Path | None,
        typer.Option(
            parser=given.path,
            metavar="FILE",
            help="Keeps what is known over restarts; default: in .vtprof/watch/ of the current folder; with --once: none.",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew, whatever the state says.")] = False,
    poll: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Time between looks.")
    ] = 5.0,
    average_run_length: Annotated[
        float,
        typer.Option(
            min=100,
            max=1e12,
            metavar="BLOCKS",
            help="Blocks of about 60 requests until a false alarm, on average: larger is calmer and slower.",
        ),
    ] = 2e5,
    slo_ttft_ms: Annotated[
        float | None,
        typer.Option(
            parser=given.milliseconds, metavar="MS", help="Alert on the burn rate of this TTFT objective."
        ),
    ] = None,
    slo_tpot_ms: Annotated[
        float | None,
        typer.Option(parser=given.milliseconds, metavar="MS", help="The same for time per output token."),
    ] = None,
    slo_target: Annotated[
        float,
        typer.Option(
            min=0.5, max=0.99999, metavar="SHARE", help="Share of requests that must meet it, over 30 days."
        ),
    ] = 0.99,
    kv_horizon_minutes: Annotated[
        float,
        typer.Option(
            min=1,
            max=1440,
            metavar="MINUTES",
            help="Alert when the KV cache may be full so soon, by its trend.",
        ),
    ] = 30.0,
    no_data_minutes: Annotated[
        float | None,
        typer.Option(min=1, max=1e6, metavar="MINUTES", help="Alert when no request arrived for so long."),
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Label `service` of all alerts; default: the last part of PATH."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Another label of all alerts; may be repeated."),
    ] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Post each alert and its end there as JSON; may be repeated. Or VTPROF_WEBHOOK_URL in the environment.",
        ),
    ] = None,
    webhook_token_file: Annotated[Path | None, _token_file("VTPROF_WEBHOOK_TOKEN")] = None,
    alertmanager: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="Prometheus Alertmanager, as http://alertmanager:9093; may be repeated."
        ),
    ] = None,
    alertmanager_token_file: Annotated[Path | None, _token_file("VTPROF_ALERTMANAGER_TOKEN")] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where Alertmanager's notifications point to: a dashboard, a runbook."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve Prometheus metrics there; HOST is this machine by default."
        ),
    ] = None,
    insecure_listen: Annotated[
        bool,
        typer.Option("--insecure-listen", help="Serve them beyond this machine, unencrypted and to anyone."),
    ] = False,
) -> None:
    """Alert when a running service gets slower than BASE at like work and load: JSON lines, webhook, Alertmanager.

    SIGTERM and Ctrl-C end it; the next start goes on from there.
    """
    from vtprof_analyzer.cli.progress import progress_bar, size_of
    from vtprof_analyzer.watch import assembly
    from vtprof_analyzer.watch.judging import Limits
    from vtprof_analyzer.watch.sinks import JsonLines
    from vtprof_schemas.errors import ConfigError

    if sys.stdout is None:
        raise ConfigError(
            "standard output is closed; alerts are printed there: open it, or send it to /dev/null"
        )
    if fail_on is not None and not once:
        raise ConfigError("--fail-on: only with --once; without it the watch goes on")
    if metrics is not None and once:
        raise ConfigError("--metrics: not with --once, which ends before anybody could read them")
    for flag, value in (
        ("--poll", poll),
        ("--average-run-length", average_run_length),
        ("--slo-target", slo_target),
        ("--kv-horizon-minutes", kv_horizon_minutes),
        ("--no-data-minutes", no_data_minutes or 0.0),
    ):
        if not math.isfinite(value):
            raise ConfigError(f"{flag}: {value} is no number; give one")
    options = assembly.Options(
        path=path,
        once=once,
        state=state,
        fresh=fresh,
        poll_s=poll,
        average_run_length_blocks=average_run_length,
        limits=Limits(
            slo_ttft_ms=slo_ttft_ms,
            slo_tpot_ms=slo_tpot_ms,
            slo_target_ratio=slo_target,
            kv_horizon_s=kv_horizon_minutes * 60,
            no_data_s=None if no_data_minutes is None else no_data_minutes * 60,
        ),
        service=service,
        labels=label or [],
        webhooks=webhook or [],
        webhook_token_file=webhook_token_file,
        alertmanagers=alertmanager or [],
        alertmanager_token_file=alertmanager_token_file,
        link=link,
    )
    paths = assembly.base_paths(base)
    nothing = "nothing was judged, and a state is as it was before"
    with leaving(nothing), progress_bar("reading the base", lambda: size_of(paths)) as progress:
        runs = assembly.read_base(paths, progress)
    lines = JsonLines(sys.stdout)
    with _metrics(metrics, insecure_listen) as publish:
        with leaving(nothing):
            watch = assembly.assemble(
                options,
                runs,
                tell=(lambda _: None) if once else lines.tell,
                publish=publish,
                say=assembly.notes_to_stderr,
                now=time.time,
            )
        if once:
            _once(watch, lines, [str(one) for one in base], options, fail_on)
            return
        with _signals() as ended:
            watch.run(ended.wait, poll)
    if ended.by == signal.SIGINT:
        raise Interrupted(
            f"what is known is kept in {watch.state_file.path}: the next start goes on from there"
            if watch.state_file and watch.saved
            else "the state could not be written: the next start goes on from the one before"
        )


def _once(
    watch: "Watch", lines: "JsonLines", base: list[str], options: "assembly.Options", fail_on: FailOn | None
) -> None:
    from vtprof_analyzer.watch.loop import once_document
    from vtprof_schemas.errors import NoData
    from vtprof_schemas.printable import one_line

    part = f"; {options.state} may tell of a part: --fresh judges all anew" if options.state else ""
    with leaving(f"no document was printed, for not all was judged{part}"):
        told = watch.once()
    if not watch.judge.newest_ns:
        # No alarm would be a verdict; of what a state told before there was one.
        raise NoData(
            f"{one_line(str(options.path))}: no complete request to judge; check the path, or record first"
        )
    facts = {
        "path": str(options.path),
        "base": base,
        "average_run_length_blocks": options.average_run_length_blocks,
    }
    lines.tell(once_document(watch, told, facts))
    insufficient = fail_on is FailOn.INSUFFICIENT and watch.judge.insufficient
    if fail_on is not None and (insufficient or any(one.status == "firing" for one in told)):
        raise typer.Exit(1)


@contextmanager
def _metrics(address: str | None, insecure: bool) -> Iterator[Callable[["Figures"], None]]:
    """Serve metrics while it lasts, where they are asked for; yield what takes the figures."""
    if address is None:
        yield lambda _: None
        return
    from vtprof_analyzer.watch.metrics import WatchMetrics, serve

    metrics = WatchMetrics()
    url, stop = serve(metrics, address, insecure)
    typer.echo(f"vtprof: metrics at {url}", err=True)
    try:
        yield metrics.publish
    finally:
        stop()


class _Ended:
    """Waits, until a signal comes. A pipe wakes it: a lock could not be taken in a signal's handler."""

    def __init__(self) -> None:
        self.by = 0
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)

    def wait(self, seconds: float) -> bool:
        """Return whether the end has come, at the latest after so many seconds."""
        readable, _, _ = select.select([self._out], [], [], seconds)
        return bool(readable)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal; a second one is not waited for."""
        self.by = number
        os.write(self._in, b"x")
        signal.signal(number, signal.SIG_DFL)

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._out)
        os.close(self._in)


@contextmanager
def _signals() -> Iterator[_Ended]:
    ended = _Ended()
    before = {number: signal.signal(number, ended.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ended.close()
