"""The steps of a family while they are held: parts that wait for their step, and the steps of each scheduler in order."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from vtprof_agent.counters.work_curve import only_decodes
from vtprof_agent.decoding import Decoding, lowest
from vtprof_agent.request_state import RequestState
from vtprof_agent.step_counters import DecodeAccount
from vtprof_agent.step_facts import StepRun
from vtprof_agent.step_work import Measures, StepTimes, give_counters, mixed, runs, work_of
from vtprof_agent.steps import OpenStep, StepParts, share_run
from vtprof_schemas import records

PIPELINE_STEPS = 8
"""A part whose step is this many iterations behind belongs to a step whose record was lost."""
MAX_OPEN_STEPS = 16_384
MAX_PARTS = 4 * PIPELINE_STEPS
MAX_PARTS_AHEAD = 16_384
"""The same where other rings tell of the parts: they may be read far ahead of the scheduler's."""
_RECHECKED_STEPS = 64
"""After a loss, so many steps look for those that decode though nobody said so."""
IN_FLIGHT = 2
"""A request may be preempted for a step while the one before is still under way: both are recorded later."""
_AHEAD_NS = 1_000_000_000
"""A step that ends so far behind the present is none: its work would hold up what all others on the GPU are given."""
_DECODING_LEARNT = 4
"""Of steps of decoding alone every so many is enough to learn their GPU time from: there are many, and much alike."""
ENCODER_TIME_WAIT_NS = 200_000_000
"""The meter is told of a step with encodes once the encoder's GPU time is known, but no later."""


_numbers = count()


class Line:
    """One scheduler: who decodes in it, and its steps in order."""

    def __init__(self, *, by_left: bool) -> None:
        """Start without steps."""
        self.number = next(_numbers)
        """What the meter knows it by."""
        self.decoding = Decoding(by_left=by_left)
        self.steps: deque[OpenStep] = deque()
        self.steps_seen = 0
        self.recheck = 0
        """Steps to come that look for decoders whose records were lost."""
        self.last_index = -1
        """Of its newest step that was recorded."""
        self.unmetered: deque[OpenStep] = deque()
        """Steps whose work the meter does not know yet."""
        self.account = DecodeAccount()
        self.times: StepTimes | None = None

    def decodes_untold(self, number: int, index: int) -> bool:
        """Tell whether a sequence decoded through a step that was not recorded, as at the lowest level of detail."""
        return number in self.decoding and index > self.last_index

    def lost(self) -> None:
        """Note that records of the scheduler were lost."""
        self.recheck = _RECHECKED_STEPS


