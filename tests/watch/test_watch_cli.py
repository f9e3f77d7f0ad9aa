"""`vtprof watch` as a user runs it: exit codes, one line for each mistake, signals, restarts, and the JSON's schema."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from vtprof_analyzer.cli import main

VTPROF = [sys.executable, "-c", "from vtprof_analyzer.cli import main; main()", "watch"]
COLUMNS = (
    "request_id,start_unix_nano,model,n_text_tokens,n_visual_tokens,queue_ms,preprocess_ms,encode_ms,prefill_ms,"
    "ttft_ms,tpot_ms,n_output_tokens,kv_bytes"
)
BEGIN_S = 1_790_000_000
SCHEMA = Draft202012Validator(
    json.loads(resources.files("vtprof_schemas").joinpath("watch.schema.json").read_text("utf-8"))
)


def table(name: str, count: int, seed: int, encode: float = 1.0, begin_s: float = BEGIN_S) -> list[str]:
    """Return the lines of a request table; ``encode``: how much longer the encoder takes."""
    random = np.random.default_rng(seed)
    starts = begin_s + np.cumsum(random.exponential(0.2, count))
    visual = np.where(random.random(count) < 0.7, np.round(random.lognormal(6.5, 0.6, count)), 0)
    text, output = (
        np.round(random.lognormal(5, 0.7, count)) + 5,
        np.round(random.lognormal(3, 0.6, count)) + 2,
    )

    def noise(spread: float) -> Any:
        return np.exp(random.normal(0, spread, count))

    preprocess = (5 + 0.01 * visual) * noise(0.1)
    encoded = np.where(visual > 0, 8 + 0.04 * visual, 0) * noise(0.06) * encode
    prefill = (5 + 0.03 * (visual + text)) * noise(0.06)
    queue = random.exponential(0.3, count)
    ttft, tpot = preprocess + encoded + prefill + queue + 0.5, 12 * noise(0.05)
    lines = [COLUMNS]
    for at in range(count):
        lines.append(
            f"{name}-{at},{int(starts[at] * 1e9)},qwen,{text[at]:.0f},{visual[at]:.0f},{queue[at]:.4f},{preprocess[at]:.4f},"
            f"{encoded[at]:.4f},{prefill[at]:.4f},{ttft[at]:.4f},{tpot[at]:.4f},{output[at]:.0f},"
            f"{(visual[at] + text[at] + output[at] - 1) * 57344:.0f}"
        )
    return [f"{line}\n" for line in lines]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, lines in (
        ("base", table("b", 2000, 1)),
        ("same", table("s", 1200, 2, begin_s=BEGIN_S + 5000)),
        ("slow", table("x", 1200, 3, encode=1.3, begin_s=BEGIN_S + 5000)),
        ("few", table("f", 100, 4)),
    ):
        (folder / f"{name}.csv").write_text("".join(lines))
    return folder


def watch(
    folder: Path, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [*VTPROF, *(one.replace("T/", f"{folder}/") for one in arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or folder,
        env={**os.environ, **environment},
    )


def started(folder: Path, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [*VTPROF, *(one.replace("T/", f"{folder}/") for one in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def test_once_finds_a_slower_encoder_and_says_what_when_and_by_which_requests(tables: Path) -> None:
    ended = watch(
        tables, "T/slow.csv", "--base", "T/base.csv", "--once", "--fail-on", "alarm", "--slo-ttft-ms", "60"
    )
    assert ended.returncode == 1, ended.stderr
    document = json.loads(ended.stdout)
    SCHEMA.validate(document)
    (alarm,) = document["alarms"]
    assert alarm["phase"] == "encode" and alarm["model"] == "qwen"
    assert 0.2 < alarm["effect_ratio"] < 0.4
    assert alarm["evidence"] and all(one.startswith("x-") for one in alarm["evidence"])
    assert (BEGIN_S + 5000) * 10**9 <= alarm["began_unix_nano"] <= alarm["time_unix_nano"]
    assert [one["alert"] for one in document["service_alerts"]] == ["slo_burn"]
    assert document["requests"]["seen"] == 1200


def test_once_without_a_change_has_no_alarm_and_keeps_nothing(tables: Path, tmp_path: Path) -> None:
    ended = watch(tables, "T/same.csv", "--base", "T/base.csv", "--once", "--fail-on", "alarm", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    SCHEMA.validate(document)
    assert document["alarms"] == [] and document["service_alerts"] == []
    assert list(tmp_path.iterdir()) == []


def test_once_says_what_is_not_watched_because_the_table_lacks_a_column(tables: Path, tmp_path: Path) -> None:
    place = COLUMNS.split(",").index("prefill_ms")
    rows = [line.split(",") for line in table("n", 600, 5, begin_s=BEGIN_S + 5000)]
    (tmp_path / "new.csv").write_text("".join(",".join(row[:place] + row[place + 1 :]) for row in rows))
    ended = watch(tables, str(tmp_path / "new.csv"), "--base", "T/base.csv", "--once", "--fail-on", "alarm")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    SCHEMA.validate(document)
    said = [note for note in document["notes"] if note.startswith("model 'qwen'")][-1]
    assert "the base has prefill_ms, unexplained_ms, its requests do not" in said
    assert "not watched: encode, prefill, decode, unexplained; watched without: preprocess, kv" in said
    assert said in ended.stderr
    assert {one["phase"] for one in document["phases"]} == {"preprocess", "kv"}


def test_once_with_a_state_goes_on_where_it_was(tables: Path, tmp_path: Path) -> None:
    call = ("T/slow.csv", "--base", "T/base.csv", "--once", "--state", str(tmp_path / "s.json"))
    first, second = json.loads(watch(tables, *call).stdout), json.loads(watch(tables, *call).stdout)
    assert len(first["alarms"]) == 1
    assert second["alarms"] == [] and second["requests"]["seen"] == 0
    assert len(json.loads(watch(tables, *call, "--fresh").stdout)["alarms"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["T/same.csv", "--base", "T/few.csv", "--once"], "100 requests; at least 500 are needed"),
        (["T/same.csv", "--base", "no-such-baseline", "--once"], "nor a baseline; see `vtprof baseline list`"),
        (["T/same.csv", "--base", "T/base.csv", "--fail-on", "alarm"], "only with --once"),
        (["T/same.csv", "--base", "T/base.csv", "--once", "--metrics", ":0"], "not with --once"),
        (["T/same.csv", "--base", "T/base.csv", "--metrics", "0.0.0.0:0"], "open to the network"),
        (["T/same.csv", "--base", "T/base.csv", "--poll", "nan"], "--poll"),
        (["T/same.csv", "--base", "T/base.csv", "--slo-target", "1"], "--slo-target"),
        (["T/same.csv", "--base", "T/base.csv", "--slo-ttft-ms", "x"], "milliseconds"),
        (["T/same.csv", "--base", "T/base.csv", "--label", "phase"], "give NAME=VALUE"),
        (["T/same.csv", "--base", "T/base.csv", "--label", "a-b=c"], "label name"),
        (["T/same.csv", "--base", "T/base.csv", "--webhook", "ftp://x"], "not an http:// or https:// address"),
        (["T/same.csv", "--base", "T/base.csv", "--alertmanager", "http://u:secret@x"], "holds a password"),
        (["T/same.csv", "--base", "T/base.csv", "--webhook", "http://x", "--webhook-token-file", "T/x"], "cannot be read"),
        (["T/same.csv", "--base", "T/base.csv", "--link", "javascript:x"], "--link"),
        (["T/same.csv", "--base", "T/base.csv", "--state", "T/"], "is a folder"),
        (["T/same.csv"], "--base"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_2(
    tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["vtprof", "watch", *(one.replace("T/", f"{tables}/") for one in arguments)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith("vtprof: ") and shown.err.count("\n") == 1, shown.err
    assert said in shown.err and "secret" not in shown.err


def test_once_where_nothing_is_to_be_judged_is_no_verdict(tables: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        ended = watch(tables, str(path), "--base", "T/base.csv", "--once", cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "no complete request to judge" in ended.stderr.splitlines()[-1]


def test_a_model_that_the_base_lacks_is_no_clean_bill(tables: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text((tables / "same.csv").read_text().replace(",qwen,", ",new-vl,"))
    call = (str(tmp_path / "other.csv"), "--base", "T/base.csv", "--once", "--fail-on")
    ended = watch(tables, *call, "insufficient", cwd=tmp_path)
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["requests"]["judged"]) == (1, 0)
    assert "'new-vl' is not in the base" in found["notes"][0] and "'new-vl'" in ended.stderr
    nothing = "nothing was judged: 0 of 1,200 requests had requests like them in the base"
    assert found["notes"][-1].startswith(nothing) and nothing in ended.stderr
    assert watch(tables, *call, "alarm", cwd=tmp_path).returncode == 0
    ended = watch(tables, "T/same.csv", *call[1:], "insufficient", cwd=tmp_path)
    assert (ended.returncode, json.loads(ended.stdout)["notes"]) == (0, [])


def test_a_look_that_judges_hardly_anything_says_so_and_ends_well(tables: Path, tmp_path: Path) -> None:
    # Too few for a block of 60; and 300 of the base's model beside 1,200 of another.
    lines = (tables / "same.csv").read_text().splitlines(keepends=True)
    others = [line.replace("s-", "o-").replace(",qwen,", ",new-vl,") for line in lines[1:]]
    for name, rows, begin, told in (
        ("few", lines[:21], "nothing was judged: ", "no block of them was full"),
        (
            "most",
            [*lines[:301], *others],
            "only ",
            " of 1,500 requests had requests like them in the base: no alarm",
        ),
    ):
        (tmp_path / f"{name}.csv").write_text("".join(rows))
        ended = watch(tables, str(tmp_path / f"{name}.csv"), "--base", "T/base.csv", "--once")
        document = json.loads(ended.stdout)
        assert (ended.returncode, document["alarms"]) == (0, []), ended.stderr
        assert document["notes"][-1].startswith(f"{begin}{document['requests']['judged']:,} of ")
        assert told in document["notes"][-1]


def test_a_damaged_state_is_one_line_that_says_how_to_start_afresh(tables: Path, tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    call = ("T/same.csv", "--base", "T/base.csv", "--once", "--state", str(state))
    assert watch(tables, *call).returncode == 0
    state.write_text(state.read_text()[:-100])
    ended = watch(tables, *call)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "is damaged" in ended.stderr and "--fresh" in ended.stderr
    other = watch(tables, "T/same.csv", "--base", "T/slow.csv", "--once", "--state", str(state), "--fresh")
    assert other.returncode == 0
    again = watch(tables, *call)
    assert again.returncode == 2 and "is of another base" in again.stderr


class Hook(BaseHTTPRequestHandler):
    received: list[Any]

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    received: list[Any] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Hook,), {"received": received}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x", received
    server.shutdown()
    server.server_close()


def wait_for_lock(process: subprocess.Popen[str]) -> None:
    """Wait until a watcher has opened its lock, which it takes at once."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        with suppress(OSError):
            held = [one.readlink().name for one in Path(f"/proc/{process.pid}/fd").iterdir()]
            if any(name.endswith(".json.lock") for name in held):
                return
        time.sleep(0.02)
    raise AssertionError("not in time")


