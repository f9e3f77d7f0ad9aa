"""The ring between real processes: ten million records, a reader that keeps up, one that does not, writers killed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vtprof_agent.inbox.discovery import Liveness, process_alive
from vtprof_agent.inbox.ring_reader import Batch, RingReader
from vtprof_schemas import records

DRIVER = Path(__file__).with_name("ring_driver.py")
TEN_MILLION = 10_000_000
SLOT = np.dtype(
    [
        ("crc", "<u4"),
        ("kind", "<u2"),
        ("flags", "<u2"),
        ("sequence", "<u8"),
        ("fields", "<i8", 9),
        ("rest", "V40"),
    ]
)


def start(mode: str, directory: Path, *numbers: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(DRIVER), mode, str(directory), *map(str, numbers)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def assert_payloads_follow_from_numbers(batch: Batch) -> "np.ndarray":
    slots = np.frombuffer(batch.raw, dtype=SLOT)
    n = slots["sequence"].astype(np.int64)
    expected = np.column_stack([n, 3 * n, -n, n + 7, n, n, n, n, n])
    assert np.array_equal(slots["fields"], expected)
    assert np.all(slots["kind"] == records.PREFILL.code)
    return n


@pytest.mark.slow
def test_reader_that_keeps_up_gets_each_of_ten_million_records_once(tmp_path: Path) -> None:
    with start("paced", tmp_path / "rings", records.DEFAULT_CAPACITY, TEN_MILLION) as writer:
        assert writer.stdin and writer.stdout
        reader = RingReader.open(Path(writer.stdout.readline().decode().strip()))
        read = 0
        while read < TEN_MILLION:
            writer.stdin.write(b".")
            writer.stdin.flush()
            target = int(writer.stdout.readline())
            while read < target:
                batch = reader.read(16_384)
                assert (batch.lost, batch.torn, batch.voided) == (0, 0, 0)
                assert batch.count == batch.passed > 0
                numbers = assert_payloads_follow_from_numbers(batch)
                assert numbers[0] == read + 1
                assert np.all(np.diff(numbers) == 1)
                read += batch.count
        assert read == TEN_MILLION
        assert reader.read(1, writer_gone=True).passed == 0
        reader.close()


@pytest.mark.slow
def test_reader_that_falls_behind_accounts_for_each_of_ten_million_records(tmp_path: Path) -> None:
    returned = lost = torn = voided = 0
    last = 0
    with start("free", tmp_path / "rings", 1024, TEN_MILLION) as writer:
        assert writer.stdout
        reader = RingReader.open(Path(writer.stdout.readline().decode().strip()))
        over = False
        turn = 0
        while not over:
            over = reader.state().closed
            # A few records, then so much time away that the writer, who never waits, goes round many times.
            while True:
                batch = reader.read(300, writer_gone=over)
                numbers = assert_payloads_follow_from_numbers(batch)
                if batch.count:
                    assert numbers[0] > last and np.all(np.diff(numbers) > 0)
                    last = int(numbers[-1])
                returned += batch.count
                lost, torn, voided = lost + batch.lost, torn + batch.torn, voided + batch.voided
                turn += 1
                if not batch.passed or (not over and turn % 8 == 0):
                    break
            if not over:
                hash_a_while = np.random.default_rng(turn).random(400_000)
                hash_a_while.sort()
        assert int(writer.stdout.readline()) == TEN_MILLION
        assert returned + lost + torn + voided == TEN_MILLION == reader.cursor - 1
        assert lost > 0
        assert returned >= 1024 - 1024 // 8
        assert last == TEN_MILLION
        reader.close()


@pytest.mark.slow
def test_no_bad_record_is_read_and_every_completed_one_is_after_two_hundred_kills(tmp_path: Path) -> None:
    capacity, runs = 4096, 200
    seen = 0
    with start("kill", tmp_path / "rings", capacity, runs, 20261121) as driver:
        assert driver.stdout
        for line in driver.stdout:
            path, done, threads = line.decode().rsplit(" ", 2)
            reader = RingReader.open(Path(path))
            assert process_alive(reader.identity) is Liveness.DEAD
            batch = reader.read(2 * capacity, writer_gone=True)
            slots = np.frombuffer(batch.raw, dtype=SLOT)
            # Delivered: what was counted, and at most one more per thread, written but not yet counted.
            assert int(done) <= batch.count <= int(done) + int(threads)
            assert batch.lost == batch.voided == 0
            # A killed thread leaves at most the one record it was writing.
            assert batch.torn <= int(threads)
            assert batch.count + batch.torn == batch.passed
            for thread in range(int(threads)):
                fields = slots["fields"][slots["fields"][:, 1] == thread]
                n = np.arange(1, len(fields) + 1)
                assert np.array_equal(fields[:, [0, 2, 3, 8]], np.column_stack([n, -n, n + 7, n]))
            assert reader.read(1, writer_gone=True).passed == 0
            reader.close()
            Path(path).unlink()
            seen += 1
    assert seen == runs
