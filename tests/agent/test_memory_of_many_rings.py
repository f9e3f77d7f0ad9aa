"""What an agent keeps in memory for each ring is little, so that hundreds of them fit into its budget."""

import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from vtprof_agent.align import Alignment
from vtprof_agent.facts import RequestRef, StepSpan
from vtprof_agent.identifiers import Origin
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.resource import agent_resource
from vtprof_agent.spans import SpanBuilder
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

RINGS = 50
BUDGET_BYTES = 100_000_000
MOST_RINGS = 200
"""With which the agent stays within its budget, of which it takes 60 MB itself."""
MOST_BYTES = (BUDGET_BYTES - 60_000_000) // MOST_RINGS


def kept(make: Callable[[], object]) -> int:
    """Return the bytes of what is made, as long as it is held."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    held = make()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held is not None
    return after - before


def test_a_ring_that_is_read_leaves_no_buffer_behind(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def read() -> list[RingReader]:
            readers = []
            for number in range(RINGS):
                writer = RingWriter.create(str(tmp_path / str(number)), 4096, "all", 0, {})
                for _ in range(3000):
                    writer.write(records.REQUEST_ARRIVED, 1, 2)
                reader = RingReader.open(Path(writer.path))
                stack.callback(reader.close)
                reader.seek(1)
                assert reader.read(4096).count == 3000
                writer.close()
                readers.append(reader)
            return readers

        assert kept(read) < RINGS * MOST_BYTES / 4


def test_the_ids_of_requests_are_remembered_for_so_many_over_all_rings() -> None:
    requests, resource = 500, agent_resource("test")

    def build() -> list[SpanBuilder]:
        builders = []
        for ring in range(RINGS):
            builder = SpanBuilder(Origin(b"boot", ring, 1), resource, Alignment(0))
            for number in range(0, requests, 50):
                links = tuple(RequestRef(1 + number + at) for at in range(50))
                builder.step(StepSpan(names.SPAN_STEP, 1, 1, 0, 0, 1, {}, links))
            builders.append(builder)
        return builders

    # 25,000 requests; a ring's own share of all that is remembered is what counts against its budget.
    assert kept(build) < RINGS * MOST_BYTES / 2