def test_it_follows_a_table_that_grows_tells_posts_ends_by_a_signal_and_does_not_repeat_itself(
    tables: Path, tmp_path: Path, hook: tuple[str, list[Any]]
) -> None:
    url, posted = hook
    growing = tmp_path / "growing.csv"
    lines = (tables / "slow.csv").read_text().splitlines(keepends=True)
    growing.write_text("".join(lines[:50]))
    call = (str(growing), "--base", "T/base.csv", "--poll", "0.1", "--webhook", url, "--label", "cluster=a")
    process = started(tables, *call, cwd=tmp_path)
    assert process.stdout is not None
    with growing.open("a") as file:
        file.writelines(lines[50:])
    line = json.loads(process.stdout.readline())
    SCHEMA.validate(line)
    assert (line["alert"], line["status"], line["phase"]) == ("regression", "firing", "encode")
    assert line["labels"]["service"] == "growing.csv" and line["labels"]["cluster"] == "a"
    process.send_signal(signal.SIGTERM)
    rest, said = process.communicate(timeout=60)
    assert (process.returncode, rest, said) == (0, "", "")
    assert posted == [line]
    again = started(tables, *call, cwd=tmp_path)
    state = next((tmp_path / ".vtprof" / "watch").glob("*.json"))
    before = state.stat().st_mtime_ns
    wait_for_lock(again)
    refused = watch(tables, *call, cwd=tmp_path)
    assert "another vtprof watch" in refused.stderr
    assert refused.returncode == 2
    again.send_signal(signal.SIGINT)
    kept = f"what is known is kept in .vtprof/watch/{state.name}"
    said = f"vtprof: interrupted; {kept}: the next start goes on from there\n"
    assert again.communicate(timeout=60) == ("", said)
    assert again.returncode == 130
    assert state.stat().st_mtime_ns > before
    assert len(posted) == 1


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("runs.read.read_runs", "nothing was judged, and a state is as it was before"),
        (
            "watch.loop.Watch.once",
            "no document was printed, for not all was judged; s may tell of a part: --fresh judges all anew",
        ),
    ],
)
def test_an_interrupted_look_says_what_is_left(
    tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    said: str,
) -> None:
    def interrupted(*_args: object, **_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"vtprof_analyzer.{where}", interrupted)
    call = ["vtprof", "watch", f"{tables}/same.csv", "--base", f"{tables}/base.csv", "--once", "--state", "s"]
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, *capsys.readouterr()) == (130, "", f"vtprof: interrupted; {said}\n")


