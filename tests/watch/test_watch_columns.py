"""Columns that BASE or the stream lacks: no slower engine, nothing hidden, told in a line, the same however it comes."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from regress_days.engine import slower
from regress_days.noise import USUAL
from regress_days.services import service, stream

from vtprof_analyzer.regress.base_model import CostModel
from vtprof_analyzer.regress.common import without
from vtprof_analyzer.regress.requests import Requests, joined, no_requests
from vtprof_analyzer.watch.columns import COLUMNS, Columns
from vtprof_analyzer.watch.detector import Detector
from vtprof_analyzer.watch.events import FOREVER_NS, Alarm, Event, LeftOut, LoadUnknown, Over, Unlike
from vtprof_analyzer.watch.wording import left_out, load_unknown, unknown_model

SEED = 4711
COUNT = 5_000
CHANGE = 2_000
MODEL = "vision-7b"
PARTS = ("preprocess_ms", "queue_ms", "encode_ms", "prefill_ms")
REMOVED = (
    *((name,) for name in (*PARTS, "ttft_ms", "tpot_ms", "output_tokens", "kv_bytes", "images", "cached_tokens")),
    ("encoder_hit",), ("encode_ms", "prefill_ms"), PARTS, ("images", "cached_tokens", "encoder_hit"),
)  # fmt: skip
"""Each column that a table may lack, and what lacks together."""
LOST = {
    ("preprocess_ms",): {"preprocess", "unexplained"},
    ("queue_ms",): {"unexplained"},
    ("encode_ms",): {"encode", "unexplained"},
    # Decode meets prefills, and where encodes stand follows from them.
    ("prefill_ms",): {"encode", "prefill", "decode", "unexplained"},
    ("ttft_ms",): {"unexplained"},
    ("tpot_ms",): {"decode"},
    ("output_tokens",): {"decode", "kv"},
    ("kv_bytes",): {"kv"},
    ("encode_ms", "prefill_ms"): {"encode", "prefill", "decode", "unexplained"},
    PARTS: {"preprocess", "encode", "prefill", "decode", "unexplained"},
}
UNKNOWN = (
    "in_flight",
    *PARTS,
    "ttft_ms",
    "tpot_ms",
    "output_tokens",
    "kv_bytes",
    "unexplained_ms",
    *REMOVED[-1],
)
ALL = {"preprocess", "encode", "prefill", "decode", "unexplained", "kv"}
UNCHANGED = 0.03
"""Runs of one engine differ by less: 0.7 % noise from run to run, and 0.3 % to 0.6 % of the mean of 80 blocks."""


@cache
def service_run(number: int, slow: str = "", ratio: float = 0.0, first: int = CHANGE) -> Requests:
    (before,) = service(np.random.default_rng([SEED, 0])).values()
    after = replace(before, engine=slower(before.engine, slow, ratio)) if slow else None
    return stream(before, SEED, number, COUNT, USUAL, after, first if slow else 0).requests


@cache
def fitted(*columns: str) -> tuple[CostModel, Requests]:
    base = lacking(service_run(0), *columns)
    return CostModel.fit([base]), base


def lacking(requests: Requests, *columns: str) -> Requests:
    """Return requests without these columns; what is left of TTFT is not known then, as a reader has it."""
    parts = set(columns) & {*PARTS, "ttft_ms"}
    return without(requests, [*columns, *(["unexplained_ms"] if parts else [])])


def partly(requests: Requests, column: str, share: float) -> Requests:
    values = getattr(requests, column).copy()
    values[np.random.default_rng(5).random(len(values)) < share] = np.nan
    return replace(requests, **{column: values})


def detector(*columns: str) -> Detector:
    model, base = fitted(*columns)
    return Detector(model, runs=[base])


def effects(one: Detector) -> dict[str, float]:
    return {each.phase: each.effect_ratio for each in one.standings() if each.effect_ratio is not None}


def test_the_same_engine_with_all_columns_has_all_phases_and_no_note() -> None:
    one = detector()
    assert one.add(service_run(1), FOREVER_NS) == []
    assert set(effects(one)) == ALL and one.left_out == [] and one.load_unknown == []


@pytest.mark.parametrize(
    ("columns", "lacking_columns", "phases"),
    [
        (("prefill_ms",), ("prefill_ms",), {"encode", "decode"}),
        # Requests in flight tell as much as lengths and times of decodes; without both, prefill meets nobody knows what.
        (("output_tokens",), (), set()),
        (("output_tokens", "in_flight"), ("output_tokens",), {"encode", "prefill"}),
        (("tpot_ms", "in_flight"), ("tpot_ms",), {"encode", "prefill"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_where_neither_side_tells_the_load_it_is_said_of_which_phases(
    columns: tuple[str, ...], lacking_columns: tuple[str, ...], phases: set[str]
) -> None:
    one = detector(*columns)
    one.add(lacking(service_run(1), *columns), FOREVER_NS)
    assert one.left_out == []
    found = [(each.columns, set(each.phases)) for each in one.load_unknown]
    assert found == ([(lacking_columns, phases)] if phases else [])


@pytest.mark.parametrize("columns", REMOVED, ids="+".join)
def test_a_column_that_the_stream_lacks_is_no_slower_engine_and_hides_none(columns: tuple[str, ...]) -> None:
    one = detector()
    assert one.add(lacking(service_run(1), *columns), FOREVER_NS) == []
    found = effects(one)
    assert set(found) == ALL - LOST.get(columns, set())
    assert all(abs(effect) < UNCHANGED for effect in found.values()), found
    (told,) = one.left_out
    assert set(columns) <= set(told.unlike.base_alone) and told.unlike.requests_alone == ()
    assert set(told.lost) == ALL - set(found) and set(told.judged) == set(found)


@pytest.mark.parametrize("columns", [*REMOVED, ("in_flight",)], ids="+".join)
def test_a_column_that_base_lacks_is_no_other_engine(columns: tuple[str, ...]) -> None:
    one = detector(*columns)
    assert one.add(service_run(1), FOREVER_NS) == []
    found = effects(one)
    assert all(abs(effect) < UNCHANGED for effect in found.values()), found
    (told,) = one.left_out
    assert set(columns) <= set(told.unlike.requests_alone)
    assert set(found) == set(told.judged)
    assert one.counts["blocks not comparable"] == 0


@pytest.mark.parametrize("columns", [("text_tokens",), ("visual_tokens",)])
def test_without_what_requests_ask_for_nothing_is_judged_and_that_is_said(columns: tuple[str, ...]) -> None:
    one = detector()
    assert one.add(lacking(service_run(1), *columns), FOREVER_NS) == []
    (told,) = one.left_out
    assert told.judged == () and set(told.lost) == ALL
    assert one.counts["judged"] == 0 and one.counts["not comparable"] == COUNT


@pytest.mark.parametrize(("columns", "phase"), [(("encode_ms",), "prefill"), (("cached_tokens",), "encode")])
def test_a_slower_phase_is_found_without_the_columns_of_others(columns: tuple[str, ...], phase: str) -> None:
    one = detector()
    events = one.add(lacking(service_run(1, phase, 0.15), *columns), FOREVER_NS)
    assert [(each.phase, type(each)) for each in events] == [(phase, Alarm)]
    assert events[0].time_unix_nano > service_run(1, phase, 0.15).start_ns[CHANGE]


@pytest.mark.parametrize(("column", "share", "out"), [
    ("prefill_ms", 0.03, False), ("prefill_ms", 0.3, True), ("tpot_ms", 0.03, False), ("tpot_ms", 0.3, True),
    ("cached_tokens", 0.03, False), ("cached_tokens", 0.3, True), ("text_tokens", 0.3, True),
    ("encoder_hit", 0.3, False), ("encoder_hit", 0.7, True), ("kv_bytes", 0.3, False), ("kv_bytes", 0.7, True),
])  # fmt: skip
def test_what_some_requests_lack_is_left_out_where_others_load_or_nearly_all_depends_on_it(
    column: str, share: float, out: bool
) -> None:
    one = detector()
    assert one.add(partly(service_run(1), column, share), FOREVER_NS) == []
    assert [each.unlike.base_alone[:1] for each in one.left_out] == ([(column,)] if out else [])
    assert all(abs(effect) < UNCHANGED for effect in effects(one).values())


def told(event: Event) -> tuple[Any, ...]:
    """Return all of an event; of sizes, which hang on loads of the table at hand, a few digits."""
    return (
        type(event), event.phase, event.kind, event.model, event.time_unix_nano, event.requests,
        getattr(event, "began_unix_nano", None), getattr(event, "evidence", None),
        round(getattr(event, "effect_ratio", 0.0), 3),
    )  # fmt: skip


def gone_and_back(column: str, given: Requests, first: int, last: int) -> Requests:
    values = getattr(given, column).copy()
    values[first:last] = np.nan
    return replace(given, **{column: values})


def test_a_column_that_comes_back_is_watched_anew() -> None:
    one = detector()
    given = gone_and_back("prefill_ms", service_run(1), 0, 2_000)
    assert one.add(given.select(slice(0, 2_000)), int(given.start_ns[2_000])) == []
    assert [each.unlike.base_alone for each in one.left_out] == [("prefill_ms",)]
    assert "prefill" not in effects(one)
    assert one.add(given.select(slice(2_000, None)), FOREVER_NS) == []
    assert one.left_out == [] and set(effects(one)) == ALL


def test_an_alarm_of_a_phase_that_is_recorded_no_longer_ends_and_comes_again_with_it() -> None:
    given = gone_and_back("encode_ms", service_run(1, "encode", 0.5, 500), 2_500, 3_500)
    one = detector()
    events = one.add(given, FOREVER_NS)
    assert [(each.phase, type(each)) for each in events] == [
        ("encode", Alarm),
        ("encode", Over),
        ("encode", Alarm),
    ]
    places = np.searchsorted(given.start_ns, [each.time_unix_nano for each in events])
    assert places[0] < 2_500 <= places[1] < 2_600 and places[2] > 3_500
    assert isinstance(events[1], Over) and events[1].last is not None and events[1].requests == 0
    # Nothing got better: so it must not read.
    assert events[1].why == "no_longer_judged" and events[1].unlike == Unlike(base_alone=("encode_ms",))
    (told_gap,) = one.gaps
    assert told_gap.model == MODEL and told_gap.unlike == Unlike(base_alone=("encode_ms",))
    assert set(told_gap.phases) == {"encode", "unexplained"}
    ends = np.searchsorted(given.start_ns, [told_gap.begin_ns, told_gap.end_ns])
    assert 2_500 < ends[0] < 2_600 and 3_500 < ends[1] < 3_800
    # Of other phases nothing begins anew: the same blocks as where nothing was gone.
    whole = detector()
    whole.add(service_run(1, "encode", 0.5, 500), FOREVER_NS)
    blocks = [{each.phase: each.blocks for each in both.standings()} for both in (one, whole)]
    assert blocks[0]["preprocess"] == blocks[1]["preprocess"] and blocks[0]["kv"] == blocks[1]["kv"]
    assert blocks[0]["encode"] < blocks[1]["encode"]


def test_an_alarm_of_a_phase_that_is_held_against_something_else_says_so() -> None:
    # Encodes are load that prefill meets: without them it is held against a base without, from there on.
    given = gone_and_back("encode_ms", service_run(1, "prefill", 0.5, 500), 2_500, COUNT)
    one = detector()
    ends = [each for each in one.add(given, FOREVER_NS) if isinstance(each, Over)]
    assert "prefill" in {each.phase for each in ends}
    assert {(each.why, each.unlike) for each in ends} == {("judged_anew", Unlike(base_alone=("encode_ms",)))}
    assert "prefill" in {each.phase for each in one.firing()}
    assert one.gaps == []


def scaled(requests: Requests, column: str, factor: float) -> Requests:
    return replace(requests, **{column: getattr(requests, column) * factor})


TIMES = ("preprocess_ms", "encode_ms", "prefill_ms", "tpot_ms", "kv_bytes")


@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e-6])
@pytest.mark.parametrize("column", TIMES)
def test_a_column_in_other_units_is_left_out_and_said(column: str, factor: float) -> None:
    one = detector()
    assert one.add(scaled(service_run(1), column, factor), FOREVER_NS) == []
    (told,) = one.left_out
    assert told.unlike == Unlike(units=(column,))
    found = effects(one)
    assert set(found) == ALL - LOST.get((column,), set())
    assert all(abs(effect) < UNCHANGED for effect in found.values()), found


@pytest.mark.parametrize("column", [*TIMES, "ttft_ms"])
def test_a_column_that_is_all_zero_on_one_side_is_left_out_and_said(column: str) -> None:
    zero = scaled(service_run(1), column, 0.0)
    one = detector()
    assert one.add(zero, FOREVER_NS) == []
    assert [each.unlike for each in one.left_out] == [Unlike(zero=(column,))]
    lost = LOST.get((column,), set())
    assert set(one.left_out[0].lost) == lost
    assert all(abs(effect) < UNCHANGED for effect in effects(one).values()), effects(one)
    base = scaled(service_run(0), column, 0.0)
    other = Detector(CostModel.fit([base]), runs=[base])
    assert other.add(service_run(1), FOREVER_NS) == []
    assert [each.unlike for each in other.left_out] == [Unlike(zero_in_base=(column,))]
    assert all(abs(effect) < UNCHANGED for effect in effects(other).values()), effects(other)


def of_tables(number: int, count: int = 2_000, **columns: Any) -> Requests:
    """Return requests of which each has text, outputs and a queue, every other one an image: nothing else is zero."""
    rng = np.random.default_rng([SEED, number])
    image, noise = np.arange(count) % 2, rng.uniform(0.95, 1.05, (4, count))
    visual = image * rng.choice([256.0, 512.0, 1024.0], count)
    text, output = rng.integers(50, 500, count).astype(float), rng.integers(20, 100, count).astype(float)
    given = service_run(1).select(np.zeros(count, np.int64))
    queue = rng.exponential(3.0, count)
    phases = {
        "preprocess_ms": (5 + 0.02 * visual) * noise[0],
        "queue_ms": queue,
        "encode_ms": 0.05 * visual * noise[1],
        "prefill_ms": (8 + 0.03 * (text + visual)) * noise[2],
    }
    named: dict[str, Any] = {
        "ids": np.arange(count).astype(str), "start_ns": (1 + np.arange(count)) * 500_000_000, "text_tokens": text,
        "visual_tokens": visual, "images": image.astype(float), "output_tokens": output, **phases,
        "ttft_ms": 2.0 * noise[3] + sum(phases.values()), "tpot_ms": 6 * noise[3],
    }  # fmt: skip
    found = replace(
        without(given, UNKNOWN),
        **{**named, **{name: change(named[name]) for name, change in columns.items()}},
    )
    parts = sum(getattr(found, name) for name in PARTS)
    return replace(found, unexplained_ms=np.maximum(found.ttft_ms - parts, 0.0))


def nothing(values: Any) -> Any:
    return values * 0.0


LOST_BY_ZERO = {
    "queue_ms": {"unexplained"}, "images": set[str](), "output_tokens": {"encode", "prefill", "decode"},
    "visual_tokens": ALL - {"kv"}, "text_tokens": ALL - {"kv"},
}  # fmt: skip
"""Without requests in flight lengths of decodes are the load that encodes and prefills meet."""


@pytest.mark.parametrize("column", LOST_BY_ZERO)
def test_a_queue_or_work_that_is_all_zero_on_one_side_is_left_out_and_said(column: str) -> None:
    whole, zero = of_tables(0), of_tables(0, **{column: nothing})
    one = Detector(CostModel.fit([whole]), runs=[whole])
    assert one.add(of_tables(1), FOREVER_NS) == [] and one.left_out == []
    one = Detector(CostModel.fit([whole]), runs=[whole])
    assert one.add(of_tables(1, **{column: nothing}), FOREVER_NS) == []
    (told_of,) = one.left_out
    assert told_of.unlike == Unlike(zero=(column,)) and set(told_of.lost) == LOST_BY_ZERO[column]
    other = Detector(CostModel.fit([zero]), runs=[zero])
    assert other.add(of_tables(1), FOREVER_NS) == []
    assert [each.unlike for each in other.left_out] == [Unlike(zero_in_base=(column,))]


@pytest.mark.parametrize(
    ("pair", "lost"),
    [(("tpot_ms", "output_tokens"), {"decode", "kv"}), (("visual_tokens", "images"), ALL)],
    ids="+".join,
)
def test_what_is_all_zero_together_is_left_out_and_said_where_a_third_column_tells_otherwise(
    pair: tuple[str, ...], lost: set[str]
) -> None:
    """A first token tells of outputs, an encode of images. Before, both were told as slower phases."""
    one = detector()
    zero = replace(service_run(1), **{name: nothing(getattr(service_run(1), name)) for name in pair})
    assert one.add(zero, FOREVER_NS) == []
    assert [(each.unlike, set(each.lost)) for each in one.left_out] == [(Unlike(zero=pair), lost)]
    assert all(abs(effect) < UNCHANGED for effect in effects(one).values()), effects(one)
    base = of_tables(0, **dict.fromkeys(pair, nothing))
    other = Detector(CostModel.fit([base]), runs=[base])
    assert other.add(of_tables(1), FOREVER_NS) == []
    assert [each.unlike for each in other.left_out] == [Unlike(zero_in_base=pair)]


def test_a_queue_in_seconds_is_left_out_and_said_and_less_of_a_queue_is_none() -> None:
    whole = of_tables(0)
    one = Detector(CostModel.fit([whole]), runs=[whole])
    assert one.add(of_tables(1, queue_ms=lambda values: values / 1e3), FOREVER_NS) == []
    assert [(each.unlike, each.lost) for each in one.left_out] == [
        (Unlike(units=("queue_ms",)), ("unexplained",))
    ]
    # Less of a wait, and TTFT is the shorter by it: nobody waits.
    for part in (1e-3, 1e-5):
        idle = of_tables(1)
        waits = idle.queue_ms * part
        idle = replace(idle, ttft_ms=idle.ttft_ms - idle.queue_ms + waits, queue_ms=waits)
        one = Detector(CostModel.fit([whole]), runs=[whole])
        assert one.add(idle, FOREVER_NS) == [] and one.left_out == []


def test_where_nobody_counts_images_encodes_tell_that_their_tokens_are_zero() -> None:
    base, given = (lacking(one, "images") for one in (of_tables(0), of_tables(1, visual_tokens=nothing)))
    columns = Columns([base])
    columns.take(given)
    assert columns.unlike(MODEL, ["visual_tokens"]) == Unlike(zero=("visual_tokens",))


def test_no_work_that_nothing_contradicts_is_no_column_that_has_gone() -> None:
    columns = Columns([of_tables(0)])
    # Text alone, and requests that were cut off before their first token.
    text = of_tables(1, visual_tokens=nothing, images=nothing, encode_ms=nothing)
    assert columns.take(text) == len(text)
    failed = of_tables(1, output_tokens=nothing, tpot_ms=lambda values: values * np.nan)
    assert columns.left_out(MODEL) == frozenset()
    columns.take(failed.select(slice(0, 300)))
    assert "output_tokens" not in columns.left_out(MODEL)
    failed = of_tables(2, output_tokens=nothing, tpot_ms=nothing)
    columns, given = Columns([of_tables(0)]), replace(failed, ttft_ms=failed.ttft_ms * np.nan)
    while len(given):
        given = given.select(slice(columns.take(given), None))
    assert columns.left_out(MODEL) == {"ttft_ms", "unexplained_ms"}


@pytest.mark.parametrize("column", ["queue_ms", "visual_tokens"])
def test_what_was_zero_for_a_while_is_compared_again(column: str) -> None:
    columns = Columns([of_tables(0)])
    columns.take(of_tables(1, **{column: nothing}))
    assert column in columns.left_out(MODEL)
    given = of_tables(2)
    while len(given) and column in columns.left_out(MODEL):
        given = given.select(slice(columns.take(given), None))
    # ln(0.8 / 0.005) = 5.075 a request: back after 4 of each kind.
    assert 2_000 - len(given) <= 8


def test_an_engine_that_is_very_much_slower_is_no_other_unit() -> None:
    one = detector()
    events = one.add(service_run(1, "encode", 19.0), FOREVER_NS)
    assert one.left_out == [] and one.gaps == []
    assert "encode" in {each.phase for each in events if isinstance(each, Alarm)}


@pytest.mark.parametrize(("value", "goes", "comes"), [
    # ln(0.9 / 0.1) = 2.197 a request: 20 after 10, either way.
    (5e-3, 10, 10), (4e3, 10, 10),
    # Half as fast again and a thousandfold is yet another unit; five times is not, nor is a factor of 300.
    (7e3, 10, 10), (25e3, 200, 0), (1.5e3, 200, 0),
    # ln(0.995 / 0.2) = 1.604 a request: 20 after 13. ln(0.8 / 0.005) = 5.075: after 4.
    (0.0, 13, 4),
])  # fmt: skip
def test_so_many_requests_in_another_unit_or_without_time_decide(value: float, goes: int, comes: int) -> None:
    columns = Columns([simple(500, tpot_ms=5.0)])
    assert columns.take(simple(200, tpot_ms=value)) == goes
    assert ("tpot_ms" in columns.left_out(MODEL)) == (goes < 200)
    if comes:
        assert columns.take(simple(200, tpot_ms=5.0)) == comes
    assert columns.left_out(MODEL) == frozenset()


def test_what_is_zero_now_and_then_is_no_column_that_has_gone() -> None:
    # A third of BASE's encodes took no time, as an unrecorded cache held them: a burst of such is nothing.
    columns = Columns([joined([media(400, 4.0), media(200, 0.0)])])
    assert columns.take(media(300, 0.0)) == 300
    assert columns.left_out(MODEL) == frozenset()


def test_a_state_of_before_there_were_other_tests_is_gone_on_from() -> None:
    one = Columns([simple(500, prefill_ms=5.0)])
    one.take(simple(9))
    state = one.state()
    absent = len(COLUMNS)
    older = {MODEL: {name: [row[:absent] for row in rows] for name, rows in state[MODEL].items()}}
    another = Columns([simple(500, prefill_ms=5.0)])
    another.restore(older)
    assert another.left_out(MODEL) == one.left_out(MODEL) != frozenset()
    assert another.take(simple(200, prefill_ms=5.0)) == 90


def test_how_requests_are_split_and_when_it_is_restarted_changes_nothing() -> None:
    given = gone_and_back("encode_ms", service_run(1, "encode", 0.5, 500), 2_500, 3_500)
    given = gone_and_back("ttft_ms", gone_and_back("cached_tokens", given, 1_000, 4_000), 3_000, 3_300)
    given = replace(
        given,
        prefill_ms=np.where(
            (given.start_ns > given.start_ns[1_500]) & (given.start_ns < given.start_ns[2_000]),
            given.prefill_ms / 1e3,
            given.prefill_ms,
        ),
    )
    given = replace(
        given, preprocess_ms=np.where(given.start_ns > given.start_ns[4_200], 0.0, given.preprocess_ms)
    )
    whole = detector()
    expected = whole.add(given, FOREVER_NS)
    assert len(expected) >= 3
    rng = np.random.default_rng(3)
    one, found = detector(), list[Event]()
    places = np.sort(rng.choice(COUNT, 30, replace=False)).tolist()
    for begin, end in zip([0, *places], [*places, COUNT], strict=True):
        settled = int(given.start_ns[end]) if end < COUNT else FOREVER_NS
        found += one.add(given.select(slice(begin, end)), settled)
        if rng.random() < 0.3:
            state: dict[str, Any] = json.loads(json.dumps(one.state()))
            one = detector()
            one.restore(state)
            assert json.loads(json.dumps(one.state())) == state
    assert [told(each) for each in found] == [told(each) for each in expected]
    assert one.counts == whole.counts and one.left_out == whole.left_out
    assert {why for each in whole.gaps for why, names in each.unlike._asdict().items() if names} == {
        "base_alone",
        "units",
    }


def test_a_state_with_other_columns_is_refused() -> None:
    one = detector()
    state = one.state()
    state["columns"][MODEL]["evidence"] = [[0]]
    with pytest.raises(ValueError):
        detector().restore(state)


def simple(count: int, **columns: Any) -> Requests:
    """Return text requests of which nothing is known but these columns."""
    given = service_run(1).select(np.flatnonzero(service_run(1).visual_tokens == 0)[:count])
    return replace(
        without(given, UNKNOWN), **{name: np.full(count, value) for name, value in columns.items()}
    )


@pytest.mark.parametrize(("column", "goes", "comes"), [
    # ln(0.216 / 0.02) = 2.38 a request without: 20 after 9. ln(0.98 / 0.784) = 0.223 a request with: 20 after 90.
    ("prefill_ms", 9, 90),
    # ln(0.706 / 0.216) = 1.184: 20 after 17. ln(0.784 / 0.294) = 0.981: 20 after 21.
    ("kv_bytes", 17, 21),
])  # fmt: skip
def test_so_many_requests_without_a_column_and_with_it_decide(column: str, goes: int, comes: int) -> None:
    columns = Columns([simple(500, **{column: 5.0})])
    assert columns.take(simple(200)) == goes
    assert column in columns.left_out(MODEL)
    assert columns.take(simple(200, **{column: 5.0})) == comes
    assert columns.left_out(MODEL) == frozenset()
    # ln(0.05 / 0.5) = 2.303 a request with what BASE has not: 20 after 9.
    columns = Columns([simple(500)])
    assert columns.take(simple(200, **{column: 5.0})) == 9


def test_zero_and_nothing_of_what_text_has_not_are_the_same() -> None:
    for base, new in ((0.0, np.nan), (np.nan, 0.0)):
        columns = Columns([joined([simple(300, encode_ms=base), media(300, 4.0)])])
        assert columns.take(simple(300, encode_ms=new)) == 300
        assert columns.left_out(MODEL) == frozenset()


def media(count: int, encode_ms: float) -> Requests:
    return replace(simple(count, encode_ms=encode_ms), visual_tokens=np.full(count, 100.0))


def test_other_users_and_answers_of_one_token_take_no_column_away() -> None:
    base = joined([simple(300, tpot_ms=9.0, output_tokens=5.0), media(300, 4.0)])
    columns = Columns([base])
    # BASE has encode times of requests with media alone: more text is no column that has gone.
    assert columns.take(simple(300, tpot_ms=9.0, output_tokens=5.0)) == 300
    assert columns.take(simple(300, output_tokens=1.0)) == 300
    assert columns.left_out(MODEL) == frozenset()


def test_models_lose_columns_apart() -> None:
    other = replace(simple(100, prefill_ms=5.0), models=("other",))
    columns = Columns([joined([simple(100, prefill_ms=5.0), other])])
    both = joined([simple(100), other])
    taken = columns.take(both)
    assert columns.left_out(MODEL) and columns.left_out("other") == frozenset()
    assert columns.take(both.select(slice(taken, None))) == len(both) - taken
    assert (
        columns.left_out("third") == frozenset() and columns.of_base("third", ["prefill_ms"]) == frozenset()
    )
    assert Columns([no_requests()]).take(both) == len(both)


def test_a_base_that_lacks_a_column_of_work_is_told_by_that_column_and_not_by_the_model() -> None:
    base = lacking(of_tables(0), "text_tokens")
    one = Detector(CostModel.fit([base]), runs=[base])
    one.add(of_tables(1), FOREVER_NS)
    assert one.unknown_models == {MODEL: 2_000}
    assert one.base_lacks(MODEL) == ("text_tokens",) and one.base_lacks("other") is None
    few = of_tables(0, 30)
    assert Detector(CostModel.fit([few]), runs=[few]).base_lacks(MODEL) == ()
    assert unknown_model("qwen", ("text_tokens",)) == (
        "model 'qwen': the base has no n_text_tokens: its requests are not judged; record a base with that"
    )
    assert unknown_model("qwen", ()) == (
        "model 'qwen': the base has too few requests of it with times: its requests are not judged; record a base with more"
    )


def test_of_what_is_zero_from_some_time_on_the_time_is_told() -> None:
    base, given = of_tables(0), of_tables(1)
    half = replace(given, prefill_ms=np.where(np.arange(2_000) < 1_000, given.prefill_ms, 0.0))
    one = Detector(CostModel.fit([base]), runs=[base])
    one.add(half, FOREVER_NS)
    (told_of,) = one.left_out
    ((column, since_ns),) = told_of.since
    # ln(0.995 / 0.2) = 1.604 a request, and each kind is every other one: sure 13 zeros of a kind after the 1,000th.
    assert column == "prefill_ms" and 1_013 <= np.searchsorted(given.start_ns, since_ns) <= 1_026
    assert left_out(told_of).startswith(
        # 1,025th request, one each 0.5 s.
        "model 'vision-7b': prefill_ms of its requests have been all zero since about 1970-01-01 00:08:32 UTC, the base's "
    )


def test_what_is_left_out_is_told_in_a_line() -> None:
    assert left_out(LeftOut("qwen", Unlike(("encode_ms",), ("images",)), ("encode",), ("prefill", "kv"))) == (
        "model 'qwen': the base has encode_ms, its requests do not; its requests have n_images, the base does not; "
        "not watched: encode; watched without: prefill, kv"
    )
    assert left_out(LeftOut("", Unlike(("text_tokens",)), ("kv",), ())) == (
        "requests without a model's name: the base has n_text_tokens, its requests do not; nothing of it is watched"
    )
    assert load_unknown(LoadUnknown("qwen", ("output_tokens",), ("encode", "prefill"))) == (
        "model 'qwen': neither the base nor its requests have n_output_tokens: more load can look like a slower encode or"
        " prefill; record it on both sides"
    )
