"""The rings of one server become one trace for each request: every expected number can be checked by hand."""

from pathlib import Path
from typing import Any

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
    unexplained,
)
from ring_records import (
    arrived,
    encode,
    finished,
    first_token,
    gpu_time,
    left,
    make,
    preempted,
    prefill,
    preprocess,
    prompt,
    queue,
    sequence,
    step,
)

from vtprof_agent.align import Alignment
from vtprof_agent.identifiers import REQUEST, Origin
from vtprof_agent.inbox.ring_header import RingFile, RingIdentity
from vtprof_agent.metrics.metrics import Metrics
from vtprof_schemas import names, records


@pytest.fixture(autouse=True)
def _monotonic_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let spans have the times of the script."""
    monkeypatch.setattr(Alignment, "from_anchor", classmethod(lambda cls, *_: cls(0)))


def test_three_rings_make_one_trace_of_a_request(tmp_path: Path) -> None:
    agent = run(tmp_path, ONE)
    (request,) = requests(agent.spans).values()
    # Queue begins at the hand-over (150), though the scheduler saw it at 158. The encode phase begins
    # with its step, the encoder itself 5 ns later.
    assert request["phases"] == ONE_PHASES
    assert (request["start"], request["end"], request[names.TTFT_NS]) == (100, 225, 103)
    # From the step's end to the token.
    assert unexplained(request) == 3
    assert request[names.KV_BYTES] == (30 + 3 - 1) * 8  # the engine's bytes for a token
    assert request[names.REQUEST_MODEL] == "tiny"


def test_spans_of_request_and_steps_carry_the_engines_identity_and_what_the_others_know(
    tmp_path: Path,
) -> None:
    agent = run(tmp_path, ONE)
    resources = {tuple(sorted(span.resource.attributes.items(), key=str)) for span in agent.spans}
    (resource,) = map(dict, resources)
    assert resource[names.ROLE] == "engine"
    assert resource[names.SERVICE_NAME] == "chat"
    assert (resource[names.HW_ID], resource[names.DEVICE_KIND]) == ("GPU-0", "cpu")
    assert names.FAMILY not in resource


def test_steps_link_the_requests_of_the_other_ring(tmp_path: Path) -> None:
    agent = run(tmp_path, ONE)
    (request,) = requests(agent.spans).values()
    its_id = request["span"].context.span_id
    (api,) = [i for i in map(_identity, tmp_path.glob("*.ring")) if i.role == "api"]
    origin = Origin(api.boot_id, api.pid, api.start_ticks, api.created_ns)
    assert its_id == origin.span_id(REQUEST, 1)  # record 1 of the API server's ring
    assert step_spans(agent.spans) == [
        (names.SPAN_STEP, 1, 1, 40, (its_id,)),
        (names.SPAN_WINDOW, 2, 2, 18, ()),  # nobody joined or left within the second
    ]
    (mixed,) = [span for span in agent.spans if span.name == names.SPAN_STEP]
    assert mixed.attributes is not None
    assert mixed.attributes[names.STEP_ENCODE_NS] == 15  # from the worker's record


def _identity(path: Path) -> RingIdentity:
    ring = RingFile(path)
    ring.close()
    return ring.identity


def test_on_a_gpu_an_encode_lasts_as_long_as_the_device_worked(tmp_path: Path) -> None:
    """The worker launched the encoder in 2 ns, while the step before still ran; the events say 25 ns."""
    script = [
        ("api", arrived(1, 0)), ("api", preprocess(1, 0, 10)), ("engine", queue(1, 12, 20)),
        ("worker", encode(1, 1, 17, 19)), ("worker", gpu_time(1, 38, 25)),
        ("engine", prefill(1, 1, tokens=8)), ("engine", step(1, 20, 60, prefill_tokens=8, **UNTOLD)),
        ("api", first_token(1, 61)), ("engine", left(1, 1, 62)), ("api", finished(1, 63, 1)),
    ]  # fmt: skip
    cuda = {**INFO, "worker": {**INFO["worker"], names.DEVICE_KIND: "cuda"}}
    agent = run(tmp_path, script, cuda)
    (request,) = requests(agent.spans).values()
    assert request["phases"] == [
        ("preprocess", 0, 10), ("queue", 10, 20), ("encode", 20, 45), ("prefill", 45, 60),
    ]  # fmt: skip
    (mixed,) = [span for span in agent.spans if span.name == names.SPAN_STEP]
    assert mixed.attributes is not None
    assert (mixed.attributes[names.STEP_ENCODE_NS], mixed.attributes[names.STEP_ENCODE_GPU_TIME_NS]) == (
        25,
        25,
    )


def test_two_requests_in_chunks_with_an_encode_in_mid_chunk(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("api", preprocess(1, 0, 10)),
        ("api", arrived(2, 5)), ("api", preprocess(2, 10, 30)),
        ("engine", queue(1, 12, 20)),
        ("engine", prefill(1, 1, tokens=8, last=0)), ("engine", step(1, 20, 40, prefill_tokens=8, **UNTOLD)),
        ("engine", queue(2, 32, 40)),
        ("worker", encode(2, 1, 42, 48)), ("worker", encode(2, 2, 48, 52)),
        ("engine", prefill(2, 1, tokens=6)), ("engine", prefill(2, 2, tokens=2, last=0)),
        ("engine", step(2, 40, 60, prefill_tokens=8, **UNTOLD)),
        ("api", first_token(1, 61)),
        ("engine", prefill(3, 2, tokens=7)), ("engine", step(3, 60, 80, decoders=1, prefill_tokens=7, **UNTOLD)),
        ("engine", left(1, 3, 81)), ("api", finished(1, 82, 2)), ("api", first_token(2, 82)),
        ("engine", left(2, 3, 83)), ("api", finished(2, 84, 1)),
    ]  # fmt: skip
    agent = run(tmp_path, script)
    found = requests(agent.spans)
    assert found["1"]["phases"] == [
        ("preprocess", 0, 10), ("queue", 10, 20), ("prefill", 20, 40), ("encode", 40, 48), ("prefill", 48, 60),
        ("decode", 60, 80),
    ]  # fmt: skip
    assert found["2"]["phases"] == [
        ("preprocess", 10, 30), ("queue", 30, 40), ("encode", 40, 52), ("prefill", 52, 80),
    ]  # fmt: skip
    assert unexplained(found["1"]) == 1
    # 5 before a CPU worker took it up (10 - 5), 2 from the step to the token.
    assert unexplained(found["2"]) == 5 + 2
    encodes = [
        s.attributes[names.STEP_ENCODE_NS]
        for s in agent.spans
        if s.attributes and names.STEP_ENCODE_NS in s.attributes
    ]
    assert encodes == [10]


def test_two_sequences_of_one_request_are_one_request(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("api", prompt(1, 10)), ("api", sequence(11, 1)), ("api", sequence(12, 1)),
        ("engine", queue(11, 2, 10)), ("engine", queue(12, 2, 30)),
        ("engine", prefill(1, 11, tokens=10)), ("engine", step(1, 10, 30, prefill_tokens=10)),
        ("api", first_token(1, 30)),
        ("engine", prefill(2, 12, tokens=1)), ("engine", step(2, 30, 40, decoders=1, prefill_tokens=1)),
        ("engine", step(3, 40, 50, decoders=2)), ("engine", left(11, 3, 50, 3)),
        ("engine", step(4, 50, 60, decoders=1)), ("engine", left(12, 4, 60, 3)),
        ("api", finished(1, 61, 6)),
    ]  # fmt: skip
    agent = run(tmp_path, script)
    (request,) = requests(agent.spans).values()
    # While the first is served the request does not wait, whatever the second does.
    assert request["phases"] == [("queue", 0, 10), ("prefill", 10, 40), ("decode", 40, 60)]
    assert (request[names.INPUT_TOKENS], request[names.OUTPUT_TOKENS]) == (10, 6)
    windows = [s for s in agent.spans if s.name == names.SPAN_WINDOW and s.attributes]
    assert [s.attributes[names.STEP_DECODE_REQUESTS] for s in windows if s.attributes] == [2, 1]
    assert all(len(s.links) <= 1 for s in agent.spans)
    (decode,) = [s for s in agent.spans if s.name == names.PHASE_SPANS[names.DECODE]]
    assert decode.attributes is not None and decode.attributes[names.DECODE_STEPS] == 3


def test_a_preempted_request_waits_and_is_computed_again(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("engine", queue(1, 1, 5)),
        ("engine", prefill(1, 1, tokens=8)), ("engine", step(1, 5, 15, prefill_tokens=8)), ("api", first_token(1, 15)),
        ("engine", step(2, 15, 20, decoders=1)), ("engine", preempted(1, 3, 20)), ("engine", queue(1, 20, 35)),
        ("engine", prefill(4, 1, tokens=9)), ("engine", step(4, 35, 45, prefill_tokens=9)),
        ("engine", step(5, 45, 50, decoders=1)), ("engine", left(1, 5, 50)), ("api", finished(1, 51, 4)),
    ]  # fmt: skip
    (request,) = requests(run(tmp_path, script).spans).values()
    assert request["phases"] == [
        ("queue", 0, 5), ("prefill", 5, 15), ("decode", 15, 20), ("queue", 20, 35), ("prefill", 35, 45), ("decode", 45, 50),
    ]  # fmt: skip


def test_who_left_decodes_no_more_though_its_end_is_told_later(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("api", arrived(2, 0)),
        ("engine", prefill(1, 1, tokens=8)), ("engine", prefill(1, 2, tokens=8)),
        ("engine", step(1, 0, 10, prefill_tokens=16)), ("engine", step(2, 10, 20, decoders=2)),
        ("engine", left(1, 2, 20, 2)), ("engine", step(3, 20, 30, decoders=1)), ("engine", left(2, 3, 30, 3)),
        ("api", finished(2, 32, 3)), ("api", finished(1, 40, 2)),
    ]  # fmt: skip
    found = requests(run(tmp_path, script).spans)
    assert found["1"]["phases"] == [("prefill", 0, 10), ("decode", 10, 20)]
    assert found["2"]["phases"] == [("prefill", 0, 10), ("decode", 10, 30)]


def test_an_aborted_request_decodes_for_the_engine_until_it_left(tmp_path: Path) -> None:
    script = [
        ("api", arrived(1, 0)), ("engine", prefill(1, 1, tokens=8)), ("engine", step(1, 0, 10, prefill_tokens=8)),
        ("api", first_token(1, 10)), ("engine", step(2, 10, 20, decoders=1)),
        ("api", finished(1, 22, -1, names.STATUS_ABORTED)),
        ("engine", step(3, 20, 30, decoders=1)), ("engine", step(4, 30, 40, decoders=1)), ("engine", left(1, 4, 40, 4)),
    ]  # fmt: skip
    agent = run(tmp_path, script)
    (request,) = requests(agent.spans).values()
    assert request["phases"] == [("prefill", 0, 10), ("decode", 10, 22)]
    assert request[names.REQUEST_STATUS] == names.STATUS_ABORTED
    assert request[names.OUTPUT_TOKENS] == 4  # by the scheduler's word: the API has none
    # One window: who decodes did not change at the abort.
    assert [found[1:3] for found in step_spans(agent.spans)] == [(1, 1), (2, 3)]


def test_a_rejected_request_has_no_phases(tmp_path: Path) -> None:
    script = [*ONE, ("api", arrived(5, 300)), ("api", finished(5, 310, -1, names.STATUS_REJECTED))]
    agent = run(tmp_path, script)
    rejected = requests(agent.spans)["5"]
    assert rejected["phases"] == []


TP2 = {
    "api": INFO["api"],
    "engine": INFO["engine"],
    "worker0": {**INFO["worker"], names.RANK: 0, names.DEVICE_KIND: "cuda"},
    "worker1": {**INFO["worker"], names.RANK: 1, names.HW_ID: "GPU-1", names.DEVICE_KIND: "cuda"},
}


HIGH_FIRST = {name: TP2[name] for name in ("api", "worker1", "worker0", "engine")}


@pytest.mark.parametrize("processes", [TP2, HIGH_FIRST], ids=["low first", "high first"])
def test_of_two_ranks_one_encode_and_the_gpu_time_of_the_lower(
    tmp_path: Path, processes: dict[str, dict[str, Any]]
) -> None:
    script = [
        ("api", arrived(1, 0)),
        ("worker1", encode(1, 1, 4, 12, patches=7)), ("worker0", encode(1, 1, 5, 10, patches=8)),
        ("engine", encode_hits(1, 1, 3, hits=2)), ("engine", prefill(1, 1, tokens=5)),
        ("engine", step(1, 3, 20, prefill_tokens=5, **UNTOLD)),
        ("worker1", gpu_time(1, 99, 50)), ("worker0", gpu_time(1, 10, 4)),
        ("engine", left(1, 1, 20)), ("api", finished(1, 21, 1)),
    ]  # fmt: skip
    agent = run(tmp_path, script, processes)
    (request,) = requests(agent.spans).values()
    assert request["phases"] == [("encode", 3, 12), ("prefill", 12, 20)]
    shares = {s.name: dict(s.attributes or {}) for s in agent.spans}
    one = shares[names.PHASE_SPANS[names.ENCODE]]
    assert (one[names.ENCODE_PATCHES], one[names.ENCODE_ITEMS], one[names.ENCODE_CACHE_HITS]) == (8, 1, 2)
    assert one[names.GPU_TIME_NS] == 4
    assert shares[names.PHASE_SPANS[names.PREFILL]][names.GPU_TIME_NS] == 6
    assert shares[names.SPAN_STEP][names.GPU_TIME_NS] == 10
    assert request["span"].resource.attributes[names.HW_ID] == "GPU-0,GPU-1"


def encode_hits(index: int, request: int, at: int, hits: int) -> Any:
    return make(
        records.ENCODE,
        step=index,
        request=request,
        start_ns=at,
        end_ns=at,
        items=0,
        patches=0,
        cache_hits=hits,
    )


def test_two_engines_of_one_server_keep_their_steps_apart(tmp_path: Path) -> None:
    second = 1 << records.STEP_RANK_SHIFT
    processes = {
        "api": INFO["api"],
        "engine0": INFO["engine"],
        "engine1": {**INFO["engine"], names.RANK: 1},
        "worker0": INFO["worker"],
        "worker1": {**INFO["worker"], names.HW_ID: "GPU-1"},
    }
    script: list[Line] = [("api", arrived(1, 0)), ("api", arrived(2, 0))]
    for rank, request in ((0, 1), (1, 2)):
        base = rank * second
        script += [
            (f"worker{rank}", encode(base + 1, request, 4, 8)), (f"engine{rank}", prefill(base + 1, request, tokens=5)),
            (f"engine{rank}", step(base + 1, 3, 20, prefill_tokens=5, **UNTOLD)), ("api", first_token(request, 21)),
            (f"engine{rank}", step(base + 2, 20, 30 + rank, decoders=1, **UNTOLD)),
            (f"engine{rank}", left(request, base + 2, 31)), ("api", finished(request, 33, 2)),
        ]  # fmt: skip
    agent = run(tmp_path, script, processes)
    found = requests(agent.spans)
    assert found["1"]["phases"] == [("encode", 3, 8), ("prefill", 8, 20), ("decode", 20, 30)]
    assert found["2"]["phases"] == [("encode", 3, 8), ("prefill", 8, 20), ("decode", 20, 31)]
    served = {number: entry["span"].resource.attributes for number, entry in found.items()}
    assert {number: (r[names.RANK], r[names.HW_ID]) for number, r in served.items()} == {
        "1": (0, "GPU-0"), "2": (1, "GPU-1"),
    }  # fmt: skip
    rings = {span.resource.attributes[names.RING_CREATED_NS] for span in agent.spans}
    assert len(rings) == 2
    # Each counts its own; which one it is stands in the resource.
    assert sorted(row[1] for row in step_spans(agent.spans)) == [1, 1, 2, 2]


def test_two_transformers_processes_of_one_family_name_have_nothing_in_common(tmp_path: Path) -> None:
    info = {
        names.ENGINE_NAME: "transformers",
        names.FAMILY: "shell-1",
        names.DEVICE_KIND: "cpu",
        names.ROLE: "all",
    }
    script = [
        (who, row)
        for row in (
            arrived(1, 0),
            prefill(1, 1, tokens=3),
            step(1, 0, 10, prefill_tokens=3),
            finished(1, 10, 1),
        )
        for who in ("one", "two")
    ]
    agent = run(tmp_path, script, {"one": info, "two": info})
    roots = [span for span in agent.spans if span.name == names.SPAN_REQUEST]
    assert len({span.context.span_id for span in roots if span.context}) == len(roots) == 2
    prefills = [span for span in agent.spans if span.name == names.PHASE_SPANS[names.PREFILL]]
    assert {span.parent.span_id for span in prefills if span.parent} == {
        r.context.span_id for r in roots if r.context
    }
    assert len(step_spans(agent.spans)) == 2


def test_the_page_counts_a_request_once(tmp_path: Path) -> None:
    server, page = Server(tmp_path, ALL), Metrics("1")
    agent = Following(tmp_path, page)
    server.write_all(ONE[:-1])
    agent.turn(5, 1_000_000_000)
    value = page.registry.get_sample_value
    assert value("vtprof_agent_open_requests") == 1
    server.write_all(ONE[-1:])
    agent.settle()
    assert value(names.PROM_TTFT + "_count", {names.LABEL_VISUAL_STRATUM: "256", "model": "tiny"}) == 1
    assert value(names.PROM_TOKENS, {"modality": "image", "model": "tiny"}) == 20
    assert value("vtprof_agent_requests_unusable_total") == 0


def test_cached_tokens_are_the_first_chunks_where_the_api_server_cannot_tell(tmp_path: Path) -> None:
    untold = make(records.REQUEST_INPUT, request=1, input_tokens=20, text_tokens=20)
    chunk = make(records.PREFILL, step=1, request=1, tokens=4, cached_tokens=16, last=1)
    script = [
        ("api", arrived(1, 0)), ("api", untold), ("engine", chunk), ("engine", step(1, 0, 10, prefill_tokens=4)),
        ("engine", left(1, 1, 10)), ("api", finished(1, 11, 1)),
    ]  # fmt: skip
    (request,) = requests(run(tmp_path, script).spans).values()
    assert request[names.TOKENS_CACHED] == 16
