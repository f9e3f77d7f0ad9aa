"""Steps that are folded together come to the very spans that they come to one by one, whatever they tell."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.counters.meter import Share, StepCounters
from vtprof_agent.decoding import Decoding
from vtprof_agent.facts import StepFact, StepSpan
from vtprof_agent.request_state import RequestState
from vtprof_agent.step_facts import StepRun
from vtprof_agent.steps import OpenStep, StepParts
from vtprof_agent.windows import Folding
from vtprof_schemas import names, records

SECOND = 1_000_000_000
RING, WORKER, OTHER = 0, 1, 2
SUMS = {
    "prefill_tokens": names.STEP_PREFILL_TOKENS,
    "decode_requests": names.STEP_DECODE_REQUESTS,
    "decode_context_tokens": names.STEP_DECODE_CONTEXT_TOKENS,
    "decode_visual_tokens": names.STEP_DECODE_VISUAL_TOKENS,
    "encode_ns": names.STEP_ENCODE_NS,
    "preemptions": names.STEP_PREEMPTIONS,
}
LEVELS = {
    "kv_used_tokens": names.STEP_KV_USED_TOKENS,
    "kv_visual_tokens": names.STEP_KV_VISUAL_TOKENS,
    "kv_used_blocks": names.STEP_KV_USED_BLOCKS,
    "running": names.STEP_RUNNING,
    "waiting": names.STEP_WAITING,
}
NOTHING = Share(0.0, 0.0, 0.0)
COUNTS = st.integers(-2, 3) | st.integers(0, 2**62)
TELLS = ("decode_context_tokens", "decode_visual_tokens", "preemptions", "decode_tokens", *LEVELS)


class Engine:
    """Makes the steps of one scheduler, in which two requests decode, one, or none that is known."""

    def __init__(self, *, joined: bool) -> None:
        self.joined = joined
        self.decoding = Decoding()
        both = (RequestState(1, 3, 5), RequestState(2, 4, 5, ring=OTHER))
        self.crews = [both, both[:1], ()]
        self.sequence = self.at_ns = 0

    def step(self, crew: int, drawn: dict[str, Any], *, mixed: bool) -> OpenStep:
        """Make the next step; ``drawn`` says when, what its record tells and what came beside it."""
        self.sequence += drawn["passed"]
        start_ns = self.at_ns = self.at_ns + drawn["after_ns"]
        decoders = self.crews[crew]
        told = dict.fromkeys(records.STEP.field_names, 0) | {key: drawn[key] for key in TELLS}
        told |= {"decode_requests": len(decoders) or 1, "prefill_tokens": 7 * mixed or drawn["prompts"]}
        told |= {records.STEP.field_names[0]: self.sequence, records.STEP.field_names[1]: start_ns}
        parts = StepParts(RING, self.sequence)
        if self.joined:
            parts.needs.update(dict.fromkeys(drawn["rings"], self.sequence - 1))
        end_ns = start_ns + drawn["length_ns"]
        values = tuple(told.values())
        step = OpenStep(RING, self.sequence, values, end_ns, parts, self.decoding, decoders, 0)
        if drawn["gpu_ns"] is not None:
            step.take_gpu_time(drawn["gpu_ns"], drawn["encode_gpu_ns"], 0, last_word=True)
        return step


def by_hand(step: OpenStep, joined: bool) -> StepFact:
    """Return the fact of one step, from its record."""
    told = dict(zip(records.STEP.field_names, step.values, strict=True))
    sums = {key: told[field] for field, key in SUMS.items() if told[field] >= 0}
    mixed = told["prefill_tokens"] > 0
    if told["decode_tokens"] >= told["decode_requests"]:
        sums[names.STEP_DECODE_TOKENS] = told["decode_tokens"]
    if mixed:
        sums[names.STEP_PREFILL_REQUESTS] = 0
    if step.gpu_ns is not None:
        sums[names.GPU_TIME_NS] = step.gpu_ns
        if step.encode_gpu_ns is not None:
            sums[names.STEP_ENCODE_GPU_TIME_NS] = step.encode_gpu_ns
    length_ns = max(step.end_ns - step.start_ns, 1)
    used, visual = told["kv_used_tokens"], max(told["kv_visual_tokens"], records.UNKNOWN)
    needs = dict(step.parts.needs)
    for state in step.decoders if joined else ():
        needs[state.ring] = min(needs.get(state.ring, state.sequence), state.sequence)
    return StepFact(
        sequence=step.sequence,
        last_sequence=step.sequence,
        index=step.index,
        start_ns=step.start_ns,
        end_ns=step.end_ns,
        mixed=mixed,
        requests=tuple(state.ref for state in step.decoders),
        decode_requests=told["decode_requests"],
        sums=sums,
        levels={key: (told[f] * length_ns, length_ns) for f, key in LEVELS.items() if told[f] >= 0},
        kv_peak=(used, visual) if used >= 0 else None,
        ring=RING,
        needs=needs,
        counters=step.counters,
    )


def outcome(folding: Folding) -> tuple[list[StepSpan], int, dict[int, int]]:
    needs = dict(folding.open_needs)
    folding.close()
    return folding.take(), folding.exported_through, needs


DRAWN = st.fixed_dictionaries(
    {
        "passed": st.integers(1, 3),
        "after_ns": st.sampled_from((1, SECOND // 3, SECOND // 4, SECOND // 5, SECOND // 6, SECOND, -1)),
        "length_ns": st.sampled_from((0, 1, 3, SECOND // 3)),
        "prompts": st.sampled_from((0, records.UNKNOWN)),
        "gpu_ns": st.none() | st.integers(0, 5) | st.integers(0, 2**62),
        "encode_gpu_ns": st.sampled_from((0, records.UNKNOWN)),
        "rings": st.sets(st.sampled_from((WORKER, OTHER, 3))),
        **dict.fromkeys(TELLS, COUNTS),
    }
)
RUNS = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 0, 1, 2)),
        st.sampled_from((False, False, False, True)),
        st.booleans(),
        st.lists(DRAWN, min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(RUNS, st.booleans(), st.integers(0, 3), st.integers(0, 12))
def test_steps_folded_together_come_to_what_they_come_to_one_by_one(
    drawn: list[tuple[int, bool, bool, list[dict[str, Any]]]], joined: bool, detail: int, skipped: int
) -> None:
    engine = Engine(joined=joined)
    together, one_by_one = (Folding(skipped, detail) for _ in range(2))
    for crew, mixed, counted, rows in drawn:
        steps = [engine.step(crew, row, mixed=mixed) for row in (rows[:1] if mixed else rows)]
        if counted:
            share = Share(0.1 * len(steps), 0.0, 1.0)
            amounts = {names.GPU_ENERGY_MJ: (NOTHING, NOTHING, share)}
            quality = {names.GPU_ENERGY_MJ: names.QUALITY_MEASURED}
            given_all = StepCounters(amounts, quality, 2, len(steps))
            for step in steps:
                step.counters = given_all
        for step in steps:
            one_by_one.add(by_hand(step, joined))
        together.add_run(StepRun(steps, joined=joined))
    assert outcome(together) == outcome(one_by_one)


def test_a_run_of_many_steps_is_one_fact_for_each_window() -> None:
    """Else nothing is gained."""
    engine, made = Engine(joined=False), []

    class Counting(Folding):
        def add(self, fact: StepFact) -> None:
            made.append(fact.count)
            super().add(fact)

    drawn = dict.fromkeys(TELLS, 1) | {
        "passed": 1, "after_ns": SECOND // 10, "length_ns": 5, "prompts": 0, "gpu_ns": 4, "encode_gpu_ns": -1,
        "rings": (),
    }  # fmt: skip
    steps = [engine.step(0, drawn, mixed=False) for _ in range(25)]
    folding = Counting()
    folding.add_run(StepRun(steps, joined=False))
    spans, _, _ = outcome(folding)
    assert made == [10, 10, 5]
    assert [span.attributes[names.STEP_COUNT] for span in spans] == made
    assert _apart(spans)


def _apart(spans: Sequence[StepSpan]) -> bool:
    return all(one.last_sequence < other.sequence for one, other in pairwise(spans))
