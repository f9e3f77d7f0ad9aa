"""A process is one instance however many rings it has, an engine's cache counts once, each sequence's KV counts."""

from pathlib import Path
from typing import Any

import pytest
from family_rings import INFO, Following, Line, Server, requests, run
from ring_records import arrived, finished, left, prefill, prompt, queue, sequence, step

from vtprof_agent.align import Alignment
from vtprof_agent.sampling import agent_points
from vtprof_schemas import names

CACHE = {
    names.KV_BYTES_PER_TOKEN: 8,
    names.KV_CAPACITY_TOKENS: 1000,
    names.KV_BLOCK_TOKENS: 16,
    names.KV_DTYPE: "float32",
}
PROCESSES: dict[str, dict[str, Any]] = {
    "api": INFO["api"], "engine": {**INFO["engine"], **CACHE, names.MODEL_CONFIG: "{}"},
}  # fmt: skip
SERVED: tuple[Line, ...] = (
    ("api", arrived(1, 0)), ("api", prompt(1, 10)), ("engine", queue(1, 1, 5)), ("engine", prefill(1, 1, tokens=10)),
    ("engine", step(1, 5, 15, prefill_tokens=10)), ("engine", left(1, 1, 15, 1)), ("api", finished(1, 16, 1)),
)  # fmt: skip
REJECTED: tuple[Line, ...] = (("api", arrived(2, 20)), ("api", finished(2, 21, 0, names.STATUS_REJECTED)))


@pytest.fixture(autouse=True)
def _monotonic_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let spans have the times of the script."""
    monkeypatch.setattr(Alignment, "from_anchor", classmethod(lambda cls, *_: cls(0)))


def test_a_request_that_reached_no_engine_is_told_as_the_only_engines(tmp_path: Path) -> None:
    agent = run(tmp_path, (*SERVED, *REJECTED), PROCESSES)
    assert requests(agent.spans)["2"][names.REQUEST_STATUS] == names.STATUS_REJECTED
    told = {
        (s.resource.attributes[names.ROLE], s.resource.attributes.get(names.KV_CAPACITY_TOKENS))
        for s in agent.spans
    }
    assert told == {("engine", 1000)}


def test_beside_several_engines_it_is_the_api_servers_which_has_no_cache(tmp_path: Path) -> None:
    processes = {
        "api": PROCESSES["api"],
        **{f"engine{rank}": {**PROCESSES["engine"], names.RANK: rank} for rank in (0, 1)},
    }
    agent = run(
        tmp_path, (*((who + "0" * (who == "engine"), row) for who, row in SERVED), *REJECTED), processes
    )
    refused = requests(agent.spans)["2"]["span"].resource.attributes
    assert refused[names.ROLE] == "api"
    assert not CACHE.keys() & refused.keys()
    assert refused[names.MODEL_CONFIG] == "{}", "what is true of the whole server stays"
    assert requests(agent.spans)["1"]["span"].resource.attributes[names.KV_CAPACITY_TOKENS] == 1000


def test_a_second_ring_of_a_process_is_the_same_instance_and_its_ids_are_others(tmp_path: Path) -> None:
    """All rings here are written by this process; each attach makes a new one."""
    server, agent = Server(tmp_path, PROCESSES), Following(tmp_path)
    server.write_all(SERVED)
    agent.settle()
    server.start("engine", PROCESSES["engine"])  # attached again
    agent.turn(2)
    later = [("api", arrived(3, 100)), ("engine", prefill(2, 3, tokens=4)), ("engine", step(2, 101, 110, prefill_tokens=4)),
             ("engine", left(3, 2, 110, 1)), ("api", finished(3, 112, 1))]  # fmt: skip
    server.write_all(later)
    agent.settle()
    steps = [span for span in agent.spans if span.name == names.SPAN_STEP]
    assert len({span.context.span_id for span in steps if span.context}) == len(steps) == 2
    assert len({span.resource.attributes[names.SERVICE_INSTANCE_ID] for span in steps}) == 1
    assert len({span.resource.attributes[names.RING_CREATED_NS] for span in steps}) == 2
    rings = agent.agent._rings.values()
    read = {
        (
            point.resource.attributes[names.SERVICE_INSTANCE_ID],
            point.resource.attributes[names.RING_CREATED_NS],
        )
        for ring in rings
        for point in agent_points(ring, 1)
    }
    assert len(read) == len(rings) == 3, "what was read of each ring is a series of its own"


def test_each_sequence_of_a_request_counts_its_prompt_and_all_but_its_last_token(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("api", prompt(1, 10, image=6)), ("api", sequence(11, 1)), ("api", sequence(12, 1)),
        ("engine", queue(11, 2, 10)), ("engine", queue(12, 2, 10)),
        ("engine", prefill(1, 11, tokens=16)), ("engine", prefill(1, 12, tokens=16)),
        ("engine", step(1, 10, 30, prefill_tokens=32)), ("engine", step(2, 30, 40, decoders=2)),
        ("engine", left(12, 2, 40, 2)), ("engine", step(3, 40, 50, decoders=1)), ("engine", left(11, 3, 50, 3)),
        ("api", finished(1, 51, 5)),
    ]  # fmt: skip
    engine = {**PROCESSES["engine"], names.KV_FIXED_BYTES: 100}
    (request,) = requests(run(tmp_path, script, {**PROCESSES, "engine": engine}).spans).values()
    # 16 prompt tokens in each; of 3 and 2 generated ones the last is not fed back. 8 B a token, 100 B a sequence.
    assert request[names.KV_BYTES] == ((16 + 2) + (16 + 1)) * 8 + 2 * 100
    assert request[names.KV_VISUAL_BYTES] == 2 * 6 * 8
    assert request[names.OUTPUT_TOKENS] == 5


def test_where_the_engine_does_not_tell_each_sequence_the_sum_is_the_same(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("api", prompt(1, 16)), ("api", sequence(11, 1)), ("api", sequence(12, 1)),
        ("engine", prefill(1, 11, tokens=16)), ("engine", prefill(1, 12, tokens=16)),
        ("engine", step(1, 10, 30, prefill_tokens=32)), ("engine", left(11, 1, 31)), ("engine", left(12, 1, 31)),
        ("api", finished(1, 51, 5)),
    ]  # fmt: skip
    (request,) = requests(run(tmp_path, script, PROCESSES).spans).values()
    assert request[names.KV_BYTES] == (2 * 16 + 5 - 2) * 8


def test_a_sequence_that_never_ran_holds_nothing(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("api", prompt(1, 16)), ("api", sequence(11, 1)), ("api", sequence(12, 1)),
        ("engine", prefill(1, 11, tokens=16)), ("engine", step(1, 10, 30, prefill_tokens=16)),
        ("engine", left(11, 1, 31, 1)), ("engine", left(12, 1, 31, 0)),
        ("api", finished(1, 51, 1, names.STATUS_ABORTED)),
    ]  # fmt: skip
    (request,) = requests(run(tmp_path, script, PROCESSES).spans).values()
    assert request[names.KV_BYTES] == 16 * 8
