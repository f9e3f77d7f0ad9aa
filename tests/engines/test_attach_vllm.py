"""Attach to a real vLLM and detach again, many times, under load: no request fails, no process is stopped for long.

Each time steps are recorded while it is attached, and no attribute is a wrapper afterwards.

``VTPROF_ATTACH_CYCLES`` says how often (5 unless set; 100 takes some minutes).
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import engine_server
import pytest
from attached_process import WRAPPED, Holdings, evaluate
from workload import Case, Image, send

from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.outcome import ATTACHED, DETACHED, SKIPPED
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_schemas import records

CYCLES = int(os.environ.get("VTPROF_ATTACH_CYCLES", "5"))
MOST_STOPPED_MS = 50.0
CLIENTS = 2
OUTPUT_TOKENS = 8
SLACK = 20
"""Mappings, threads and files that a server under load has more at one time than at another."""


class Load:
    """Clients that send one request after the other until told to stop."""

    def __init__(self, port: int) -> None:
        self.answers: list[dict[str, object]] = []
        self.errors: list[BaseException] = []
        self._port = port
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _client(self, number: int) -> None:
        tint = number
        while not self._stop.is_set():
            tint += CLIENTS
            image = Image(112, 112, tint % 250)
            case = Case("attach", f"what is in picture {tint:06d}?", (image,), max_tokens=OUTPUT_TOKENS)
            try:
                self.answers.append(send(case, case.body(), self._port))
            except BaseException as error:
                self.errors.append(error)
                return


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_attach_under_load_fails_no_request_and_stops_no_process_for_long(
    engine_venv: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    options = Options(tmp_path / "rings", timeout_s=60.0)
    stops: list[float] = []
    with engine_server.serving(engine_venv, tiny_model_folder, tmp_path / "server") as server:
        load = Load(server.port)
        pid = server.process.pid
        roles = {role: process.pid for role, process in server.by_role().items()}
        before: dict[str, Holdings] = {}
        with load.running():
            for cycle in range(CYCLES):
                attached = attach(pid, options)
                hosts = [outcome.pid for outcome in attached if outcome.result == ATTACHED]
                assert not [o for o in attached if o.result not in (ATTACHED, SKIPPED)], (cycle, attached)
                assert set(roles.values()) <= set(hosts)
                if not before:
                    assert all(evaluate(one, WRAPPED) for one in roles.values())
                server._wait(lambda: _steps(options.ring_dir) > 0, 120, "recorded no step")
                detached = detach(pid, options)
                assert [o.pid for o in detached if o.result == DETACHED] == hosts, (cycle, detached)
                assert [wrapped for one in roles.values() for wrapped in evaluate(one, WRAPPED)] == []
                stops += [o.stopped_ms for o in attached + detached if o.stopped_ms is not None]
                files = list(options.ring_dir.iterdir())
                assert 0 < len(files) <= len(hosts)
                for file in files:
                    file.unlink()  # as an agent does that has read them
                before = before or {role: Holdings.of(one) for role, one in roles.items()}
        after = {role: Holdings.of(one) for role, one in roles.items()}
        assert not load.errors
        assert {answer["http_status"] for answer in load.answers} == {200}
        assert {answer["completion_tokens"] for answer in load.answers} == {OUTPUT_TOKENS}
        assert server.process.poll() is None
    stops.sort()
    print(
        f"{CYCLES} cycles of {len(hosts)} processes, {len(load.answers)} requests answered, {len(stops)} stops in ms:"
        f" median {stops[len(stops) // 2]:.2f}, 99 % {stops[len(stops) * 99 // 100]:.2f}, longest {stops[-1]:.1f}"
    )
    for role, held in after.items():
        print(f"{role}: after the first cycle {before[role]}\n{role}: after the last         {held}")
        assert held.mappings - before[role].mappings < SLACK + CYCLES / 2
        assert held.threads - before[role].threads < SLACK + CYCLES / 2
        assert held.files - before[role].files < SLACK + CYCLES / 2
    # Not the longest: on an overloaded machine the stopped thread waits for a processor, as it would anyway.
    assert stops[len(stops) * 9 // 10] <= MOST_STOPPED_MS


def _steps(rings: Path) -> int:
    """Return how many steps the rings of a folder tell of."""
    found = 0
    for path in rings.glob("*.ring"):
        reader = RingReader.open(path)
        try:
            reader.seek(1)
            found += sum(record.kind is records.STEP for record in reader.decoded(reader.read(10_000)))
        finally:
            reader.close()
    return found
