"""The life of an alert: told of once when it fires, once when it is over, in whatever order events and restarts come."""

import json
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given
from watch_fakes import DAY0_NS, alarm

from vtprof_analyzer.watch import wording
from vtprof_analyzer.watch.alerts import (
    KEPT_S,
    MOST_ALERTS,
    Alert,
    AlertBook,
    Notification,
    clean_labels,
    fingerprint,
)
from vtprof_analyzer.watch.wording import Labels

LABELS = Labels("chat", {})


def encode(model: str = "m", effect: float = 0.08) -> Alert:
    return wording.regression(LABELS, alarm(model=model, effect=effect))


def restarted(book: AlertBook) -> AlertBook:
    """Return the book as it is after a restart: through JSON."""
    fresh = AlertBook()
    fresh.restore(json.loads(json.dumps(book.state())))
    return fresh


@given(
    st.lists(
        st.tuples(st.sampled_from(["fire", "end", "restart", "later"]), st.sampled_from(["a", "b", "c"])),
        max_size=40,
    )
)
def test_every_firing_is_told_once_and_ends_once_whatever_comes_between(steps: list[tuple[str, str]]) -> None:
    book, now_s = AlertBook(), 1000.0
    told: list[Notification] = []
    fires: dict[str, bool] = {}
    for step, model in steps:
        alert = encode(model)
        if step == "fire":
            new = book.fire(alert, now_s)
            assert (new is not None) == (not fires.get(model, False))
            fires[model] = True
        elif step == "end":
            new = book.end(alert.fingerprint, DAY0_NS + 1, now_s)
            assert (new is not None) == fires.get(model, False)
            fires[model] = False
        elif step == "restart":
            new, book = None, restarted(book)
        else:
            new, now_s = None, now_s + KEPT_S + 1
            book.entries(now_s)
        if new is not None:
            told.append(new)
    ids = [one.id for one in told if one.status == "firing"]
    ended = [one.id for one in told if one.status == "resolved"]
    assert len(set(ids)) == len(ids)
    assert len(set(ended)) == len(ended) and set(ended) <= set(ids)
    assert {entry.alert.fingerprint for entry in book.firing()} == {
        encode(model).fingerprint for model, on in fires.items() if on
    }


def test_a_second_firing_of_the_same_alert_has_an_id_of_its_own() -> None:
    book = AlertBook()
    first = book.fire(encode(), 0.0)
    end = book.end(encode().fingerprint, DAY0_NS, 1.0)
    second = book.fire(encode(), 2.0)
    assert first is not None and end is not None and second is not None
    assert first.id == end.id != second.id


def test_a_firing_alert_keeps_its_beginning_and_takes_the_newest_numbers() -> None:
    book = AlertBook()
    book.fire(encode(effect=0.08), 0.0)
    book.fire(encode(effect=0.2), 1.0)
    (entry,) = book.firing()
    assert entry.alert.detail["effect_ratio"] == 0.2
    assert entry.fired_s == 0.0


def test_what_is_over_is_repeated_for_a_quarter_of_an_hour_and_then_forgotten() -> None:
    book = AlertBook()
    book.fire(encode(), 100.0)
    book.end(encode().fingerprint, DAY0_NS, 200.0)
    assert len(book.entries(200.0 + KEPT_S)) == 1
    assert book.entries(201.0 + KEPT_S) == ()


def test_an_end_never_lies_before_the_beginning() -> None:
    book = AlertBook()
    alert = encode()
    book.fire(alert, 0.0)
    told = book.end(alert.fingerprint, alert.began_unix_nano - 5, 1.0)
    assert told is not None and told.time_unix_nano == alert.began_unix_nano


def test_the_book_is_bounded_and_what_is_over_gives_way() -> None:
    book = AlertBook()
    for number in range(MOST_ALERTS):
        assert book.fire(encode(f"m{number}"), 0.0)
    assert book.fire(encode("one more"), 0.0) is None
    assert book.refused == 1
    book.end(encode("m5").fingerprint, DAY0_NS, 1.0)
    assert book.fire(encode("one more"), 0.0)
    assert len(book.entries(1.0)) == MOST_ALERTS


@pytest.mark.parametrize(
    "damage",
    [
        {"firings": "x"},
        {"firings": 1},
        {"firings": 1, "entries": [{}]},
        {"firings": 1, "entries": [None]},
        {"firings": 1, "entries": 7},
    ],
)
def test_a_state_that_is_none_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        AlertBook().restore(damage)


def test_the_same_labels_in_another_order_are_the_same_alert() -> None:
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})
    assert fingerprint({"a": "1", "b": "2"}) != fingerprint({"a": "12", "b": ""})


def test_a_label_of_others_has_no_control_characters_and_is_cut_but_stays_distinct() -> None:
    first, second = ("x" * 500 + end for end in "ab")
    (labelled,), (other,) = clean_labels({"model": first}), clean_labels({"model": second})
    assert len(labelled[1]) <= 128 and labelled != other
    assert clean_labels({"model": "a\x1b[31m\nb\ud800"}) == (("model", r"a\x1b[31m\nb\ud800"),)
    assert clean_labels({"model": ""}) == ()


@pytest.mark.parametrize("name", ["", "1a", "a-b", "__a", "ä", "a b", "a\n"])
def test_a_label_name_that_prometheus_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="label name"):
        clean_labels({name: "x"})


def test_text_of_others_in_an_alert_is_one_printable_line() -> None:
    alert = wording.regression(LABELS, alarm(model="evil\n\x1b]0;title\x07" + "y" * 5000))
    for text in (alert.summary, alert.description, *dict(alert.labels).values()):
        assert text.isprintable()
        assert len(text) <= 1001


def test_a_regression_is_told_with_phase_change_interval_time_and_evidence() -> None:
    alert = encode()
    assert alert.summary == "encode of m is 8.0 % slower at like work and load"
    assert (
        "+8.0 % (95 % interval +6.0 % to +10.0 %) against the base since about 2027-01-15 07:50:00 UTC"
        in (alert.description)
    )
    assert "judged by 900 requests" in alert.description and "a1, b2" in alert.description
    assert dict(alert.labels) == {
        "alertname": "VtprofRegression", "severity": "warning", "service": "chat", "phase": "encode",
        "kind": "shift", "model": "m",
    }  # fmt: skip


def test_a_lower_bound_and_a_tail_say_what_they_are() -> None:
    least = wording.regression(LABELS, replace(alarm(effect=19.67), at_least=True))
    assert least.summary == "encode of m is at least 1,967 % slower at like work and load"
    assert "At least: load that a slow engine makes" in least.description
    tail = wording.regression(
        LABELS, replace(alarm(effect=6.3), kind="tail", share_ratio=0.11, base_share_ratio=0.015)
    )
    expected = "encode of m: 11 % of requests take far longer than their work explains, 1.5 % in the base"
    assert tail.summary == expected


def test_numbers_that_are_none_become_unknown() -> None:
    alert = wording.regression(LABELS, alarm(effect=float("inf")))
    assert alert.detail["effect_ratio"] is None
    json.dumps(wording.document(Notification("firing", alert, DAY0_NS, 1)), allow_nan=False)
