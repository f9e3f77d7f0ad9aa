"""A dcgm-exporter's page: both generations of names, blanks, MIG, its own interval, and pages that are wrong or hang."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.dcgm import DcgmSampler, Interval
from vtprof_agent.samplers.dcgm_page import MAX_LINE, MAX_WANTED, read, wanted
from vtprof_agent.samplers.sampler import ALL, Sample, load
from vtprof_agent.samplers.tally import FORGET_NS, Tally
from vtprof_agent.sampling import Sampling
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

S = 1_000_000_000
DRAM = names.GPU_DRAM_BANDWIDTH_RATIO
LABELS = (
    'gpu="0",UUID="GPU-a",pci_bus_id="00000001:00:00.0",device="nvidia0",modelName="NVIDIA A100",Hostname="n"'
)


def _page(value: float = 0.69, energy_mj: int = 129931554972) -> str:
    """Return a page as dcgm-exporter writes it before 4.6."""
    return f"""# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{{{LABELS}}} 1410
DCGM_FI_DEV_MEM_CLOCK{{{LABELS}}} 1593
DCGM_FI_DEV_MEMORY_TEMP{{{LABELS}}} 9223372036854775794
DCGM_FI_DEV_POWER_USAGE{{{LABELS}}} 167.362
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{LABELS}}} {energy_mj}
DCGM_FI_DEV_MEM_COPY_UTIL{{{LABELS}}} 55
DCGM_FI_DEV_FB_USED{{{LABELS}}} 70000
# TYPE DCGM_FI_PROF_DRAM_ACTIVE gauge
DCGM_FI_PROF_DRAM_ACTIVE{{{LABELS}}} {value}
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{LABELS}}} 0.25
DCGM_FI_PROF_SM_ACTIVE{{{LABELS}}} 0.8
DCGM_FI_PROF_SM_OCCUPANCY{{{LABELS}}} 0.4
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{LABELS}}} 0.97
DCGM_FI_PROF_PCIE_TX_BYTES{{{LABELS}}} 33011804
"""


def _values(page: str) -> dict[tuple[str, int | None, str], float]:
    return {(line.uuid, line.instance, line.key): line.value for line in read(wanted(page)[0])}


def test_every_field_is_read_in_our_units() -> None:
    assert _values(_page()) == pytest.approx(
        {
            ("GPU-a", None, names.GPU_SM_CLOCK_MHZ): 1410,
            ("GPU-a", None, names.GPU_MEMORY_CLOCK_MHZ): 1593,
            ("GPU-a", None, names.GPU_POWER_MW): 167_362,
            ("GPU-a", None, names.GPU_ENERGY_MJ): 129931554972,
            ("GPU-a", None, names.GPU_MEMORY_BUSY_RATIO): 0.55,
            ("GPU-a", None, names.GPU_MEMORY_USED_BYTES): 70000 << 20,
            ("GPU-a", None, DRAM): 0.69,
            ("GPU-a", None, names.GPU_TENSOR_ACTIVE_RATIO): 0.25,
            ("GPU-a", None, names.GPU_SM_ACTIVE_RATIO): 0.8,
            ("GPU-a", None, names.GPU_SM_OCCUPANCY_RATIO): 0.4,
            ("GPU-a", None, names.GPU_BUSY_RATIO): 0.97,
        }
    )


def test_names_of_dcgm_4_6_mean_the_same_as_those_before() -> None:
    renamed = {
        "DCGM_FI_PROF_DRAM_ACTIVE": "DCGM_FI_PROF_DRAM_UTIL_RATIO",
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "DCGM_FI_PROF_TENSOR_UTIL_RATIO",
        "DCGM_FI_PROF_SM_ACTIVE": "DCGM_FI_PROF_SM_UTIL_RATIO",
        "DCGM_FI_PROF_SM_OCCUPANCY": "DCGM_FI_PROF_SM_OCCUPANCY_RATIO",
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO",
        "DCGM_FI_DEV_POWER_USAGE": "DCGM_FI_DEV_BOARD_POWER_WATTS",
    }
    new = _page()
    for before, after in renamed.items():
        new = new.replace(before + "{", after + "{")
    assert new != _page()
    assert _values(new) == _values(_page())


@pytest.mark.parametrize("blank", ["140737488355328.000000", "NaN", "+Inf", "-1", "2147483632", "1.5"])
def test_blanks_and_what_cannot_be_a_ratio_are_left_out(blank: str) -> None:
    told = _values(_page().replace("0.69", blank))
    assert ("GPU-a", None, DRAM) not in told
    assert len(told) == 10


def test_instances_are_told_apart_and_what_is_of_the_whole_gpu_stays_there() -> None:
    mig = 'gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="{}"'
    page = "".join(
        f"DCGM_FI_PROF_DRAM_ACTIVE{{{mig.format(i)}}} 0.{i}\nDCGM_FI_DEV_POWER_USAGE{{{mig.format(i)}}} 110\n"
        for i in (7, 9)
    )
    assert _values(page) == {
        ("GPU-a", 7, DRAM): 0.7,
        ("GPU-a", 9, DRAM): 0.9,
        ("GPU-a", None, names.GPU_POWER_MW): 110_000.0,
    }


def test_of_a_huge_page_a_part_is_read_and_the_rest_counted_and_other_series_are_not_parsed_at_all() -> None:
    # 24 + 11 + 10 + 6 + 1 = 52 characters each with the end of the line: 524,288 hold 10,082 of them.
    many = "".join(f'DCGM_FI_PROF_DRAM_ACTIVE{{UUID="GPU-{i:010}"}} 0.5\n' for i in range(40_000))
    lines, left_out = wanted(many)
    assert (len(read(lines)), left_out) == (10_082, 29_918)
    assert wanted("not { a page\nDCGM_FI_OTHER{ 1\n") == ("\n", 0)
    long = f'DCGM_FI_PROF_DRAM_ACTIVE{{UUID="GPU-{"x" * MAX_LINE}"}} 0.5\n'
    assert [line.uuid for line in read(wanted(long + _page())[0])] == ["GPU-a"] * 11
    assert wanted(long + _page())[1] == 1


@given(st.text(alphabet='DCGM_FIPROAVEUT{}="\\,. 0123456789\nNaInf#', max_size=200))
def test_whatever_the_page_says_it_is_read_or_refused_as_no_page(text: str) -> None:
    page = f"DCGM_FI_PROF_DRAM_ACTIVE{text}\n"
    try:
        lines = read(wanted(page)[0])
    except ValueError:
        return
    assert all(0 <= line.value <= 1 for line in lines if line.key == DRAM)


def test_the_interval_is_seen_from_when_the_values_change_and_edges_lie_between_two_looks() -> None:
    interval = Interval()
    # The page changes at 2.2, 4.2, 6.2 s ..., and is looked at each second.
    seen = [interval.look(str(max(0, 10 * t - 2) // 20), t * S) for t in range(9)]
    assert seen == [
        (None, 0),
        None,
        None,
        (None, 5 * S // 2),
        None,
        (5 * S // 2, 9 * S // 2),
        None,
        (9 * S // 2, 13 * S // 2),
        None,
    ]
    assert interval.known_ns == 2 * S


def test_after_values_that_stayed_the_same_the_new_ones_stand_for_the_last_interval_only() -> None:
    interval = Interval()
    for t, page in enumerate("abcd"):
        interval.look(page, t * S)
    for t in range(4, 9):
        assert interval.look("d", t * S) is None
    assert interval.look("e", 9 * S) == (15 * S // 2, 17 * S // 2)


class Exporter:
    """Serves what it is given."""

    def __init__(self) -> None:
        self.page, self.status = _page(), 200
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(exporter.status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(exporter.page.encode())

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    served = Exporter()
    yield served
    served.close()


def _by_key(samples: list[Sample]) -> dict[str, Sample]:
    return {sample.key: sample for sample in samples}


def _open(
    url: str, times: list[int], instance_uuid: Callable[[str, int], str | None] = lambda _, __: None
) -> DcgmSampler:
    ticks = iter(times)
    sampler = DcgmSampler(url, lambda: next(ticks), instance_uuid)
    assert sampler.why_not() is None
    sampler.open()
    return sampler


def test_a_value_that_changed_is_told_with_its_window_and_one_that_did_not_is_not(exporter: Exporter) -> None:
    sampler = _open(exporter.url, [1 * S, 2 * S, 3 * S, 4 * S])
    first = _by_key(sampler.sample(frozenset()))
    assert (first[DRAM].value, first[DRAM].start_ns) == (0.69, None), "over how long is not known yet"
    assert first[names.GPU_ENERGY_MJ].cumulative
    assert sampler.sample(frozenset()) == []
    for number in (1, 2):
        exporter.page = _page(0.1 * number)
        samples = _by_key(sampler.sample(frozenset()))
    dram = samples[DRAM]
    assert (dram.start_ns, dram.end_ns, dram.interval_ns) == (5 * S // 2, 7 * S // 2, S)
    assert (dram.value, dram.exact_edges, dram.source, dram.hw_id) == (0.2, False, "dcgm", "GPU-a")
    sampler.close()


def test_values_of_a_long_interval_stand_for_a_moment_not_for_all_of_it(exporter: Exporter) -> None:
    sampler = _open(exporter.url, [0, 30 * S, 60 * S])
    for number in (1, 2, 3):
        exporter.page = _page(0.1 * number)
        samples = _by_key(sampler.sample(frozenset()))
    assert (samples[DRAM].start_ns, samples[DRAM].interval_ns) == (None, 30 * S)
    sampler.close()


def test_instances_get_the_uuid_of_their_mig_device_where_it_is_known(exporter: Exporter) -> None:
    exporter.page = "".join(f'DCGM_FI_PROF_DRAM_ACTIVE{{UUID="GPU-a",GPU_I_ID="{i}"}} 0.5\n' for i in (7, 9))
    sampler = _open(exporter.url, [0], lambda parent, i: f"MIG-of-{parent}" if i == 7 else None)
    assert {s.hw_id for s in sampler.sample(frozenset())} == {"MIG-of-GPU-a", "GPU-a/9"}
    sampler.close()


@pytest.mark.parametrize(
    ("status", "page", "text"),
    [
        (302, "", "answered 302"),
        (503, "", "answered 503"),
        (200, "x" * (5 << 20), "more than"),
        (200, 'DCGM_FI_PROF_DRAM_ACTIVE{UUID="GPU-a" 0.5\n', "no DCGM fields|is a dcgm-exporter|labels"),
        (200, "vllm:num_requests_running 1\n", "no DCGM fields"),
    ],
)
def test_a_page_that_cannot_be_read_tells_nothing_and_says_why(
    exporter: Exporter, status: int, page: str, text: str
) -> None:
    exporter.status, exporter.page = status, page
    sampler = _open(exporter.url, [0, S])
    assert sampler.sample(frozenset()) == []
    with pytest.raises(BackendError, match=text):
        sampler.look()
    exporter.status, exporter.page = 200, _page()
    assert sampler.look() == ["GPU-a"]
    assert _by_key(sampler.sample(frozenset()))[DRAM].value == 0.69
    assert sampler.lost() == {}
    sampler.close()


def test_an_exporter_that_is_not_there_yet_is_no_reason_to_be_off() -> None:
    sampler = _open("http://127.0.0.1:1", [0])
    assert sampler.sample(frozenset()) == []
    assert sampler.lost() == {ALL: "cannot connect"}
    sampler.close()


@pytest.mark.parametrize(
    ("url", "text"), [(None, "no page of a dcgm-exporter is given"), ("ftp://x", "not an http")]
)
def test_without_a_page_it_says_what_to_set(url: str | None, text: str) -> None:
    sampler = load("dcgm", url)
    assert text in str(sampler.why_not())
    with pytest.raises(BackendError, match=text):
        sampler.open()


def _cluster(gpus: int) -> str:
    return "".join(
        f'{field}{{UUID="GPU-{gpu:03}"}} {value}\n'
        for field, value in (("DCGM_FI_DEV_POWER_USAGE", 100), ("DCGM_FI_DEV_SM_CLOCK", 1410))
        for gpu in range(gpus)
    )


def test_of_the_gpus_of_a_whole_cluster_256_are_taken_and_the_rest_is_said_once(
    exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    exporter.page = _cluster(300)
    sampler = _open(exporter.url, [S, 2 * S])
    sampling = Sampling()
    sampling._take(sampler.sample(frozenset()), 1.0)
    exporter.page += "\n"
    exporter.page = exporter.page.replace(" 100", " 101")
    sampling._take(sampler.sample(frozenset()), 1.0)
    told = {point.sample.hw_id for point in sampling.sample((), agent_resource("n"), 1)}
    assert told == {f"GPU-{gpu:03}" for gpu in range(256)}
    (said,) = [line for line in caplog.messages if "GPU" in line]
    assert said == (
        "more than 256 GPUs are told of: those beyond are left out; name with --dcgm-url the page of this node alone"
    )


def test_256_gpus_are_all_taken_and_one_that_is_gone_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()

    def told(gpu: int, at_ns: int) -> set[str | None]:
        tally.add([Sample(names.GPU_POWER_MW, 1, hw_id=f"GPU-{gpu}", source="dcgm")], at_ns, S)
        return {sample.hw_id for sample in tally.take()}

    assert [told(gpu, S) for gpu in range(256)] == [{f"GPU-{gpu}"} for gpu in range(256)]
    assert (told(256, S), tally.beyond) == (set(), True)
    told(0, S + FORGET_NS + 1)
    assert told(256, S + FORGET_NS + 2) == {"GPU-256"}


def test_the_part_of_a_page_that_is_not_read_is_said_once(
    exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    exporter.page = _cluster(9000)
    sampler = _open(exporter.url, [S, 2 * S])
    for _ in range(2):
        sampler.sample(frozenset())
    (said,) = caplog.messages
    # 'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-000"} 100' and its end are 44 characters, 45 from GPU-1000 on; of the clock 42, 43.
    room = MAX_WANTED - 1000 * 44 - 8000 * 45
    read_clocks = 1000 + (room - 1000 * 42) // 43
    assert said.startswith(
        f"{exporter.url}/metrics: {9000 - read_clocks} lines are left out of what is read of it"
    )
