"""Steps of decoding alone are settled in runs: each request is given what it would be step by step."""

from collections.abc import Sequence

import ring_records as ring
from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.attribution import split_step
from vtprof_agent.counters.meter import Share, StepCounters, Work
from vtprof_agent.inbox.decoder import decode
from vtprof_agent.step_work import Measures
from vtprof_schemas import names, records

LENGTH_NS = 1_000
NOTHING = Share(0.0, 0.0, 0.0)


class Runs:
    """A meter that notes how many steps are asked for together, and gives 1 mJ to each."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def add(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> None:
        pass

    def await_step(self, gpus: tuple[str, ...], line: int, awaited: bool) -> None:
        pass

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        return True

    def of(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> StepCounters | None:
        return self.of_run(gpus, [work])

    def of_run(self, gpus: tuple[str, ...], works: Sequence[Work], line: int = 0) -> StepCounters | None:
        self.asked.append(len(works))
        amount = float(len(works))
        shares = {names.GPU_ENERGY_MJ: (NOTHING, NOTHING, Share(amount, amount, amount))}
        return StepCounters(shares, {names.GPU_ENERGY_MJ: names.QUALITY_MEASURED}, 1, len(works))


def told(requests: int, strangers: int, times: Sequence[int | None]) -> list[ring.Row]:
    """Return the records of requests that are prefilled in one step and then decode, with these GPU times."""
    numbers = range(1, requests + 1)
    rows = [row for n in numbers for row in (ring.arrived(n, 10), ring.prompt(n, 5), ring.prefill(1, n, 5))]
    rows += [ring.step(1, 20, 30, prefill_tokens=5 * requests), *(ring.first_token(n, 31) for n in numbers)]
    at = LENGTH_NS
    for index, gpu_ns in enumerate(times, start=2):
        rows.append(ring.step(index, at, at + LENGTH_NS, decoders=requests + strangers))
        if gpu_ns is not None:
            rows.append(ring.gpu_time(index, gpu_ns))
        at += LENGTH_NS
    return rows + [ring.finished(n, at, len(times) + 1) for n in numbers]


def decoded(rows: list[ring.Row], meter: Runs | None) -> list[tuple[object, object, object]]:
    """Return GPU time, its quality and the steps of each request's decoding, by request."""
    machine = Assembly(AssemblySettings(), expects_gpu_time=True, measures=Measures(meter))
    if meter is not None:
        machine.steps.gpus[0] = ("GPU-a",)
    requests, _, _ = ring.assemble(rows, assembly=machine)
    found = [ring.only(requests[key], names.DECODE).attributes for key in sorted(requests, key=int)]
    keys = (names.GPU_TIME_NS, names.GPU_TIME_QUALITY, names.DECODE_STEPS)
    return [(one.get(keys[0]), one.get(keys[1]), one.get(keys[2])) for one in found]


@given(
    st.integers(1, 5),
    st.integers(0, 2),
    st.lists(st.integers(0, 10**7) | st.none(), min_size=1, max_size=12),
)
def test_gpu_times_of_a_run_are_shared_as_those_of_its_steps(
    requests: int, strangers: int, times: list[int | None]
) -> None:
    given_ns = [0] * requests
    for gpu_ns in times:
        if gpu_ns is not None:
            tokens = [1] * requests + [strangers] * (strangers > 0)
            shares = split_step(gpu_ns, None, None, [], [], tokens, requests + strangers, None).token_ns
            given_ns = [mine + more for mine, more in zip(given_ns, shares, strict=False)]
    quality = names.QUALITY_MEASURED if requests + strangers == 1 else names.QUALITY_ATTRIBUTED
    if None in times:
        quality = names.QUALITY_ESTIMATED
    known = any(gpu_ns is not None for gpu_ns in times)
    expected = [(ns if known else None, quality if known else None, len(times)) for ns in given_ns]
    meter = Runs()
    rows = told(requests, strangers, times)
    assert decoded(rows, meter) == expected
    assert decoded(rows, None) == expected, "as without counters"
    assert meter.asked == [1, len(times)], "the step of the prompts, then the others together"


@given(
    st.lists(st.sampled_from([records.REQUEST_ARRIVED, records.GPU_TIME, records.FIRST_TOKEN]), max_size=5)
)
def test_a_record_is_decoded_alike_wherever_it_lies(kinds: list[records.RecordKind]) -> None:
    packed = [
        b"\0" * records.CRC.size
        + kind.packer.pack(kind.code, 0, place, *range(place, place + len(kind.fields)))
        for place, kind in enumerate(kinds, start=1)
    ]
    raw = b"".join(packed)
    for place, (kind, one) in enumerate(zip(kinds, packed, strict=True)):
        found = decode(raw, place * records.RECORD_BYTES)
        assert found is not None
        assert found == decode(one)
        expected = tuple(range(place + 1, place + 1 + len(kind.fields)))
        assert (found.kind, found.sequence, found.values) == (kind, place + 1, expected)