class StepLines:
    """Parts by step number, which is one number in all rings of a family, and one line for each ring with steps."""

    def __init__(self, *, joined: bool, measures: Measures | None = None) -> None:
        """Start empty."""
        self._joined = joined
        self._measures = measures or Measures()
        self.gpus: dict[int, tuple[str, ...]] = {}
        """By ring the GPUs on which its steps run."""
        self.metered = True
        """False while not all steps are recorded: counters would be given to those that are."""
        self.lines: dict[int, Line] = {}
        self.by_index: dict[int, OpenStep] = {}
        self.parts: OrderedDict[int, StepParts] = OrderedDict()
        self.groups: dict[int, int] = {}
        """By ring: the data-parallel rank in the step numbers that it names."""
        self._done: dict[int, int] = {}
        """By data-parallel rank the newest step whose record came."""

    def line(self, ring: int) -> Line:
        """Return the line of a ring."""
        line = self.lines.get(ring)
        if line is None:
            line = self.lines[ring] = Line(by_left=self._joined)
        return line

    def oldest_ns(self, ring: int) -> int | None:
        """Return when the oldest step of a ring that is held began, None when none is."""
        line = self.lines.get(ring)
        return line.steps[0].start_ns if line is not None and line.steps else None

    def part_of(self, index: int, ring: int, sequence: int) -> tuple[StepParts, int | None]:
        """Return the parts of a step for one more, and the number of a step whose parts must be given up for it."""
        parts = self.parts.get(index)
        over = None
        if parts is None:
            if len(self.parts) >= (MAX_PARTS_AHEAD if self._joined else MAX_PARTS):
                over = next(iter(self.parts))
            parts = self.parts[index] = StepParts(ring, sequence)
        known = parts.needs.get(ring)
        if known is None or sequence < known:
            parts.needs[ring] = sequence
        if self._joined and ring not in self.groups:
            self.groups[ring] = index >> records.STEP_RANK_SHIFT
        return parts, over

    def lowest(self, ring: int, index: int, ranks: Mapping[int, int]) -> bool:
        """Tell whether no ring of a lower rank tells of the same steps, as far as is known."""
        group = self.groups[ring] = index >> records.STEP_RANK_SHIFT
        mine = ranks.get(ring, 0)
        return not any(
            rank < mine and self.groups.get(other, group) == group for other, rank in ranks.items()
        )

    def begun(self, index: int) -> bool:
        """Tell whether a step's own record, or that of a later one, has come."""
        return index <= self._done.get(index >> records.STEP_RANK_SHIFT, -1)

    def behind(self, index: int) -> list[int]:
        """Return the numbers of steps with parts that are so far behind a step that their records are lost."""
        if not self._joined:
            return [i for i in self.parts if i + PIPELINE_STEPS < index]
        found = []
        rank = index >> records.STEP_RANK_SHIFT
        for other in self.parts:
            if other >> records.STEP_RANK_SHIFT == rank:
                if other + PIPELINE_STEPS >= index:
                    break
                found.append(other)
        return found

    def append(self, step: OpenStep) -> OpenStep | None:
        """Hold a step; return one that must be settled for want of room."""
        line = self.line(step.ring)
        if self._joined:
            rank = step.index >> records.STEP_RANK_SHIFT
            self.groups[step.ring] = rank
            # An engine that is new in its place counts from the beginning.
            newest = self._done.get(rank, -1) if line.steps_seen else -1
            self._done[rank] = max(step.index, newest)
        line.steps_seen += 1
        line.last_index = step.index
        told_ahead = step.end_ns > step.seen_ns + _AHEAD_NS
        gpus = self.gpus.get(step.ring)
        if self._measures.meter is not None and self.metered and gpus and not told_ahead:
            step.gpus = gpus
            line.unmetered.append(step)
        over = line.steps.popleft() if len(line.steps) >= MAX_OPEN_STEPS else None
        line.steps.append(step)
        self.by_index[step.index] = step
        return over

    def await_steps(self, awaited: bool) -> None:
        """Tell the meter whether there are requests for which a step may be under way."""
        meter = self._measures.meter
        if meter is not None:
            for ring, line in self.lines.items():
                if gpus := self.gpus.get(ring):
                    meter.await_step(gpus, line.number, awaited)

    def due(self, now_ns: int, hold_ns: int, *, expects_gpu_time: bool) -> Iterable[list[OpenStep]]:
        """Take out, line by line in order, the steps for which nothing more comes, and those first seen ``hold_ns`` ago."""
        overdue_ns = now_ns - hold_ns
        meter = self._measures.meter
        for line in self.lines.values():
            if line.unmetered:
                self._tell_meter(line, now_ns)
            ready: list[OpenStep] = []
            while line.steps:
                step = line.steps[0]
                if step.seen_ns > overdue_ns:
                    if expects_gpu_time and not step.timed:
                        break
                    if step.gpus and meter is not None and not self._complete(step):
                        break
                ready.append(line.steps.popleft())
            if ready:
                yield ready

    def all(self) -> Iterable[list[OpenStep]]:
        """Take out all steps, line by line."""
        for line in self.lines.values():
            ready = list(line.steps)
            line.steps.clear()
            if ready:
                yield ready

    def settle(self, steps: Sequence[OpenStep], *, expects_gpu_time: bool) -> Iterable[StepRun]:
        """Split GPU times and counters of steps of one line over their requests, and hand them on, run by run."""
        line = self.lines[steps[0].ring]
        untold = [step for step in steps if step.gpus and step.work is None]
        if untold:
            self._tell_meter(line, untold[-1].seen_ns, through=untold[-1])
        for run in runs(steps):
            if self._measures.meter is not None:
                give_counters(run, self._measures.meter, line.account, line.number)
            self._settle(line, run, expects_gpu_time=expects_gpu_time)
            yield StepRun(run, joined=self._joined)

    def _settle(self, line: Line, run: Sequence[OpenStep], *, expects_gpu_time: bool) -> None:
        shared = run[0].gpu_ns is not None and share_run(run)
        for step in run:
            if self.by_index.get(step.index) is step:
                del self.by_index[step.index]
            if step.gpu_ns is not None or expects_gpu_time:
                if step.parts.encodes:
                    step.place_encodes()
                learnt = len(run) == 1 or step.index % _DECODING_LEARNT == 0
                fractions = self._fractions(line, step) if learnt else None
                if not shared:
                    step.share_gpu_time(fractions)
            if self._joined and step.parts.encodes:
                step.begin_with_encodes()
        needs = lowest(step.parts.needs for step in run) if self._joined else {}
        for state in run[0].states():
            state.unsettled_steps -= len(run)
            for ring, sequence in needs.items() if len(needs) > 1 else ():
                state.need(ring, sequence)

    def _complete(self, step: OpenStep) -> bool:
        meter = self._measures.meter
        return step.work is not None and meter is not None and meter.complete(step.gpus, step.end_ns)

    def _tell_meter(self, line: Line, now_ns: int, through: OpenStep | None = None) -> None:
        """Tell the meter, in order, of the steps whose work is known, or of all through one."""
        meter = self._measures.meter
        assert meter is not None
        while line.unmetered:
            step = line.unmetered[0]
            known = not step.parts.encodes or step.timed or step.encode_gpu_ns is not None
            if through is None and not known and now_ns - step.seen_ns < ENCODER_TIME_WAIT_NS:
                return
            line.unmetered.popleft()
            step.work = work_of(step)
            meter.add(step.gpus, step.work, line.number)
            if step is through:
                return

    def _fractions(self, line: Line, step: OpenStep) -> tuple[float, float, float] | None:
        """Learn from a step's GPU time; return how a mixed one is split, None where that is not known."""
        if step.gpu_ns is None or self._measures.step_times is None:
            return None
        if line.times is None:
            line.times = self._measures.step_times()
        work = step.work or work_of(step)
        if step.index % _DECODING_LEARNT and only_decodes(work):
            return None
        line.times.add(work, step.gpu_ns)
        return line.times.parts(work) if mixed(work) else None

    def one_finished(self) -> None:
        """Note that a request finished."""
        for line in self.lines.values():
            line.decoding.one_finished()

    def leave(self, number: int) -> None:
        """Take a sequence out of whichever line it decodes in."""
        for line in self.lines.values():
            line.decoding.leave(number)

    def replace(self, old: RequestState, new: RequestState) -> None:
        """Let everything that is held count for another request, which turned out to be its own."""
        for line in self.lines.values():
            line.decoding.replace(old, new)
            for step in line.steps:
                self._replace_parts(step.parts, old, new)
                step.decoders = tuple(new if state is old else state for state in step.decoders)
        for parts in self.parts.values():
            self._replace_parts(parts, old, new)
        held = (step for line in self.lines.values() for step in line.steps)
        new.unsettled_steps = sum(new in step.states() for step in held)

    def _replace_parts(self, parts: StepParts, old: RequestState, new: RequestState) -> None:
        for encode in parts.encodes:
            encode.state = new if encode.state is old else encode.state
        for prefill in parts.prefills:
            prefill.state = new if prefill.state is old else prefill.state

    def needed(self) -> list[dict[int, int]]:
        """Return of all that is held the lowest sequence by ring that it needs."""
        held = [parts.needs for parts in self.parts.values()]
        held += [step.parts.needs for line in self.lines.values() for step in line.steps]
        return held

    @property
    def mismatches(self) -> int:
        """Return how many steps counted other decoders than were known."""
        return sum(line.decoding.mismatches for line in self.lines.values())
