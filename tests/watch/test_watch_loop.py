"""The watch as a whole, with everything that acts on the world handed in: what is told, kept, repeated and survived."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from watch_fakes import DAY0_NS, MINUTE_NS, Clock, FakeFollower, alarm, batch, judge, over, requests_at

from vtprof_analyzer.regress.requests import no_requests
from vtprof_analyzer.watch import alertmanager
from vtprof_analyzer.watch.events import Batch, Event, KvSample, Over, Unlike
from vtprof_analyzer.watch.figures import Figures
from vtprof_analyzer.watch.judging import AHEAD, Judge, Limits
from vtprof_analyzer.watch.loop import SAVE_S, Outlets, Watch, once_document
from vtprof_analyzer.watch.sinks import Delivery
from vtprof_analyzer.watch.state_file import StateFile
from vtprof_schemas.errors import DataError

IDENTITY = {"path": "p", "base": "b"}


class World:
    """A watch and what came out of it."""

    def __init__(
        self,
        batches: Sequence[Batch | Exception] = (),
        script: Sequence[Sequence[Event]] = (),
        limits: Limits | None = None,
        state: Path | None = None,
        posts: bool = False,
        tell: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.clock = Clock()
        self.lines: list[dict[str, Any]] = []
        self.posted: list[list[dict[str, Any]]] = []
        self.said: list[str] = []
        self.figures: list[Figures] = []
        self.judge: Judge = judge(script, limits)
        self.waits: list[float] = []
        sink = Delivery("alertmanager", "http://am", self._post, newest_only=True)
        self.hook = Delivery("webhook", "http://hook", self._post, key="hook")
        self._sinks = [sink] if posts else []
        self.state = StateFile(state) if state else None
        self.watch = Watch(
            FakeFollower(batches),
            self.judge,
            Outlets(
                tell=tell or self.lines.append,
                alertmanagers=self._sinks,
                publish=self.figures.append,
                say=self.said.append,
            ),
            self.state,
            IDENTITY,
            self.clock,
        )
        for one in self._sinks:
            one.start = lambda: None  # type: ignore[method-assign]

    def run(self, polls: int, step_s: float = 5.0) -> "World":
        def wait(seconds: float) -> bool:
            self.waits.append(seconds)
            self.clock.now_s += step_s
            for sink in self._sinks:
                sink.step()
            return len(self.waits) >= polls

        self.watch.run(wait)
        return self

    def close(self) -> None:
        if self.state:
            self.state.close()

    def _post(self, body: bytes) -> None:
        self.posted.append(json.loads(body))


def told(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["status"], line["alert"]) for line in lines]


def test_a_line_when_it_fires_and_one_when_it_is_over() -> None:
    world = World(script=[[], [alarm()], [alarm()], [over()], [over()]]).run(6)
    assert told(world.lines) == [("firing", "regression"), ("resolved", "regression")]
    fired, ended = world.lines
    assert fired["id"] == ended["id"]
    assert (fired["phase"], fired["model"], fired["effect_ratio"]) == ("encode", "m", 0.08)
    assert fired["evidence"] == ["a1", "b2"]
    assert fired["time_unix_nano"] == DAY0_NS and fired["began_unix_nano"] == DAY0_NS - 10 * MINUTE_NS
    assert ended["time_unix_nano"] == DAY0_NS + 55 * MINUTE_NS


def test_alertmanager_is_told_at_once_each_minute_and_of_the_end() -> None:
    script: list[list[Event]] = [[] for _ in range(40)]
    script[2], script[30] = [alarm()], [over()]
    world = World(script=script, posts=True).run(40)
    # Fired at poll 3, repeated each 60 s = 12 polls, over at poll 31, then repeated as over.
    assert [len(one) for one in world.posted] == [1, 1, 1, 1]
    ends = [one[0]["endsAt"] for one in world.posted]
    assert ends[:3] == ["2027-01-15T08:04:10.000Z", "2027-01-15T08:05:10.000Z", "2027-01-15T08:06:10.000Z"]
    assert ends[3] == "2027-01-15T08:02:30.000Z"  # now


def test_the_repeat_comes_well_before_the_alert_would_end() -> None:
    assert alertmanager.HOLDS >= 3
    assert alertmanager.RESEND_S * alertmanager.HOLDS < 300  # Alertmanager's own resolve_timeout


def test_a_restart_tells_nothing_twice_and_ends_what_fired_before(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    first = World([batch(DAY0_NS)], [[alarm()]], state=path).run(2)
    first.close()
    second = World(script=[[alarm()], [over()]], state=path, posts=True)
    content = second.state.load(IDENTITY) if second.state else None
    assert content is not None
    second.watch.restore(content)
    second.run(3)
    second.close()
    assert told(first.lines) == [("firing", "regression")]
    assert told(second.lines) == [("resolved", "regression")]
    assert first.lines[0]["id"] == second.lines[0]["id"]
    # Alertmanager hears of it at once, as it may have forgotten meanwhile.
    assert second.posted[0][0]["labels"]["phase"] == "encode"


def day() -> list[tuple[Batch, list[Event]]]:
    """Return batches of two minutes each: an outage, a cache that fills and empties, regressions that come and go."""
    parts = []
    events: dict[int, list[Event]] = {
        5: [alarm()],
        6: [alarm("decode")],
        20: [over()],
        30: [alarm()],
        50: [over("decode")],
    }
    for at in range(90):
        begin = DAY0_NS + at * 2 * MINUTE_NS
        starts = [begin + second * 10**9 for second in range(0, 120, 4)]
        share = 0.3 + 0.02 * at if at < 35 else 0.2
        kv = [KvSample(begin + step * 10**10, "gpu", 1000 * share + step, 1000.0) for step in range(12)]
        table = requests_at(starts, 2000.0 if 10 <= at < 30 else 100.0)
        parts.append((Batch(table, tuple(kv), begin + 2 * MINUTE_NS), events.get(at, [])))
    return parts


def told_over_restarts(restarts: set[int]) -> list[tuple[str, str, int]]:
    """Return what is told when the watch is begun anew, from its state as JSON, before these batches."""
    limits, parts = Limits(slo_ttft_ms=1000.0), day()
    now_s = DAY0_NS / 1e9 + 24 * 3600
    current = judge([events for _, events in parts], limits)
    found = []
    for at, (part, _) in enumerate(parts):
        if at in restarts:
            state = json.loads(json.dumps(current.state()))
            current = judge([events for _, events in parts[at:]], limits)
            current.restore(state)
            assert current.end_orphans(now_s) == []
        found += [(one.status, one.id, one.time_unix_nano) for one in current.take(part, now_s, follows=True)]
    return found


@settings(max_examples=15)
@given(restarts=st.sets(st.integers(0, 89), max_size=6))
def test_restarts_at_any_time_change_nothing_of_what_is_told(restarts: set[int]) -> None:
    whole = told_over_restarts(set())
    assert {status for status, _, _ in whole} == {"firing", "resolved"} and len(whole) >= 9
    assert told_over_restarts(restarts) == whole


def test_the_state_is_saved_with_each_alert_and_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    world = World([batch(DAY0_NS + at) for at in range(1, 9)], [[], [alarm()]], state=path)
    world.watch._begin()
    saved: list[bool] = []
    for _ in range(8):
        before = path.stat().st_mtime_ns if path.exists() else 0
        world.watch.poll()
        saved.append(path.exists() and path.stat().st_mtime_ns != before)
        world.clock.now_s += SAVE_S / 4
    world.close()
    assert saved == [False, True, False, False, False, True, False, False]


def test_a_reader_that_has_gone_ends_it_and_the_alert_is_told_again_next_time(tmp_path: Path) -> None:
    path = tmp_path / "state.json"

    def gone(_: dict[str, Any]) -> None:
        raise BrokenPipeError

    world = World([batch(DAY0_NS), batch(DAY0_NS + 1)], [[], [alarm()]], state=path, tell=gone)
    with pytest.raises(BrokenPipeError):
        world.run(5)
    world.close()
    assert not path.exists()


def test_an_error_of_reading_is_a_note_once_and_the_watch_goes_on() -> None:
    trouble: list[Batch | Exception] = [
        DataError("x: gone"),
        OSError(5, "I/O error"),
        DataError("x: gone"),
        batch(DAY0_NS),
    ]
    world = World(trouble, [[alarm()]]).run(5)
    assert world.said == ["x: gone", "[Errno 5] I/O error"]
    assert world.figures[-1].poll_errors == 3
    assert told(world.lines) == [("firing", "regression")]


def test_a_state_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([batch(DAY0_NS)], [[alarm()]], state=tmp_path / "state.json")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.state, "save", full)
    world.run(2)
    world.close()
    assert world.said == [f"{tmp_path / 'state.json'}: the state cannot be written (No space left on device)"]
    assert told(world.lines) == [("firing", "regression")]


def test_while_there_is_more_to_read_it_does_not_wait() -> None:
    more = Batch(requests_at([DAY0_NS]), (), DAY0_NS, caught_up=False)
    assert World([more, more, batch(DAY0_NS + 1)]).run(4).waits == [0.0, 0.0, 5.0, 5.0]


UNLIKE = Unlike(base_alone=("encode_ms",))


def test_an_alert_that_can_be_judged_no_longer_does_not_read_as_if_it_got_better() -> None:
    ends = [
        Over("encode", "shift", "m", DAY0_NS, DAY0_NS, 0, alarm(), "no_longer_judged", UNLIKE),
        Over("prefill", "shift", "m", DAY0_NS, DAY0_NS, 0, alarm("prefill"), "judged_anew", UNLIKE),
        Over("decode", "shift", "m", DAY0_NS, DAY0_NS, 0, alarm("decode"), "judged_anew"),
        over("kv"),
    ]
    fires = [alarm(), alarm("prefill"), alarm("decode"), alarm("kv")]
    world = World(script=[fires, ends], posts=True).run(3)
    assert [(line["status"], line["resolved_reason"]) for line in world.lines] == [
        *[("firing", None)] * 4,
        ("resolved", "no_longer_judged"),
        ("resolved", "judged_anew"),
        ("resolved", "judged_anew"),
        ("resolved", "recovered"),
    ]
    slower = "8.0 % slower at like work and load"
    again = "it fires again if it is still slower"
    because = ["encode is judged no longer, the base has encode_ms, its requests do not",
               "prefill is judged anew, as from here on the base has encode_ms, its requests do not; " + again,
               "decode is judged anew, as its columns are back; " + again]  # fmt: skip
    was = ["encode", "prefill", "decode (time per output token)"]
    assert [line["summary"] for line in world.lines[4:7]] == [
        f"resolved: not known to be better: {why}. It was: {what} of m is {slower}"
        for why, what in zip(because, was, strict=True)
    ]
    # Alertmanager's notifications have a state of their own: only the end carries the reason.
    fired, ended = world.posted[0], {one["labels"]["phase"]: one["annotations"] for one in world.posted[-1]}
    assert all("resolved_reason" not in one["annotations"] for one in fired)
    assert {phase: one["resolved_reason"] for phase, one in ended.items()} == {
        "encode": "no_longer_judged", "prefill": "judged_anew", "decode": "judged_anew", "kv": "recovered",
    }  # fmt: skip
    assert ended["encode"]["description"].startswith("Not known to be better: encode is judged no longer")
    assert not ended["kv"]["description"].startswith("Not known")


def test_why_it_ended_outlasts_a_restart_and_a_state_without_it_is_read(tmp_path: Path) -> None:
    current = judge(
        [[alarm()], [Over("encode", "shift", "m", DAY0_NS, DAY0_NS, 0, None, "no_longer_judged", UNLIKE)]]
    )
    now_s = DAY0_NS / 1e9
    for _ in range(2):
        current.take(batch(DAY0_NS), now_s, follows=True)
    state = json.loads(json.dumps(current.state()))
    restored = judge()
    restored.restore(state)
    assert restored.book.entries(now_s) == current.book.entries(now_s)
    assert restored.book.entries(now_s)[0].why == "no_longer_judged"
    for entry in state["book"]["entries"]:
        del entry["why"], entry["because"]
    restored.restore(state)
    assert restored.book.entries(now_s)[0].why == "recovered"


def test_silence_is_told_after_its_minutes_and_ends_with_the_next_request() -> None:
    batches = [batch(DAY0_NS), *[batch() for _ in range(5)], batch(DAY0_NS + 1)]
    world = World(batches, limits=Limits(no_data_s=180.0)).run(7, step_s=60.0)
    assert told(world.lines) == [("firing", "no_data"), ("resolved", "no_data")]
    assert "no request arrived for 3 minutes" in world.lines[0]["summary"]


def test_without_being_asked_silence_is_no_alert() -> None:
    assert World([batch(DAY0_NS)]).run(20, step_s=3600.0).lines == []


def test_an_objective_fires_and_ends_when_requests_stop() -> None:
    slow = requests_at([DAY0_NS + second * 10**9 for second in range(600)], 2000.0)
    world = World([Batch(slow, (), DAY0_NS + 10 * MINUTE_NS)], limits=Limits(slo_ttft_ms=1000.0))
    world.clock.now_s += 600
    world.run(400, step_s=60.0)
    assert told(world.lines) == [("firing", "slo_burn"), ("resolved", "slo_burn")]
    assert world.lines[0]["severity"] == "critical"
    assert world.lines[0]["labels"]["objective"] == "ttft"
    assert world.lines[0]["burn_rate_long"] == pytest.approx(100.0)


def test_an_objective_that_is_no_longer_watched_ends_its_alert(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    slow = requests_at([DAY0_NS + second * 10**9 for second in range(600)], 2000.0)
    first = World(
        [Batch(slow, (), DAY0_NS + 10 * MINUTE_NS)], limits=Limits(slo_ttft_ms=1000.0), state=path
    ).run(1)
    first.close()
    for limits in (Limits(), Limits(slo_ttft_ms=1500.0), Limits(slo_ttft_ms=1000.0)):
        second = World(limits=limits, state=path)
        assert second.state is not None
        second.watch.restore(second.state.load(IDENTITY) or {})
        second.watch.state_file = None
        second.run(1)
        second.close()
        assert told(second.lines) == ([] if limits.slo_ttft_ms == 1000.0 else [("resolved", "slo_burn")])
        assert all(line["resolved_reason"] == "no_longer_watched" for line in second.lines)


def test_a_cache_that_fills_up_is_told_with_its_instance() -> None:
    kv = [KvSample(DAY0_NS + at * 10**10, "gpu-0", 40.0 + at * 0.14, 100.0) for at in range(400)]
    (line,) = World([Batch(no_requests(), tuple(kv), 0)]).run(1).lines[:1] or [{}]
    assert line == {}  # ahead of the clock by more than ten minutes: not believed
    world = World([Batch(no_requests(), tuple(kv), 0)])
    world.clock.now_s += 4000
    line = world.run(1).lines[0]
    assert (line["alert"], line["instance"], line["labels"]["instance"]) == (
        "kv_exhaustion",
        "gpu-0",
        "gpu-0",
    )
    assert 0 < line["forecast_seconds"] <= 1800
    # Then it tells nothing more: that is no cache that has room again.
    (ended,) = world.run(20, step_s=600.0).lines[1:]
    assert (ended["status"], ended["resolved_reason"]) == ("resolved", "no_longer_judged")
    assert ended["summary"].startswith(
        "resolved: not known to be better: the instance has told nothing for as long as"
    )


def test_requests_of_the_future_are_left_out_and_counted() -> None:
    world = World([batch(DAY0_NS, DAY0_NS + 10**9 * 3600 * 24 * 365)]).run(1)
    assert world.judge.seen == 1 and world.judge.skipped[AHEAD] == 1
    assert world.judge.newest_ns == DAY0_NS


def test_once_reads_all_and_has_each_alert_once_with_its_end() -> None:
    more = Batch(requests_at([DAY0_NS]), (), DAY0_NS, {"aborted": 2}, ("a note",), caught_up=False)
    script = [[alarm()], [over(), alarm("prefill", effect=0.05)]]
    world = World([more, batch(DAY0_NS + 1)], script)
    found = once_document(world.watch, world.watch.once(), {"path": "traces"})
    assert [(one["phase"], one["status"]) for one in found["alarms"]] == [
        ("encode", "resolved"),
        ("prefill", "firing"),
    ]
    assert found["alarms"][0]["resolved_unix_nano"] == DAY0_NS + 55 * MINUTE_NS
    assert found["alarms"][0]["summary"].startswith("resolved: encode of m")
    assert found["alarms"][1]["resolved_unix_nano"] is None
    assert [(one["phase"], one["blocks"], one["effect_ratio"]) for one in found["phases"]] == [
        ("encode", 3, 0.01),
        ("kv", 0, None),
    ]
    assert found["service_alerts"] == []
    assert found["requests"] == {"seen": 2, "judged": 7, "late": 1, "not_comparable": 2}
    assert found["skipped"] == {"aborted": 2} and found["notes"] == ["a note"]
    assert world.waits == []


def minutes(*at: float, more: bool = False) -> Batch:
    given = batch(*(DAY0_NS + int(one * MINUTE_NS) for one in at))
    return replace(given, caught_up=not more)


def test_once_tells_of_a_silence_that_is_over() -> None:
    # The second batch is of an older file: it fills minutes 10 to 20, so that 3.5 to 10 and 20 to 40 are silent.
    batches = [minutes(0, 3.5, 40, 41, more=True), minutes(10, 15, 20)]
    world = World(batches, limits=Limits(no_data_s=360.0))
    world.clock.now_s += 42 * 60
    found = once_document(world.watch, world.watch.once(), {})
    assert [
        [
            (one[name] - DAY0_NS) / MINUTE_NS
            for name in ("began_unix_nano", "time_unix_nano", "resolved_unix_nano")
        ]
        for one in found["service_alerts"]
    ] == [[3.5, 9.5, 10], [20, 26, 40]]
    assert {one["resolved_reason"] for one in found["service_alerts"]} == {"recovered"}
    assert found["notes"] == []


def test_once_tells_of_a_silence_that_lasts_and_where_it_began() -> None:
    world = World([minutes(0, 1, more=True), minutes(2)], limits=Limits(no_data_s=360.0))
    world.clock.now_s += 60 * 60
    (found,) = once_document(world.watch, world.watch.once(), {})["service_alerts"]
    assert (found["status"], found["began_unix_nano"]) == ("firing", DAY0_NS + 2 * MINUTE_NS)


def test_once_notes_a_long_silence_where_nobody_said_what_is_long() -> None:
    busy = [one / 60 for one in range(600)]
    world = World([minutes(*busy, 30, *(30 + one for one in busy))])
    world.clock.now_s += 7200
    world.watch.once()
    # From 599 s to 1,800 s: 20.0 minutes, of requests that come 1.9 s apart in the mean.
    (note,) = world.watch.notes
    assert note.startswith("no request from 2027-01-15 08:09:59 UTC to 2027-01-15 08:30:00 UTC (20 minutes):")
    # Requests that come each quarter of an hour are no silence, and following tells of it as it is.
    rare, followed = World([minutes(0, 15, 30, 45, 60)]), World([minutes(*busy, 30)])
    for one in (rare, followed):
        one.clock.now_s += 7200
    rare.watch.once()
    assert rare.watch.notes == [] and followed.run(2).said == []


def test_once_tells_of_the_silence_between_two_times_it_was_asked(tmp_path: Path) -> None:
    limits, path = Limits(no_data_s=360.0), tmp_path / "state.json"
    for later in (False, True):
        path.unlink(missing_ok=True)
        # Asked at once it was not silent yet; asked an hour later it was, and told so.
        first = World([minutes(0, 1)], limits=limits, state=path)
        first.clock.now_s += 3600 if later else 60
        first.watch.once()
        first.close()
        second = World([minutes(70)], limits=limits, state=path)
        assert second.state is not None
        second.watch.restore(second.state.load(IDENTITY) or {})
        second.clock.now_s += 71 * 60
        second.watch.once()
        second.close()
        statuses = [line["status"] for line in (*first.lines, *second.lines)]
        assert statuses == ["firing", "resolved"]
        assert len(second.lines) == (1 if later else 2)


def test_once_and_the_line_of_the_end_have_the_newest_estimate() -> None:
    script = [
        [alarm(), alarm("prefill")],
        [Over("encode", "shift", "m", DAY0_NS, DAY0_NS, 60, alarm(effect=0.3))],
    ]
    world = World([batch(DAY0_NS), batch(DAY0_NS + 1)], script)
    world.judge.detector.fires = [alarm("prefill", effect=0.4), alarm("kv")]  # type: ignore[attr-defined]
    told = world.watch.once()
    found = once_document(world.watch, told, {})
    assert [(one["phase"], one["effect_ratio"]) for one in found["alarms"]] == [
        ("encode", 0.3),
        ("prefill", 0.4),
    ]
    ended = world.lines[-1]
    assert (ended["status"], ended["effect_ratio"], ended["resolved_unix_nano"]) == ("resolved", 0.3, DAY0_NS)
    assert ended["summary"] == "resolved: encode of m is 30 % slower at like work and load"
    assert world.lines[0]["resolved_unix_nano"] is None


def test_a_model_that_the_base_lacks_is_said_once_and_is_no_sufficient_data() -> None:
    world = World([batch(DAY0_NS), batch(DAY0_NS + 1)])
    assert not world.judge.insufficient
    world.judge.detector.unknown_models["new-vl"] = 600  # type: ignore[index]
    world.judge.detector.counts["unknown model"] = 600
    world.run(3)
    assert world.said == [
        "model 'new-vl' is not in the base: its requests are not judged; record a base with it"
    ]
    assert world.judge.insufficient  # 7 were judged
    world.judge.detector.lacks["new-vl"] = ("text_tokens",)  # type: ignore[attr-defined]
    assert world.judge.notes() == [
        "model 'new-vl': the base has no n_text_tokens: its requests are not judged; record a base with that"
    ]


def test_the_operator_is_shown_each_note_once() -> None:
    noted = Batch(no_requests(), notes=("file x is damaged",))
    assert World([noted, noted]).run(3).said == ["file x is damaged"]
