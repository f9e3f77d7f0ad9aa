"""A batch that cannot be put into a message is dropped and counted; what comes after it arrives."""

from pathlib import Path

import pytest
from collectors import http_collector, metrics, span

from vtprof_agent.export import json_lines, parcel
from vtprof_agent.export.destination import Batch, Ledger
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.rotating import Rotation


def _counts(outbox: Ledger) -> tuple[int, int, int, int]:
    return outbox.spans_delivered, outbox.spans_dropped, outbox.metrics_dropped, outbox.settled()


def test_metric_points_that_cannot_be_encoded_cost_neither_their_spans_nor_the_next_batch() -> None:
    with http_collector() as seen:
        destination = OtlpDestination(seen.url)
        destination.submit(Batch(1, [span(1)], metrics(2**70)))
        destination.submit(Batch(2, [span(2)], metrics()))
        destination.close(20.0)
        assert seen.calls == ["traces", "traces", "metrics"]
        assert _counts(destination.outbox) == (2, 0, 1, 2)


def test_spans_that_cannot_be_encoded_do_not_hold_up_the_next_batch() -> None:
    with http_collector() as seen:
        destination = OtlpDestination(seen.url)
        destination.submit(Batch(1, [span(1, 2**70)]))
        destination.submit(Batch(2, [span(2)]))
        destination.close(20.0)
        assert seen.calls == ["traces"]
        assert _counts(destination.outbox) == (1, 1, 0, 2)


def test_a_message_beyond_all_bounds_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MAX_MESSAGE_BYTES", 1000)
    encoded = parcel.encode(Batch(1, [span(number) for number in range(1, 100)]))
    assert (encoded.parcels, encoded.spans_refused) == ((), 99)


def test_a_collector_that_is_away_is_waited_for() -> None:
    destination = OtlpDestination("http://127.0.0.1:9", timeout_s=0.2, queued_batches=2)
    destination.submit(Batch(1, [], metrics()))
    assert destination.outbox.settled() == 0
    destination.close(0.1)
    assert (destination.outbox.metrics_dropped, destination.outbox.settled()) == (1, 0)


def test_files_go_on_after_what_cannot_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = FileDestination(tmp_path, "x", Rotation(1 << 30, 3600.0, None))

    def fails(data: object) -> object:
        raise TypeError("no")

    for number, encoder in ((1, "encode_metrics"), (2, "_plain")):
        with monkeypatch.context() as patch:
            patch.setattr(json_lines, encoder, fails)
            destination.submit(Batch(number, [span(number)], metrics()))
    destination.submit(Batch(3, [span(3)], metrics()))
    destination.close(1.0)
    assert _counts(destination.outbox) == (2, 1, 1, 3)
