"""A request's KV bytes and model are its own where the probe says them, the process's where it does not."""

from ring_records import Row, arrived, assemble, finished, make, prompt

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.request_state import KvCosts
from vtprof_schemas import names, records

PROCESS = KvCosts(bytes_per_token=100, fixed_bytes=7)


def kv(tokens: int, visual: int, per_token: int, fixed: int) -> Row:
    return make(
        records.REQUEST_KV,
        request=1,
        tokens=tokens,
        visual_tokens=visual,
        bytes_per_token=per_token,
        fixed_bytes=fixed,
    )


def attributes(*extra: Row) -> dict[str, object]:
    rows = [arrived(1, 0), prompt(1, 10, 20), *extra, finished(1, 50, output=5)]
    machine = Assembly(AssemblySettings())
    machine.requests.kv[0] = PROCESS
    requests, _, _ = assemble(rows, assembly=machine)
    (request,) = requests.values()
    return dict(request.attributes)


def test_without_its_own_the_process_layout_stands() -> None:
    # 30 prompt tokens and 5 generated ones, of which the last is never fed back.
    assert attributes()[names.KV_BYTES] == 34 * 100 + 7
    assert attributes()[names.KV_VISUAL_BYTES] == 20 * 100


def test_its_own_cache_counts() -> None:
    own = attributes(kv(102, 60, 50, 3))
    assert (own[names.KV_BYTES], own[names.KV_VISUAL_BYTES]) == (102 * 50 + 3, 60 * 50)


def test_a_call_without_a_cache_holds_nothing() -> None:
    assert attributes(kv(0, 0, 0, 0))[names.KV_BYTES] == 0


def test_a_cache_of_unknown_layout_is_unknown_and_not_the_layout_of_another_call() -> None:
    assert names.KV_BYTES not in attributes(kv(34, 20, -1, 0))


def test_the_model_of_the_request_stands_before_that_of_the_process() -> None:
    named = make(records.REQUEST_MODEL, request=1, length=4, text=b"half")
    assert attributes(named)[names.REQUEST_MODEL] == "half"
