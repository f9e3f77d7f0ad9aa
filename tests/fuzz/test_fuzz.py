"""Fuzzing in little: some hundred broken files, of seeds that are always the same; ``make fuzz`` runs ten thousand."""

import gzip
import random
from collections import Counter
from pathlib import Path

import pytest

from fuzz import check, oracle
from fuzz.campaign import BATCH_FILES
from fuzz.cases import Case, make
from fuzz.documents import BASE_NS, document
from fuzz.mutations import text_of

FILES = 300


@pytest.mark.timeout(300)
def test_broken_files_cost_no_valid_span_and_no_fault_goes_uncounted() -> None:
    found = [
        line
        for first in range(0, FILES, BATCH_FILES)
        for line in check.failures(range(first, min(FILES, first + BATCH_FILES)))
    ]
    assert found == []


@pytest.mark.parametrize("seed", [70, 2356, 2706])
def test_wrong_lengths_that_once_cost_a_valid_message_do_not(seed: int) -> None:
    assert check.failures(range(seed, seed + 1)) == []


def test_spans_with_keys_as_protobuf_spells_them_are_no_fault() -> None:
    span = {"trace_id": "1" * 32, "spanId": "2" * 16, "start_time_unix_nano": "1"}
    assert not oracle.has_faulty_span({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    del span["trace_id"]
    assert oracle.has_faulty_span({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})


def test_a_case_follows_from_its_seed() -> None:
    assert [make(seed) for seed in range(50)] == [make(seed) for seed in range(50)]


def test_cases_are_of_every_kind_and_most_have_something_to_find() -> None:
    cases = [make(seed) for seed in range(500)]
    kinds = Counter(case.name.split(".", 1)[1] for case in cases)
    assert set(kinds) == {f"{form}{packed}" for form in ("jsonl", "pb") for packed in ("", ".gz", ".zst")}
    assert min(kinds.values()) >= 20
    assert sum(bool(case.expected) for case in cases) > 300
    assert sum(case.faulty for case in cases) > 100


def test_the_oracle_sees_a_lost_span_a_wrong_value_and_a_fault_that_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = oracle.Found("1" * 32, "2" * 16, "vtprof.request", BASE_NS, 7)
    assert oracle.missing([span], [tuple(span)]) == []
    assert oracle.missing([span], [(*span[:4], 8)])[0].startswith("input_tokens ['8'], not 7")
    assert oracle.missing([span], [(*span[:3], BASE_NS + 1, 7)])[0].startswith("lost")
    # Said to be broken, and to hold a span that it does not: a whole document.
    case = Case("t.jsonl", text_of(document(random.Random(1)), random.Random(1)), [span], faulty=True)
    monkeypatch.setattr(check, "make", lambda _: case)
    lost, uncounted = check.failures(range(1))
    assert ("lost" in lost, "nothing counts" in uncounted) == (True, True)


def test_valid_spans_are_those_with_ids_a_name_and_a_time() -> None:
    item = document(random.Random(1))
    spans = item["resourceSpans"][0]["scopeSpans"][0]["spans"]
    everything = list(oracle.valid_spans(item))
    assert [found.span_id for found in everything] == [span["spanId"] for span in spans]
    for field, bad in (("traceId", "0" * 32), ("spanId", "xyz"), ("name", ""), ("startTimeUnixNano", "1e18")):
        kept, spans[0][field] = spans[0][field], bad
        assert list(oracle.valid_spans(item)) == everything[1:]
        spans[0][field] = kept


def test_json_and_protobuf_oracles_agree() -> None:
    for seed in range(40):
        item = document(random.Random(seed))
        (signal,) = item
        read = oracle.parse_message(oracle.to_message(item), signal)
        assert list(oracle.valid_spans(read)) == list(oracle.valid_spans(item))


def test_what_was_packed_whole_unpacks_to_what_was_written() -> None:
    case = next(
        case for seed in range(200) if (case := make(seed)).name.endswith("jsonl.gz") and case.expected
    )
    assert all(
        found.span_id in gzip.decompress(case.data).decode("utf-8", "replace").lower()
        for found in case.expected
    )
