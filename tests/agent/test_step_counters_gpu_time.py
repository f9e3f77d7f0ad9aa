"""GPU time of a step that holds several classes of work: by the fit on work, by tokens without one, whole in any case."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from ring_records import Row, arrived, encode, finished, gpu_time, only, prefill, step

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.attribution import split_step
from vtprof_agent.counters.meter import Work
from vtprof_agent.facts import FinishedRequest
from vtprof_agent.step_work import Measures
from vtprof_schemas import names

Fractions = tuple[float, float, float]


class FixedTimes:
    """A fit that says the same of every step."""

    def __init__(self, fractions: Fractions | None) -> None:
        self.fractions = fractions
        self.added: list[tuple[Work, int]] = []
        self.asked: list[Work] = []

    def add(self, work: Work, gpu_ns: int) -> None:
        self.added.append((work, gpu_ns))

    def parts(self, work: Work) -> Fractions | None:
        self.asked.append(work)
        return self.fractions


MIXED = (
    arrived(1, 0), prefill(1, 1, tokens=10), step(1, 0, 10, prefill_tokens=10), gpu_time(1, 9),
    arrived(2, 5), encode(2, 2, 10, 14, patches=4), prefill(2, 2, tokens=9),
    step(2, 10, 30, decoders=1, prefill_tokens=9, decode_context_tokens=10, encode_ns=4), gpu_time(2, 100, 20),
    finished(1, 30, 2), finished(2, 30, 1),
)  # fmt: skip
"""The second step holds an image and a prompt of 9 tokens of request 2 beside one token of request 1."""


def run(rows: Sequence[Row], fit: FixedTimes | None) -> tuple[FinishedRequest, FinishedRequest]:
    measures = Measures(step_times=None if fit is None else lambda: fit)
    made = Assembly(AssemblySettings(), measures=measures)
    for sequence, (code, values) in enumerate(rows, start=1):
        made.feed(code, sequence, values, 0)
    made.advance(10_000_000_000)
    one, two = made.take_requests()
    return one, two


def times(one: FinishedRequest, two: FinishedRequest) -> list[tuple[object, object]]:
    pieces = [only(two, names.ENCODE), only(two, names.PREFILL), only(one, names.DECODE)]
    return [(p.attributes[names.GPU_TIME_NS], p.attributes[names.GPU_TIME_QUALITY]) for p in pieces]


def test_a_mixed_step_is_split_by_the_fit_beside_the_encoders_measured_time() -> None:
    # 80 beside the encoder's 20, by 0.3 : 0.1.
    assert times(*run(MIXED, FixedTimes((0.6, 0.3, 0.1)))) == [
        (20, "attributed"), (60, "attributed"), (20, "attributed"),
    ]  # fmt: skip


def test_without_a_fit_it_is_split_by_tokens_and_the_times_are_estimates() -> None:
    for fit in (None, FixedTimes(None)):
        # 80 by 9 tokens and 1.
        assert times(*run(MIXED, fit)) == [(20, "estimated"), (72, "estimated"), (8, "estimated")]


def test_the_fit_also_finds_the_encoders_part_where_it_was_not_measured() -> None:
    rows = [*MIXED[:8], gpu_time(2, 100), *MIXED[9:]]
    assert times(*run(rows, FixedTimes((0.5, 0.4, 0.1)))) == [
        (50, "attributed"), (40, "attributed"), (10, "attributed"),
    ]  # fmt: skip
    # Else its share of the wall time: 4 of 20.
    assert times(*run(rows, FixedTimes(None))) == [(20, "estimated"), (72, "estimated"), (8, "estimated")]


def test_a_fit_that_gives_nothing_to_work_that_is_there_is_not_believed() -> None:
    assert times(*run(MIXED, FixedTimes((0.2, 0.8, 0.0))))[2] == (8, "estimated")


def test_the_fit_learns_from_prompts_and_is_asked_for_mixed_steps_only() -> None:
    fit = FixedTimes(None)
    run(MIXED, fit)
    prompt_alone = Work(0, 10, prefill_tokens=10, prefill_pairs=55)
    mixed = Work(10, 30, 4, 16, 9, 45, 1, 10, encode_ns=20)
    assert fit.added == [(prompt_alone, 9), (mixed, 100)]
    assert fit.asked == [mixed]


def test_steps_of_one_class_are_split_as_ever() -> None:
    fit = FixedTimes((0.0, 0.9, 0.1))
    rows = [
        arrived(1, 0), arrived(2, 0), prefill(1, 1, tokens=1), prefill(1, 2, tokens=2), step(1, 10, 20, prefill_tokens=3),
        gpu_time(1, 10), finished(1, 31, 1), finished(2, 31, 1),
    ]  # fmt: skip
    one, two = run(rows, fit)
    assert [only(r, names.PREFILL).attributes[names.GPU_TIME_NS] for r in (one, two)] == [3, 7]
    assert fit.asked == []


_WEIGHTS = st.lists(st.integers(0, 10**6), max_size=6)


@settings(deadline=None)
@given(
    st.integers(0, 10**12), st.one_of(st.none(), st.integers(0, 10**12)), st.one_of(st.none(), st.floats(0, 2)),
    _WEIGHTS, _WEIGHTS, _WEIGHTS, st.one_of(st.none(), st.tuples(*[st.floats(0, 1)] * 3)),
)  # fmt: skip
def test_the_shares_add_up_to_the_steps_gpu_time_whatever_the_fit_says(
    gpu_ns: int,
    encode_ns: int | None,
    wall: float | None,
    patches: list[int],
    tokens: list[int],
    decoding: list[int],
    fractions: Fractions | None,
) -> None:
    shares = split_step(gpu_ns, encode_ns, wall, patches, tokens, decoding, 3, fractions)
    assert len(shares.encode_ns) == len(patches)
    assert len(shares.token_ns) == len(tokens) + len(decoding)
    assert min((*shares.encode_ns, *shares.token_ns), default=0) >= 0
    if patches or tokens or decoding:
        assert sum(shares.encode_ns) + sum(shares.token_ns) == gpu_ns


def test_a_step_of_decoding_alone_is_shared_alike_and_one_in_four_teaches_the_fit() -> None:
    rows = [row for n in (1, 2, 3) for row in (arrived(n, 0), prefill(1, n, tokens=4))]
    rows += [step(1, 0, 10, prefill_tokens=12), gpu_time(1, 9)]
    for index in range(2, 10):
        at = 10 * index
        rows += [step(index, at, at + 10, decoders=3, decode_context_tokens=15), gpu_time(index, 11)]
    rows += [finished(n, 101, 9) for n in (1, 2, 3)]
    fit = FixedTimes(None)
    made = Assembly(AssemblySettings(), measures=Measures(step_times=lambda: fit))
    for sequence, (code, values) in enumerate(rows, start=1):
        made.feed(code, sequence, values, 0)
    made.advance(10_000_000_000)
    shares = [only(one, names.DECODE).attributes[names.GPU_TIME_NS] for one in made.take_requests()]
    assert sorted(map(int, shares)) == [8 * 3, 8 * 4, 8 * 4]  # 11 of each of 8 steps: 4, 4 and 3
    assert [work.start_ns for work, _ in fit.added] == [0, 40, 80]
