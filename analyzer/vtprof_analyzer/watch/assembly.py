"""From what the user asked for to a watch that can run: base, follower, judge, outlets and state, each checked."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.watch import alertmanager
from vtprof_analyzer.watch.judging import Detector, Judge, Limits
from vtprof_analyzer.watch.loop import POLL_S, Follower, Outlets, Watch
from vtprof_analyzer.watch.sinks import Delivery
from vtprof_analyzer.watch.state_file import StateFile, default_path
from vtprof_analyzer.watch.webhook import Endpoint, Token
from vtprof_analyzer.watch.wording import Labels
from vtprof_schemas.errors import ConfigError, NoData
from vtprof_schemas.printable import one_line

LEAST_BASE_REQUESTS: Final = 500
AVERAGE_RUN_LENGTH_BLOCKS: Final = 2e5
WEBHOOK_URL: Final = "VTPROF_WEBHOOK_URL"
WEBHOOK_TOKEN: Final = "VTPROF_WEBHOOK_TOKEN"
ALERTMANAGER_TOKEN: Final = "VTPROF_ALERTMANAGER_TOKEN"
_MOST_ENDPOINTS: Final = 10
_WILDCARDS: Final = frozenset("*?[")


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    path: Path
    once: bool = False
    state: Path | None = None
    fresh: bool = False
    poll_s: float = POLL_S
    average_run_length_blocks: float = AVERAGE_RUN_LENGTH_BLOCKS
    limits: Limits = field(default_factory=Limits)
    service: str | None = None
    """Label of all alerts; None: the name of what is watched."""
    labels: Sequence[str] = ()
    """NAME=VALUE."""
    webhooks: Sequence[str] = ()
    webhook_token_file: Path | None = None
    alertmanagers: Sequence[str] = ()
    alertmanager_token_file: Path | None = None
    link: str | None = None


def base_paths(names: Sequence[str]) -> list[Path]:
    """Return where BASE lies: what exists by a name is that, else the baseline of that name. Raises ConfigError."""
    from vtprof_analyzer.runs import baselines

    paths = []
    for name in names:
        there = os.path.lexists(name) or bool(_WILDCARDS & set(name))
        path = Path(name) if there else baselines.find(name)
        if path is None:
            raise ConfigError(
                f"--base {one_line(name, 100)}: no such file or folder, nor a baseline; see `vtprof baseline list`"
            )
        paths.append(path)
    return paths


def read_base(paths: Sequence[Path], progress: Callable[[int], None]) -> list[Run]:
    """Return the runs of BASE: baselines, folders of traces, tables. Raises NoData where they are too few requests."""
    from vtprof_analyzer.runs.read import read_runs

    runs = [run for path in paths for run in read_runs(path, progress)]
    requests = sum(len(run.requests) for run in runs)
    if requests < LEAST_BASE_REQUESTS:
        shown = one_line(" ".join(str(path) for path in paths), 100)
        raise NoData(
            f"--base {shown}: {requests:,} requests; at least {LEAST_BASE_REQUESTS} are needed to know what is normal, "
            "and several thousand to see small changes: record for longer"
        )
    return runs


def assemble(
    options: Options,
    runs: Sequence[Run],
    *,
    tell: Callable[[dict[str, Any]], None],
    publish: Callable[..., None],
    say: Callable[[str], None],
    now: Callable[[], float],
) -> Watch:
    """Return the watch; the state file, where there is one, is held. Raises errors of one line."""
    from vtprof_analyzer.regress.base_model import CostModel
    from vtprof_analyzer.watch.detector import Detector as SequentialDetector
    from vtprof_analyzer.watch.follow import Follower as TraceFollower

    given = labels_given(options.labels)
    service = options.service or options.path.absolute().name or "vtprof"
    try:
        labels = Labels(service, given)
    except ValueError as error:
        raise ConfigError(f"--label: {error}; give NAME=VALUE with letters, digits and _") from error
    outlets = Outlets(
        tell=tell,
        webhooks=_webhooks(options, say),
        alertmanagers=_alertmanagers(options, say),
        link=_link(options.link),
        publish=publish,
        say=say,
    )
    identity = {
        "path": str(options.path.absolute()),
        "base": fingerprint(runs),
        "average run length": f"{options.average_run_length_blocks:g}",
        "service or labels": repr((service, sorted(given.items()))),
    }
    state_file = _state_file(options, identity)
    try:
        content = None if state_file is None or options.fresh else state_file.load(identity)
        tables = [run.requests for run in runs]
        model = CostModel.fit(tables)
        detector: Detector = SequentialDetector(model, options.average_run_length_blocks, tables)
        judge = Judge(detector, labels, options.limits, begun_s=now())
        try:
            follower: Follower = TraceFollower(options.path, content["follower"] if content else None)
            watch = Watch(follower, judge, outlets, state_file, identity, now)
            if content is not None:
                watch.restore(content)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            if content is None or state_file is None:
                raise
            state_file.damaged(type(error).__name__)
    except BaseException:
        if state_file is not None:
            state_file.close()
        raise
    return watch


def fingerprint(runs: Sequence[Run]) -> str:
    """Return what stands for the requests of a base, wherever they were read from."""
    digest = hashlib.sha256()
    for run in runs:
        requests = run.requests
        digest.update(repr((len(requests), requests.models)).encode("utf-8", "backslashreplace"))
        for column in fields(requests):
            values = getattr(requests, column.name)
            if column.name not in ("ids", "models"):
                digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def labels_given(texts: Sequence[str]) -> dict[str, str]:
    """Return labels by name; raises ConfigError for what is none."""
    labels = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name in ("alertname", "severity", "service"):
            raise ConfigError(
                f"--label {one_line(text, 80)!r}: give NAME=VALUE, NAME not alertname, severity or service"
            )
        labels[name] = value
    return labels


def _state_file(options: Options, identity: Mapping[str, str]) -> StateFile | None:
    # What is read once is judged from its beginning, unless the user wants to go on.
    if options.once and options.state is None:
        return None
    return StateFile(options.state or default_path(options.path, identity))


def _webhooks(options: Options, say: Callable[[str], None]) -> list[Delivery]:
    urls = list(options.webhooks)
    if not urls and os.environ.get(WEBHOOK_URL):
        urls = [os.environ[WEBHOOK_URL]]
    token = Token(options.webhook_token_file, WEBHOOK_TOKEN)
    return [_delivery("webhook", "--webhook", url, token, say) for url in _few("--webhook", urls)]


def _alertmanagers(options: Options, say: Callable[[str], None]) -> list[Delivery]:
    token = Token(options.alertmanager_token_file, ALERTMANAGER_TOKEN)
    return [
        _delivery("alertmanager", "--alertmanager", alertmanager.url_of(url), token, say, newest_only=True)
        for url in _few("--alertmanager", options.alertmanagers)
    ]


def _delivery(
    sink: str, flag: str, url: str, token: Token, say: Callable[[str], None], newest_only: bool = False
) -> Delivery:
    endpoint = Endpoint(flag, url, token)
    if endpoint.token_in_plain_text():
        say(f"{flag} {endpoint.shown}: the token goes there unencrypted; give an https:// address")
    # The address itself may hold a secret: a state knows it by its digest.
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Delivery(sink, endpoint.shown, endpoint.post, key=key, newest_only=newest_only, say=say)


def _few(flag: str, urls: Sequence[str]) -> list[str]:
    unique = list(dict.fromkeys(urls))
    if len(unique) > _MOST_ENDPOINTS:
        raise ConfigError(f"{flag}: {len(unique)} addresses; give at most {_MOST_ENDPOINTS}")
    return unique


def _link(url: str | None) -> str | None:
    if url is None:
        return None
    try:
        sound = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        sound = False
    if not sound or not url.isascii() or any(character <= " " for character in url):
        raise ConfigError("--link: not an http:// or https:// address; give that of a dashboard or runbook")
    return url


def notes_to_stderr(note: str) -> None:
    """Say a note to the operator."""
    if sys.stderr is not None:
        sys.stderr.write(f"vtprof: note: {one_line(note, 400)}\n")
        sys.stderr.flush()
