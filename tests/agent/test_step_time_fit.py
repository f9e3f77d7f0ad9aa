"""StepTimeFit: the parts of a mixed step's GPU time are those of the machine that it learnt from."""

import random

import pytest

from vtprof_agent.counters.meter import Work
from vtprof_agent.counters.step_time import StepTimeFit

ENCODE_NS, TOKEN_NS, CONTEXT_NS, WEIGHTS_NS = 3_000, 20_000, 50, 8_000_000


def step(rng: random.Random, at_ns: int) -> tuple[Work, tuple[float, float, float]]:
    """Make a step and the GPU time of its classes; the weights' time is shared by tokens, which cost alike."""
    patches = rng.randint(500, 4000) if rng.random() < 0.3 else 0
    tokens = rng.randint(50, 2000) if patches or rng.random() < 0.2 else 0
    requests = rng.randint(1, 40)
    context = requests * rng.randint(200, 3000)
    weights = WEIGHTS_NS / (tokens + requests)
    work = Work(at_ns, at_ns + 50_000_000, patches, 0, tokens, 0, requests, context)
    parts = (
        patches * ENCODE_NS,
        tokens * TOKEN_NS + weights * tokens,
        context * CONTEXT_NS + requests * TOKEN_NS + weights * requests,
    )
    return work, parts


def test_parts_are_those_of_the_machine() -> None:
    """A linear machine with 2 % noise: fractions within 0.02, and they sum to 1."""
    rng, fit = random.Random(1), StepTimeFit()
    for place in range(600):
        work, parts = step(rng, place * 60_000_000)
        fit.add(work, int(sum(parts) * rng.gauss(1.0, 0.02)))
    for place in range(600, 700):
        work, parts = step(rng, place * 60_000_000)
        got = fit.parts(work)
        assert got is not None
        assert sum(got) == pytest.approx(1.0)
        assert got == pytest.approx([part / sum(parts) for part in parts], abs=0.02)


def test_nothing_is_said_of_a_mixture_before_there_are_thirty_steps() -> None:
    """But a step of one class is that class's."""
    rng, fit = random.Random(2), StepTimeFit()
    mixed = Work(0, 50_000_000, prefill_tokens=100, decode_requests=3, decode_context_tokens=900)
    assert fit.parts(mixed) is None
    for place in range(20):
        work, parts = step(rng, place * 60_000_000)
        fit.add(work, int(sum(parts)))
    assert fit.parts(mixed) is None
    assert fit.parts(Work(0, 1, decode_requests=3)) == (0.0, 0.0, 1.0)
    assert fit.parts(Work(0, 1, patches=3)) == (1.0, 0.0, 0.0)
    assert fit.parts(Work(0, 1)) is None


def test_classes_that_never_come_apart_are_not_told_apart() -> None:
    """Every step has the same mixture, give or take noise: ill-conditioned, so None."""
    rng, fit = random.Random(3), StepTimeFit()
    mixed = Work(
        0, 50_000_000, patches=1000, prefill_tokens=256, decode_requests=8, decode_context_tokens=8000
    )
    for place in range(400):
        at_ns = place * 60_000_000
        work = Work(at_ns, at_ns + 1, 1000, 0, 256, 0, 8, 8000)
        fit.add(work, int(40e6 * rng.gauss(1.0, 0.02)))
    assert fit.parts(mixed) is None


def test_times_that_are_none_are_left_out() -> None:
    """Zero and negative GPU times are not steps that cost nothing."""
    rng, fit = random.Random(4), StepTimeFit()
    for place in range(400):
        work, parts = step(rng, place * 60_000_000)
        fit.add(work, int(sum(parts)))
        fit.add(work, rng.choice((0, -1)))
    work, parts = step(rng, 400 * 60_000_000)
    assert fit.parts(work) == pytest.approx([part / sum(parts) for part in parts], abs=0.01)
