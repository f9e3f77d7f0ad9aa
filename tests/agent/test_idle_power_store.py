"""What an agent saw of idle power reaches the next one, for a month; whatever the file holds is no crash."""

import json
import logging
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.config import merge
from vtprof_agent.counters.idle_power import IdleSeen
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.idle_power_store import IDLE_POWER_FILE, IdlePowerStore, merged, parse
from vtprof_agent.runner import agent

NOW = 1_750_000_000.0
DAY = 86400.0
NS = 1_000_000_000


class Meter:
    """Knows what it was told, and what a test has it see."""

    def __init__(self) -> None:
        self.seen: dict[str, IdleSeen] = {}

    def tell_idle(self, hw_id: str, seen: IdleSeen) -> None:
        self.seen[hw_id] = seen

    def idle_seen(self) -> Mapping[str, IdleSeen]:
        return self.seen


def opened(folder: Path, now_s: float = NOW) -> tuple[IdlePowerStore, Meter]:
    meter = Meter()
    return IdlePowerStore(folder, meter, lambda: now_s), meter


def write(folder: Path, gpus: Any, version: int = 1) -> None:
    (folder / IDLE_POWER_FILE).write_text(json.dumps({"version": version, "gpus": gpus}))


def entry(mw: Any, unix_s: Any = NOW) -> dict[str, Any]:
    return {"mw": mw, "unix_s": unix_s}


def test_the_next_agent_is_told_what_was_seen(tmp_path: Path) -> None:
    store, meter = opened(tmp_path)
    meter.seen = {"GPU-a": IdleSeen(90_000.0, 95_123.456), "GPU-b": IdleSeen(300_000.0), "GPU-c": IdleSeen()}
    store.close()
    assert opened(tmp_path)[1].seen == {
        "GPU-a": IdleSeen(90_000.0, 95_123.456),
        "GPU-b": IdleSeen(300_000.0),
    }
    assert stat.S_IMODE((tmp_path / IDLE_POWER_FILE).stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / IDLE_POWER_FILE], "no temporary file is left"


def test_what_is_only_passed_on_ages_and_what_is_seen_anew_does_not(tmp_path: Path) -> None:
    """Seen on day 0; restarted on days 20 and 29 on a busy GPU, which sees a lower least on day 20 and no rest."""
    store, meter = opened(tmp_path)
    meter.seen = {"GPU-a": IdleSeen(100_000.0, 95_000.0)}
    store.close()
    store, meter = opened(tmp_path, NOW + 20 * DAY)
    meter.seen = {"GPU-a": IdleSeen(90_000.0, 95_000.0)}
    store.close()
    store, meter = opened(tmp_path, NOW + 29 * DAY)
    assert meter.seen == {"GPU-a": IdleSeen(90_000.0, 95_000.0)}
    store.close()
    assert opened(tmp_path, NOW + 31 * DAY)[1].seen == {"GPU-a": IdleSeen(90_000.0, None)}
    assert opened(tmp_path, NOW + 51 * DAY)[1].seen == {}


def test_an_agent_that_lives_for_months_does_not_make_old_values_new(tmp_path: Path) -> None:
    write(tmp_path, {"GPU-a": {"rest_mw": entry(95_000)}})
    now_s = NOW
    store = IdlePowerStore(tmp_path, Meter(), lambda: now_s)
    for day in range(0, 60, 5):
        now_s = NOW + day * DAY
        store.look(day * int(DAY) * NS)
    store.close()
    assert opened(tmp_path, now_s)[1].seen == {}


def test_what_was_contradicted_is_stored_no_more(tmp_path: Path) -> None:
    write(tmp_path, {"GPU-a": {"rest_mw": entry(95_000), "least_mw": entry(90_000)}})
    store, meter = opened(tmp_path)
    meter.seen["GPU-a"] = IdleSeen(90_000.0, None)
    store.close()
    assert opened(tmp_path)[1].seen == {"GPU-a": IdleSeen(90_000.0)}


def test_gpus_that_are_not_here_today_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {"GPU-away": {"rest_mw": entry(95_000)}})
    store, meter = opened(tmp_path)
    meter.seen = {"GPU-here": IdleSeen(None, 60_000.0)}
    store.close()
    assert opened(tmp_path)[1].seen.keys() == {"GPU-away", "GPU-here"}


