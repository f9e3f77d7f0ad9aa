"""Any bytes as a CSV table: no crash, and no valid row is lost beside rubbish, with the csv module as the judge."""

import csv
import io
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import START_NS

from vtprof_analyzer.runs.read import read_runs
from vtprof_schemas.errors import VtprofError

HEADER = ("request_id", "start_unix_nano", "model", "n_visual_tokens", "ttft_ms", "note")
BREAKS = "\n\r"

words = st.text(st.characters(exclude_characters=BREAKS + "\0", exclude_categories=("Cs",)), max_size=12)
rubbish = st.one_of(
    st.binary(max_size=60).filter(lambda line: not set(line) & {10, 13}),
    st.sampled_from(
        [
            b'"',
            b'"a',
            b'x","y',
            b',"",a","',
            b'"',
            b' "',
            b",,,,,",
            b"a,b",
            b",".join([b"1"] * 6),
            b"\x00",
            b"\xff\xfe",
            b"   ",
        ]
    ),
)


def line(number: int, model: str, note: str, quoting: int) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting, lineterminator="")  # type: ignore[arg-type]
    writer.writerow([f"id-{number}", START_NS + number, model, 3, 4.5, note])
    return out.getvalue().encode()


def ids_by_the_csv_module(lines: Sequence[bytes]) -> set[str]:
    """Return the ids of the rows that are valid, each line read for itself."""
    found = set()
    for one in lines:
        try:
            (row,) = csv.reader([one.decode()], strict=True)
        except (ValueError, csv.Error):
            continue
        if len(row) == len(HEADER) and row[0].startswith("id-"):
            found.add(row[0])
    return found


@settings(max_examples=40)
@given(st.data())
def test_no_valid_row_is_lost_beside_rubbish(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    valid = [
        line(number, data.draw(words), data.draw(words), quoting)
        for number in range(data.draw(st.integers(1, 8)))
    ]
    lines = list(valid)
    for one in data.draw(st.lists(rubbish, max_size=5)):
        lines.insert(data.draw(st.integers(0, len(lines))), one)
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(end.join([",".join(HEADER).encode(), *lines]) + data.draw(st.sampled_from([b"", end])))
    (run,) = read_runs(path)
    expected = ids_by_the_csv_module(valid)
    assert expected == {f"id-{number}" for number in range(len(valid))}
    assert expected <= set(run.requests.ids.tolist())
    # What is there beyond is a line of rubbish that can be taken for a row; none is there that nobody wrote.
    assert len(run.requests) <= len(lines)


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=400), st.binary(max_size=300).map((",".join(HEADER) + "\n").encode().__add__)
    )
)
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(content)
    try:
        runs = read_runs(path)
    except VtprofError as error:
        assert "\n" not in str(error)
    else:
        assert all(len(run.requests) or run.skipped for run in runs)


@settings(max_examples=20)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=6))
def test_text_arrives_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    lines = [line(number, model, note, csv.QUOTE_ALL) for number, (model, note) in enumerate(rows)]
    path.write_bytes(b"\n".join([",".join(HEADER).encode(), *lines]))
    (run,) = read_runs(path)
    assert [run.requests.models[code] for code in run.requests.model] == [model for model, _ in rows]
