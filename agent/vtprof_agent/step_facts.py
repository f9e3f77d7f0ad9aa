"""What settled steps come to: facts of a step, or of several of decoding alone that are folded together."""

from collections.abc import Sequence
from operator import mul

from vtprof_agent.decoding import lowest
from vtprof_agent.facts import StepFact
from vtprof_agent.steps import DECODE_REQUESTS, ENCODE_NS, FIELDS, PREFILL_TOKENS, OpenStep
from vtprof_schemas import names, records

_SUMS = (
    (names.STEP_PREFILL_TOKENS, PREFILL_TOKENS),
    (names.STEP_DECODE_REQUESTS, DECODE_REQUESTS),
    (names.STEP_DECODE_CONTEXT_TOKENS, FIELDS["decode_context_tokens"]),
    (names.STEP_DECODE_VISUAL_TOKENS, FIELDS["decode_visual_tokens"]),
    (names.STEP_ENCODE_NS, ENCODE_NS),
    (names.STEP_PREEMPTIONS, FIELDS["preemptions"]),
)
_KV_USED, _KV_VISUAL = FIELDS["kv_used_tokens"], FIELDS["kv_visual_tokens"]
_LEVELS = (
    (names.STEP_KV_USED_TOKENS, _KV_USED),
    (names.STEP_KV_VISUAL_TOKENS, _KV_VISUAL),
    (names.STEP_KV_USED_BLOCKS, FIELDS["kv_used_blocks"]),
    (names.STEP_RUNNING, FIELDS["running"]),
    (names.STEP_WAITING, FIELDS["waiting"]),
)


class StepRun:
    """Settled steps of one scheduler in order: several of decoding alone by the same requests, or one of any work.

    Facts are made of as many of them at a time as are folded together, so that many cost little more than one.
    """

    __slots__ = ("_decoders_need", "_other_work", "requests", "ring", "steps")

    def __init__(self, steps: Sequence[OpenStep], *, joined: bool) -> None:
        """Take steps; ``joined``: their facts say what of other rings has to be read again to make them anew."""
        first = steps[0]
        self.steps = steps
        self.ring = first.ring
        self.requests = first.decoding.refs(first.decoders)
        self._decoders_need = first.decoding.needs(first.decoders) if joined else None
        self._other_work: dict[str, int] = {}
        if first.mixed:  # now, as its requests may leave before it is folded
            states = [part.state for part in first.parts.encodes]
            states += [part.state for part in first.parts.prefills]
            refs = [state.ref for state in states if state.arrival_ns is not None]
            self.requests = tuple(dict.fromkeys([*refs, *self.requests]))
            self._other_work = _other_work(first)

    @property
    def levels(self) -> dict[str, int]:
        """Return the KV and batch after the last step, as far as they are told."""
        values = self.steps[-1].values
        return {key: values[place] for key, place in _LEVELS if values[place] >= 0}

    def fact(self, begin: int, end: int) -> StepFact:
        """Return the fact of the steps from one place to before another."""
        steps = self.steps[begin:end]
        first = steps[0]
        columns = list(zip(*[step.values for step in steps], strict=True))
        lengths = [step.end_ns - step.start_ns or 1 for step in steps]  # one of no length counts, too
        kv_peak = max(zip(columns[_KV_USED], columns[_KV_VISUAL], strict=True))
        return StepFact(
            sequence=first.sequence,
            last_sequence=steps[-1].sequence,
            count=len(steps),
            ring=self.ring,
            needs=self._needs(steps),
            index=first.index,
            start_ns=first.start_ns,
            end_ns=max([step.end_ns for step in steps]),
            mixed=first.mixed,
            requests=self.requests,
            decode_requests=first.decode_requests,
            sums=self._sums(steps, columns),
            levels={
                key: level for key, place in _LEVELS if (level := _over_time(columns[place], lengths))[1]
            },
            kv_peak=(kv_peak[0], max(kv_peak[1], records.UNKNOWN)) if kv_peak[0] >= 0 else None,
            counters=first.counters,
        )

    def _sums(self, steps: Sequence[OpenStep], columns: Sequence[Sequence[int]]) -> dict[str, int]:
        """Return what adds up; of tokens and GPU time nothing where a step lacks it, as the sum would say less."""
        sums: dict[str, int] = {}
        for key, place in _SUMS:
            told = columns[place]
            if min(told) < 0:
                told = [value for value in told if value >= 0]
            if told:
                sums[key] = sum(told)
        tokens = [step.decode_tokens for step in steps]
        if min(tokens) >= 0:
            sums[names.STEP_DECODE_TOKENS] = sum(tokens)
        sums.update(self._other_work)
        times = [step.gpu_ns for step in steps if step.gpu_ns is not None]
        if len(times) == len(steps):
            sums[names.GPU_TIME_NS] = sum(times)
        times = [step.encode_gpu_ns for step in steps if step.encode_gpu_ns is not None]
        if times:
            sums[names.STEP_ENCODE_GPU_TIME_NS] = sum(times)
        return sums

    def _needs(self, steps: Sequence[OpenStep]) -> dict[int, int]:
        """Return by ring the lowest sequence that the first step which needs it does."""
        if self._decoders_need is None:
            return steps[0].parts.needs  # of one ring
        needs = lowest((steps[0].parts.needs, self._decoders_need))
        for step in steps:
            if not step.parts.needs.keys() <= needs.keys():
                needs = {**step.parts.needs, **needs}
        return needs


def _over_time(levels: Sequence[int], lengths: Sequence[int]) -> tuple[int, int]:
    """Return the integral of a level over the steps that tell it, and their time, ns."""
    if min(levels) >= 0:
        return sum(map(mul, levels, lengths)), sum(lengths)
    told = [(level, ns) for level, ns in zip(levels, lengths, strict=True) if level >= 0]
    return sum(level * ns for level, ns in told), sum(ns for _, ns in told)


def _other_work(step: OpenStep) -> dict[str, int]:
    """Return what a step says of prompts and of the encoder beside its own record."""
    encodes, prefills = step.parts.encodes, step.parts.prefills
    told = (
        (names.STEP_ENCODE_NS, [step.encode_ns] if encodes else []),
        (names.STEP_PREFILL_VISUAL_TOKENS, [p.counts[names.PREFILL_VISUAL_TOKENS] for p in prefills]),
        (names.STEP_PREFILL_ATTENTION_PAIRS, [p.pairs for p in prefills]),
        (names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS, [p.visual_pairs for p in prefills]),
        (names.STEP_ENCODE_ITEMS, [e.piece.counts[names.ENCODE_ITEMS] for e in encodes]),
        (names.STEP_ENCODE_PATCHES, [e.patches for e in encodes]),
        (names.STEP_ENCODE_ATTENTION_PAIRS, [e.pairs for e in encodes]),
    )
    known = {key: [count for count in counts if count >= 0] for key, counts in told}
    sums = {key: sum(counts) for key, counts in known.items() if counts}
    return {**sums, names.STEP_PREFILL_REQUESTS: len({part.number for part in prefills})}