def test_it_is_stored_each_fifteen_seconds_when_it_moved_and_not_for_a_trifle(tmp_path: Path) -> None:
    """A killed agent loses no more; a value that moves by 1 % is not worth a write before the stop."""
    path = tmp_path / IDLE_POWER_FILE
    store, meter = opened(tmp_path)

    def stored() -> Any:
        return json.loads(path.read_text())["gpus"]["GPU-a"]["rest_mw"]["mw"] if path.exists() else None

    meter.seen = {"GPU-a": IdleSeen(None, 100_000.0)}
    found = []
    for second, rest in ((0, 100e3), (14, 100e3), (16, 100e3), (20, 120e3), (32, 120e3), (48, 121e3)):
        meter.seen["GPU-a"] = IdleSeen(None, rest)
        store.look(second * NS)
        found.append(stored())
    assert found == [None, None, 100e3, 100e3, 120e3, 120e3]
    store.close()
    assert stored() == 121e3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"[]", "not a file of idle power of version 1"),
        (b'{"version": 2, "gpus": {}}', "not a file of idle power of version 1"),
        (b'{"version": 1, "gpus": []}', "it holds no GPUs"),
        (b"[" * 100_000, "recursion"),
        (b"\xc3(", "codec"),
        (b" " * 300_000, "more than 262144 bytes"),
        (b'{"version": 1, "gpus": {"GPU-a": ' + b"9" * 10_000 + b"}}", "digits"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes, why: str
) -> None:
    (tmp_path / IDLE_POWER_FILE).write_bytes(text)
    with caplog.at_level(logging.WARNING):
        store, meter = opened(tmp_path)
    assert len(caplog.messages) == 1 and why in caplog.messages[0] and "\n" not in caplog.messages[0]
    assert meter.seen == {}
    meter.seen = {"GPU-a": IdleSeen(None, 60_000.0)}
    store.close()
    assert opened(tmp_path)[1].seen == {"GPU-a": IdleSeen(None, 60_000.0)}