def test_a_state_that_cannot_be_written_is_not_said_to_be_kept(tables: Path, tmp_path: Path) -> None:
    process = started(tables, "T/slow.csv", "--base", "T/base.csv", "--state", "d/s", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline()  # it has judged
    (tmp_path / "d").rename(tmp_path / "e")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        "vtprof: interrupted; the state could not be written: the next start goes on from the one before"
    )


def test_a_reader_that_goes_away_ends_it_quietly(tables: Path, tmp_path: Path) -> None:
    process = started(tables, "T/slow.csv", "--base", "T/base.csv", "--poll", "0.1", cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_every_kind_of_line_fits_the_schema() -> None:
    from watch_fakes import DAY0_NS, alarm

    from vtprof_analyzer.watch import wording
    from vtprof_analyzer.watch.alerts import Notification
    from vtprof_analyzer.watch.kv_forecast import Exhaustion
    from vtprof_analyzer.watch.slo import RULES, Burn

    labels = wording.Labels("chat", {})
    burn = Burn(
        "tpot", 20.0, 0.99, "warning", RULES[2], 1.5, 1.2, 40, 0.015, -0.2, 1.2, 43_200, DAY0_NS, DAY0_NS
    )
    for alert in (
        wording.regression(labels, alarm(effect=float("nan"))),
        wording.slo_burn(labels, burn),
        wording.kv_exhaustion(labels, Exhaustion("gpu", 0.8, 0.3, 900.0, 700.0, None, DAY0_NS, DAY0_NS)),
        wording.kv_exhaustion(labels, Exhaustion("gpu", 1.0, 0.0, 0.0, 0.0, 0.0, DAY0_NS, DAY0_NS)),
        wording.no_data(labels, DAY0_NS, DAY0_NS, 300.0),
    ):
        for status in ("firing", "resolved"):
            line = wording.document(Notification(status, alert, DAY0_NS, 1))  # type: ignore[arg-type]
            SCHEMA.validate(line)
            assert not SCHEMA.is_valid({**line, "surprise": 1})
