"""The small deployments keep right books: what their requests tell and what their steps tell is the same work."""

from itertools import pairwise

import pytest
from deployments.catalogue import BUILT_FOR
from deployments.serve import Served, Server
from deployments.workload import Asked, requests


def served(name: str) -> list[tuple[Server, list[Served]]]:
    """Serve a deployment; return each replica with its requests."""
    deployment = BUILT_FOR[name].deployment
    asked = requests(deployment)
    found = []
    for replica in range(len(deployment.replicas)):
        server = Server(deployment)
        found.append((server, server.run([one for one in asked if one.replica == replica])))
    return found


def counted(requests: list[Served], phase: str, what: str) -> int:
    return sum(s.counts[what] for one in requests for s in one.stretches if s.phase == phase)


@pytest.mark.parametrize("name", BUILT_FOR)
def test_requests_and_steps_tell_of_the_same_work(name: str) -> None:
    for server, done in served(name):
        steps = server.steps
        assert sum(step.prefill_tokens for step in steps) == counted(done, "prefill", "tokens")
        assert sum(step.prefill_visual for step in steps) == counted(done, "prefill", "visual")
        assert sum(step.encode_items for step in steps) == counted(done, "encode", "items")
        assert sum(step.encode_patches for step in steps) == counted(done, "encode", "patches")
        assert sum(step.decode_requests for step in steps) == counted(done, "decode", "steps")
        assert sum(step.preemptions for step in steps) == counted(done, "decode", "preemptions")
        assert all(before.end_ns <= after.start_ns for before, after in pairwise(steps))
        assert all(0 <= step.gpu_ns <= step.end_ns - step.start_ns for step in steps)


@pytest.mark.parametrize("name", BUILT_FOR)
def test_every_request_is_answered_and_its_phases_follow_each_other(name: str) -> None:
    for _, done in served(name):
        for one in done:
            assert one.generated == one.asked.output
            prefilled = sum(s.counts["tokens"] for s in one.stretches if s.phase == "prefill")
            again = one.target if one.preempted else 0
            assert prefilled == one.asked.prompt - one.cached + again
            assert one.stretches[0].start_ns == one.asked.hand_over_ns
            assert all(a.end_ns <= b.start_ns <= b.end_ns for a, b in pairwise(one.stretches))
            assert one.first_token_ns is not None
            assert one.stretches[-1].end_ns <= one.end_ns
            assert one.first_token_ns <= one.end_ns


@pytest.mark.parametrize("name", BUILT_FOR)
def test_limits_of_the_engine_are_kept(name: str) -> None:
    engine = BUILT_FOR[name].deployment.engine
    for server, _ in served(name):
        for step in server.steps:
            assert step.running <= engine.most_sequences
            assert step.kv_tokens <= engine.kv_capacity_tokens
            assert step.prefill_tokens + step.decode_requests // step.iterations <= engine.chunk_tokens


def test_the_same_deployment_is_asked_the_same_each_time() -> None:
    def told(one: Asked) -> tuple[object, ...]:
        return one.arrival_ns, one.text, one.output, one.media, one.cpu_ns, one.replica

    deployment = BUILT_FOR["QUE003"].deployment
    first, again = requests(deployment), requests(deployment)
    assert [told(one) for one in first] == [told(one) for one in again]
    assert [sum(one.replica == place for one in first) for place in range(4)] == [60, 30, 30, 30]