@pytest.mark.parametrize(
    "value",
    [
        None, 7, [], {"other": entry(5e4)}, {"rest_mw": 5e4}, {"rest_mw": entry("5e4")}, {"rest_mw": entry(True)},
        {"rest_mw": entry(0)}, {"rest_mw": entry(-5e4)}, {"rest_mw": entry(1e9)}, {"rest_mw": entry(float("nan"))},
        {"rest_mw": entry(float("inf"))}, {"rest_mw": entry(5e4, -1)}, {"rest_mw": entry(5e4, None)},
        {"rest_mw": entry(10**400)},
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_costs_itself_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    write(tmp_path, {"GPU-\x1b[2J\n": value, "GPU-good": {"rest_mw": entry(95_000)}})
    with caplog.at_level(logging.WARNING):
        _, meter = opened(tmp_path)
    assert meter.seen == {"GPU-good": IdleSeen(None, 95_000.0)}
    assert len(caplog.messages) == 1
    assert "1 stored idle powers cannot be used" in caplog.messages[0] and caplog.messages[0].isprintable()


def test_a_time_to_come_counts_as_now(tmp_path: Path) -> None:
    """A clock that was set back, or a forger, must not keep a value for ever."""
    write(tmp_path, {"GPU-a": {"rest_mw": entry(95_000, NOW + 1000 * DAY)}})
    store, _ = opened(tmp_path)
    store.close()
    store, meter = opened(tmp_path, NOW + 1)
    meter.seen["GPU-b"] = IdleSeen(None, 60_000.0)
    store.close()
    assert opened(tmp_path, NOW + 31 * DAY)[1].seen == {}


def test_what_is_left_out_for_its_age_and_what_is_of_a_time_to_come_is_said_with_its_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 30 days it is kept, of a second more it is not; of a minute to come it is not said, of a second more it is."""
    ages_s = {
        "GPU-kept": 30 * DAY, "GPU-old": 30 * DAY + 1, "GPU-half": 30 * DAY + 1, "GPU-skewed": -60, "GPU-ahead": -61,
    }  # fmt: skip
    gpus = {gpu: {"rest_mw": entry(95_000, NOW - age_s)} for gpu, age_s in ages_s.items()}
    gpus["GPU-half"]["least_mw"] = entry(90_000, NOW)
    write(tmp_path, gpus)
    with caplog.at_level(logging.INFO):
        _, meter = opened(tmp_path)
    assert meter.seen == {
        "GPU-kept": IdleSeen(None, 95_000.0),
        "GPU-half": IdleSeen(90_000.0),
        "GPU-skewed": IdleSeen(None, 95_000.0),
        "GPU-ahead": IdleSeen(None, 95_000.0),
    }
    begin = f"{tmp_path / IDLE_POWER_FILE}: "
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", begin + "2 stored idle powers are older than 30 days and are left out (GPU-old, ...)"),
        (
            "WARNING",
            begin + "1 stored idle powers are of a time to come and count as of now: was the clock set back?"
            " (GPU-ahead)",
        ),
    ]


def test_a_clock_that_goes_back_while_an_agent_runs_makes_nothing_old_or_lasting(tmp_path: Path) -> None:
    now_s = NOW
    meter = Meter()
    store = IdlePowerStore(tmp_path, meter, lambda: now_s)
    meter.seen = {"GPU-a": IdleSeen(None, 95_000.0)}
    store.look(0)
    store.look(16 * NS)
    now_s = NOW - 400 * DAY
    meter.seen["GPU-b"] = IdleSeen(None, 60_000.0)
    store.close()
    assert opened(tmp_path, now_s)[1].seen.keys() == {"GPU-a", "GPU-b"}
    store, _ = opened(tmp_path, now_s)
    store.close()
    assert opened(tmp_path, now_s + 31 * DAY)[1].seen == {}


def test_a_link_or_a_folder_in_its_place_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / IDLE_POWER_FILE).symlink_to("/dev/zero")
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path)[1].seen == {}
    assert len(caplog.messages) == 1


def test_a_folder_that_takes_no_file_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "rings"
    folder.mkdir()
    store, meter = opened(folder)
    folder.rmdir()
    with caplog.at_level(logging.WARNING):
        for minute in range(5):
            meter.seen = {"GPU-a": IdleSeen(None, 60_000.0 * (minute + 1))}
            store.look(minute * 61 * NS)
        store.close()
    assert len(caplog.messages) == 1 and "idle power cannot be stored" in caplog.messages[0]


def test_what_is_kept_is_bounded_and_the_newest_stays() -> None:
    kept = merged({}, {f"GPU-{place}": IdleSeen(None, 60_000.0) for place in range(200)}, NOW)
    kept = merged(kept, {f"MIG-{place}": IdleSeen(None, 60_000.0) for place in range(200)}, NOW + 1)
    assert len(kept) == 256
    assert {f"MIG-{place}" for place in range(200)} <= kept.keys()
    assert merged({}, {"x" * 1000: IdleSeen(None, 60_000.0)}, NOW) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["least_mw", "rest_mw", "mw", "unix_s", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(gpus=st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_whatever_a_file_tells_what_is_used_of_it_is_a_power_and_a_time(gpus: dict[str, Any]) -> None:
    kept = parse(json.dumps({"version": 1, "gpus": gpus}).encode(), NOW).kept
    assert all(
        100 <= one.mw <= 1e7 and NOW - 30 * DAY <= one.unix_s <= NOW
        for of_gpu in kept.values()
        for one in of_gpu.values()
    )


def test_an_agent_tells_its_meter_at_the_start_and_stores_what_it_saw_at_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through all that puts an agent together: what was stored for GPU-a, and what was seen of GPU-b."""
    meters: list[RollingMeter] = []

    class Watched(RollingMeter):
        def __init__(self) -> None:
            super().__init__()
            meters.append(self)

    monkeypatch.setattr("vtprof_agent.runner.RollingMeter", Watched)
    rings = tmp_path / "rings"
    rings.mkdir()
    write(rings, {"GPU-a": {"rest_mw": entry(95_000, time.time() - DAY)}})
    settings = {"out_dir": str(tmp_path / "out"), "ring_dir": str(rings), "samplers": ["host"]}
    with agent(merge({}, {}, settings, "f").config, {}) as running:
        assert meters[0].idle_seen() == {"GPU-a": IdleSeen(None, 95_000.0)}
        meters[0].tell_idle("GPU-b", IdleSeen(50_000.0, 60_000.0))
        running.turn()
        running.stop()
    assert opened(rings, time.time())[1].seen == {
        "GPU-a": IdleSeen(None, 95_000.0),
        "GPU-b": IdleSeen(pytest.approx(50_000.0), pytest.approx(60_000.0)),  # type: ignore[arg-type]
    }
