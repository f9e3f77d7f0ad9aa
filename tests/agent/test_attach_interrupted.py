"""A signal that ends the agent waits until a borrowed thread has its own registers again."""

import signal
import threading
from collections.abc import Iterator

import pytest

from vtprof_agent.attach.scheduling import ENDING, uninterrupted


class Ended(Exception):
    """What the agent's own handler does."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    def end(number: int, _frame: object) -> None:
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_signal_takes_effect_at_the_end_and_not_before(number: signal.Signals) -> None:
    steps = []
    with pytest.raises(Ended) as caught, uninterrupted():
        steps.append("registers changed")
        signal.raise_signal(number)
        steps.append("registers restored")
    assert (steps, caught.value.args) == (["registers changed", "registers restored"], (number,))


def test_without_a_signal_the_handlers_are_the_same_again() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with uninterrupted():
        assert [signal.getsignal(number) for number in ENDING] != before
    assert [signal.getsignal(number) for number in ENDING] == before


def test_one_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with uninterrupted():
        signal.raise_signal(signal.SIGHUP)


def test_outside_the_main_thread_it_changes_nothing() -> None:
    found = []

    def run() -> None:
        with uninterrupted():
            found.append([signal.getsignal(number) for number in ENDING])

    before = [signal.getsignal(number) for number in ENDING]
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]
