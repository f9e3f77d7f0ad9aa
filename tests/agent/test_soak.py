"""A short soak of the real agent: a Collector away, kill -9 twice, a full disk, SIGTERM, and everything is accounted for."""

import pytest
from soak_scenario import FULL_DISK, Soak, SoakResult, SoakSize


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> SoakResult:
    """Run it once, with the counters of three GPUs."""
    return Soak(tmp_path_factory.mktemp("soak"), SoakSize(), gpus=3).run()


def test_every_span_that_the_records_imply_reaches_the_collector_or_is_counted_as_lost(
    soaked: SoakResult,
) -> None:
    assert sum(life["spans_dropped"] for life in soaked.lives) == 0
    assert soaked.received.spans == soaked.implied, soaked.log


def test_the_files_hold_the_same_though_their_disk_was_full(soaked: SoakResult) -> None:
    assert FULL_DISK in soaked.log
    assert soaked.files.spans == soaked.implied, soaked.log


def test_spans_went_through_the_spool_while_the_collector_was_away(soaked: SoakResult) -> None:
    assert min(soaked.spooled_bytes) > 0, soaked.log
    assert "of an earlier agent are delivered first" in soaked.log


def test_what_is_exported_again_after_a_kill_is_the_same_to_the_byte(soaked: SoakResult) -> None:
    assert soaked.files.repeats > 0, "nothing came again"
    assert soaked.received.conflicts == []
    assert soaked.files.conflicts == []


def test_records_that_were_overwritten_while_no_agent_ran_are_counted(soaked: SoakResult) -> None:
    written, capacity = soaked.overrun["written"], soaked.overrun["capacity"]
    told = soaked.lives[-1]
    assert told["records_lost"] >= written - capacity
    assert told["records_read"] + told["records_lost"] == soaked.records + written
