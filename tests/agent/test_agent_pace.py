"""The pause between two turns of the loop grows to its longest and stays, unless records come fast or rings are small."""

import pytest

from vtprof_agent.config import Config
from vtprof_agent.pace import next_pause_s

DEFAULT_RING, LEAST_S, MOST_S = 65_536, 0.01, 1.0


def _settled_s(records_per_s: float, *, capacity: int = DEFAULT_RING) -> list[float]:
    """Return the pauses that the loop comes to at a rate: of the last of many turns."""
    pauses = [LEAST_S]
    for _ in range(100):
        records = int(records_per_s * pauses[-1])
        pauses.append(
            next_pause_s(
                pauses[-1], records, filling=False, capacity=capacity, least_s=LEAST_S, most_s=MOST_S
            )
        )
    return pauses[-20:]


def test_a_node_at_a_thousand_records_a_second_is_read_once_a_second() -> None:
    """A turn has its own cost: with eight servers at 125 records a second it is paid as seldom as it may be."""
    assert set(_settled_s(1000)) == {MOST_S} == {Config().poll_max_s}


def test_an_idle_node_is_read_as_seldom_as_it_may_be() -> None:
    """Without records the pause doubles up to its longest: 10, 20, 40 ms, and so on."""
    pause_s, pauses = LEAST_S, []
    for _ in range(8):
        pause_s = next_pause_s(
            pause_s, 0, filling=False, capacity=DEFAULT_RING, least_s=LEAST_S, most_s=MOST_S
        )
        pauses.append(pause_s)
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0])


def test_records_that_come_fast_are_read_at_once_again() -> None:
    """At 20,000 records a second no pause follows a full turn, whatever the one before was."""
    assert min(_settled_s(20_000)) == LEAST_S
    assert max(_settled_s(20_000)) < 0.25


def test_a_ring_that_fills_is_read_at_once_again() -> None:
    """One ring of many may be filling while all together are slow."""
    assert (
        next_pause_s(1.0, 10, filling=True, capacity=DEFAULT_RING, least_s=LEAST_S, most_s=MOST_S) == LEAST_S
    )


@pytest.mark.parametrize(
    ("capacity", "longest_s"), [(65_536, 1.0), (32_768, 1.0), (16_384, 0.5), (1024, 1 / 32)]
)
def test_small_rings_are_read_more_often(capacity: int, longest_s: float) -> None:
    """A ring that holds half as much is full in half the time: 32,768 records a second fill none between two turns."""
    assert _settled_s(10, capacity=capacity) == pytest.approx([longest_s] * 20)
    assert longest_s * 32_768 <= capacity
