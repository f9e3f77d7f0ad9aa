"""Rings of a server that are missing, late, cut short or overtaken: what is there is used, and nothing crashes."""

from pathlib import Path

import pytest
from family_rings import (
    ALL,
    INFO,
    ONE,
    ONE_PHASES,
    UNTOLD,
    Following,
    Line,
    Server,
    requests,
    run,
    step_spans,
)
from ring_records import arrived, finished, first_token, left, prefill, sequence, step

from vtprof_agent.align import Alignment
from vtprof_agent.inbox.discovery import Liveness
from vtprof_agent.metrics.metrics import Metrics
from vtprof_schemas import names


@pytest.fixture(autouse=True)
def _monotonic_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let spans have the times of the script."""
    monkeypatch.setattr(Alignment, "from_anchor", classmethod(lambda cls, *_: cls(0)))


def test_an_engine_without_its_api_server_gives_steps_and_counts_the_requests(tmp_path: Path) -> None:
    page = Metrics("1")
    server, agent = Server(tmp_path, ("engine", "worker")), Following(tmp_path, page)
    server.write_all(line for line in ONE if line[0] != "api")
    agent.settle()
    assert requests(agent.spans) == {}
    assert [found[1:3] for found in step_spans(agent.spans)] == [(1, 1), (2, 2)]
    assert page.registry.get_sample_value("vtprof_agent_requests_unusable_total") == 1


def test_an_api_server_without_its_engine_gives_what_it_knows(tmp_path: Path) -> None:
    agent = run(tmp_path, [line for line in ONE if line[0] == "api"], ("api",))
    (request,) = requests(agent.spans).values()
    assert request["phases"] == [("preprocess", 100, 150), ("decode", 203, 225)]
    assert request[names.TTFT_NS] == 103


def test_an_api_ring_that_is_found_late_still_owns_its_requests(tmp_path: Path) -> None:
    server, agent = Server(tmp_path, ("engine", "worker")), Following(tmp_path)
    server.write_all(line for line in ONE[:8] if line[0] != "api")
    agent.turn(3)
    server.start("api", INFO["api"])
    server.write_all(line for line in ONE[:8] if line[0] == "api")
    server.write_all(ONE[8:])
    agent.settle()
    (request,) = requests(agent.spans).values()
    assert request["phases"] == ONE_PHASES


def test_sequences_that_are_told_late_move_to_their_request(tmp_path: Path) -> None:
    server, agent = Server(tmp_path, ("engine",)), Following(tmp_path)
    server.write_all(
        [
            ("engine", prefill(1, 11, tokens=10)), ("engine", prefill(1, 12, tokens=1)),
            ("engine", step(1, 10, 30, prefill_tokens=11)), ("engine", step(2, 30, 40, decoders=2)),
        ]
    )  # fmt: skip
    agent.turn(3)
    server.start("api", INFO["api"])
    server.write_all(
        [
            ("api", arrived(1, 0)), ("api", sequence(11, 1)), ("api", sequence(12, 1)), ("api", first_token(1, 30)),
            ("engine", step(3, 40, 50, decoders=2)), ("engine", left(11, 3, 50, 3)), ("engine", left(12, 3, 50, 3)),
            ("api", finished(1, 51, 6)),
        ]
    )  # fmt: skip
    agent.settle()
    (request,) = requests(agent.spans).values()
    # Each sequence had begun a stretch of its own.
    assert request["phases"] == [("prefill", 10, 30), ("decode", 30, 40), ("decode", 40, 50)]


def test_a_ring_that_a_worker_made_between_two_looks_at_the_folder_is_there_for_the_first_step(
    tmp_path: Path,
) -> None:
    server, agent = Server(tmp_path, ("api", "engine")), Following(tmp_path)
    agent.turn()
    server.start("worker", INFO["worker"])  # a millisecond later; the next look is a second away
    server.write_all(ONE)
    agent.turn(4)
    agent.settle()
    (request,) = requests(agent.spans).values()
    assert request["phases"] == ONE_PHASES


def test_after_a_loss_the_first_token_says_who_decodes(tmp_path: Path) -> None:
    server, agent = Server(tmp_path, ALL), Following(tmp_path)
    server.write_all(ONE[:4])
    agent.turn(4)
    server.write_all(ONE[4:8])
    # The engine's ring holds 256: its prefill and the step are overwritten before the agent comes.
    server.write_all([("engine", step(1, 160, 200, **UNTOLD))] * 300)
    server.write_all(ONE[8:])
    agent.settle()
    (request,) = requests(agent.spans).values()
    assert request["phases"] == [
        ("preprocess", 100, 150), ("queue", 150, 160), ("encode", 160, 180), ("decode", 202, 220),
    ]  # fmt: skip


def test_an_api_server_far_ahead_of_its_engine_pushes_no_request_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtprof_agent.loop.READ_RECORDS", 2)
    script: list[Line] = []
    for number in range(1, 25):
        at = number * 100
        script += [
            ("api", arrived(number, at)), ("engine", prefill(number, number, tokens=4)),
            ("engine", step(number, at, at + 10, prefill_tokens=4)), ("api", first_token(number, at + 11)),
            ("engine", left(number, number, at + 12)), ("api", finished(number, at + 13, 1)),
        ]  # fmt: skip
    # Of the engine two records are read every other turn, of the API server two every turn.
    server, agent = Server(tmp_path, ALL), Following(tmp_path, max_open_requests=8)
    server.write_all(script)
    agent.turn(200, 100_000_000)
    found = requests(agent.spans)
    assert {number: entry["phases"] for number, entry in found.items()} == {
        str(number): [("prefill", number * 100, number * 100 + 10)] for number in range(1, 25)
    }


@pytest.mark.parametrize("who", ["api", "engine", "worker"])
@pytest.mark.parametrize("at", range(len(ONE) + 1))
def test_a_process_killed_at_any_moment_costs_no_other_and_crashes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, at: int
) -> None:
    server, agent = Server(tmp_path, ALL), Following(tmp_path)
    server.write_all(ONE[:at])
    agent.turn(2)
    role = INFO[who][names.ROLE]
    monkeypatch.setattr(
        "vtprof_agent.loop.process_alive",
        lambda identity: Liveness.DEAD if identity.role == role else Liveness.ALIVE,
    )
    server.write_all(line for line in ONE[at:] if line[0] != who)
    agent.settle()
    agent.stop(last=True)
    assert agent.agent._faults.count == 0
    found = requests(agent.spans)
    assert len(found) == (0 if who == "api" and at == 0 else 1)
    for request in found.values():
        ended = who != "api" or at == len(ONE)
        assert request[names.REQUEST_STATUS] == (names.STATUS_OK if ended else names.STATUS_ABORTED)
        assert request["end"] <= 225
        # Without its step an encode is the encoder's run alone.
        whole = [*ONE_PHASES, ("encode", 165, 180)]
        assert all(
            phase in whole or phase[0] in ("queue", "prefill", "decode") for phase in request["phases"]
        )
        if at == len(ONE):
            assert request["phases"] == ONE_PHASES


def test_a_server_killed_whole_aborts_what_was_open_at_its_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, agent = Server(tmp_path, ALL), Following(tmp_path)
    server.write_all(ONE[:-3])
    server.write_all([("api", arrived(9, 205))])
    agent.turn(3)
    monkeypatch.setattr("vtprof_agent.loop.process_alive", lambda _: Liveness.DEAD)
    agent.turn(4, 1_000_000_000)
    found = requests(agent.spans)
    assert {number: (r["end"], r[names.REQUEST_STATUS]) for number, r in found.items()} == {
        "71": (210, names.STATUS_ABORTED), "9": (210, names.STATUS_ABORTED),
    }  # fmt: skip
