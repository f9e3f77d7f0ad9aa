"""The first look at a file tells the same of lines of any length, however they fall into what is read at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.ingest import scan as under_test
from vtprof_analyzer.ingest.scan import scan

PIECE = 32
"""Read at once here, so that short lines do what long ones do in practice."""
SPANS, METRICS = b'{"resourceSpans":[%s]}', b'{"resourceMetrics":[%s]}'


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_PIECE_BYTES", PIECE)
    monkeypatch.setattr(under_test, "MAX_LINE_BYTES", 8 * PIECE)


def _file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> Path:
    path = tmp_path_factory.getbasetemp() / "scanned.jsonl"
    path.write_bytes(data)
    return path


@given(
    st.lists(st.tuples(st.sampled_from([SPANS, METRICS]), st.integers(0, 4 * PIECE)), min_size=1, max_size=6)
)
def test_whole_lines_are_counted_and_the_longest_is_known(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[bytes, int]]
) -> None:
    lines = [form % (b" " * filling) + b"\n" for form, filling in drawn]
    found = scan(_file(tmp_path_factory, b"".join(lines)))
    assert (found.clean, found.tail_at) == (True, None)
    assert (found.lines, found.longest_bytes) == (len(lines), max(map(len, lines)))
    forms = {form for form, _ in drawn}
    assert (found.spans, found.metrics, found.logs) == (SPANS in forms, METRICS in forms, False)


@given(st.integers(0, 4 * PIECE), st.integers(0, 4 * PIECE))
def test_a_last_line_that_is_cut_off_is_set_apart_wherever_the_cut_is(
    tmp_path_factory: pytest.TempPathFactory, filling: int, kept: int
) -> None:
    whole = SPANS % (b" " * filling) + b"\n"
    tail = (SPANS % (b" " * 4 * PIECE))[: kept + 1]
    found = scan(_file(tmp_path_factory, whole + tail))
    assert (found.clean, found.lines, found.tail_at) == (True, 1, len(whole))


@given(st.integers(1, 4 * PIECE))
def test_blank_lines_of_any_length_are_no_lines(
    tmp_path_factory: pytest.TempPathFactory, blanks: int
) -> None:
    found = scan(_file(tmp_path_factory, b" " * blanks + b"\n" + SPANS % b"" + b"\n"))
    assert (found.clean, found.lines, found.all_lines) == (True, 1, 2)


@pytest.mark.parametrize(("size", "clean"), [(8 * PIECE, True), (8 * PIECE + 1, False)])
def test_a_line_beyond_the_limit_is_for_the_careful_reader(
    tmp_path_factory: pytest.TempPathFactory, size: int, clean: bool
) -> None:
    line = SPANS % (b" " * (size - len(SPANS % b"") - 1)) + b"\n"
    assert len(line) == size
    assert scan(_file(tmp_path_factory, line)).clean is clean
