"""What is recorded of a server that was attached to while it worked: requests that came later, exactly, and no others.

vLLM's own tracing is off here, so that nothing of a caller's context comes from it.
"""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trace_files
from agent_beside import AgentBeside
from agent_process import wait_for
from engine_mix import RESPONSE_PREFIX, SEQUENTIAL, Known, Sent, send_group
from engine_server import Server, agent_command, serving
from server_log import iterations
from slow_images import DELAY_S, RemoteImage, slow_images
from workload import CALLER_SPAN_ID, CALLER_TRACE_ID, Case

from vtprof_schemas import names

ATTEMPTS = 3
LATER = [known for known in SEQUENTIAL if known.status == names.STATUS_OK]
OPTIONS = ("--max-num-batched-tokens", "1024", "--max-model-len", "8192", "--max-num-seqs", "4")


class AttachedRun:
    """What was sent before attaching, while attached, and after detaching; and what was recorded."""

    def __init__(self, venv: Path, model: Path, folder: Path) -> None:
        """Run it all."""
        beside = AgentBeside(folder)
        try:
            with (
                slow_images() as images,
                serving(venv, model, folder, OPTIONS) as server,
                ThreadPoolExecutor(1) as client,
            ):
                for _ in range(ATTEMPTS):
                    ran = len(iterations(server.log.read_text(errors="replace")))
                    early = client.submit(send_group, server.port, [long_request()], "early", 1)
                    wait_for(
                        lambda ran=ran: len(iterations(server.log.read_text(errors="replace"))) > ran + 20, 60
                    )
                    self.attached = self._agent("attach", server, beside)
                    if not early.done():
                        break
                    # On a busy machine it may have ended meanwhile: leave, and begin again.
                    self._agent("detach", server, beside)
                beside.start()
                self.later = send_group(server.port, [*LATER, *fetched(images)], "later", 1)
                self.early_answer: Sent = early.result()[0]
                self.detached = self._agent("detach", server, beside)
                self.after = send_group(server.port, LATER[:3], "after", 1)
                self.exit_code = server.stop()
            beside.stop()
        finally:
            beside.close()
        self.spans = trace_files.read(beside.out)

    @staticmethod
    def _agent(command: str, server: Server, beside: AgentBeside) -> dict[str, Any]:
        words = agent_command(
            command, str(server.api_pid()), "--ring-dir", str(beside.rings), "--format", "json"
        )
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def long_request() -> Known:
    """Return a request that decodes until the others are through."""
    return Known(Case("long", "tell me a long story", max_tokens=7000))


def fetched(images: str) -> list[Known]:
    """Return requests whose image has to be fetched for a while, from callers that trace."""
    headers = {"traceparent": f"00-{CALLER_TRACE_ID}-{CALLER_SPAN_ID}-01"}
    return [
        Known(
            Case(
                "fetched",
                f"{number} what is this?",
                (RemoteImage(140, 168, 120 + number, images),),
                headers=headers,
                stream=stream,
            ),
            encoded=1,
        )
        for number, stream in enumerate((False, True))
    ]


@pytest.fixture(scope="module")
def run(engine_venv: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AttachedRun:
    return AttachedRun(engine_venv, tiny_model_folder, tmp_path_factory.mktemp("attached"))


def test_no_request_suffered(run: AttachedRun) -> None:
    for sent in [run.early_answer, *run.later, *run.after]:
        assert sent.answer["http_status"] == 200, sent.id
        assert sent.answer["completion_tokens"] == sent.known.case.max_tokens * sent.known.case.n, sent.id
    assert run.exit_code == 0


def test_requests_that_came_after_the_probe_are_recorded_exactly(run: AttachedRun) -> None:
    recorded = trace_files.requests(run.spans)
    for sent in run.later:
        request, answer = recorded[sent.id], sent.answer
        found = [
            request.root.attributes[names.REQUEST_STATUS],
            request.root.count(names.INPUT_TOKENS),
            request.root.count(names.OUTPUT_TOKENS),
            request.root.count(names.TOKENS_IMAGE),
            request.total(names.ENCODE, names.ENCODE_ITEMS),
            request.total(names.ENCODE, names.ENCODE_CACHE_HITS),
            request.total(names.PREPROCESS, names.PREPROCESS_CACHE_HITS),
        ]
        assert found == [
            names.STATUS_OK,
            answer["prompt_tokens"],
            answer["completion_tokens"],
            answer["visual_tokens"],
            sent.known.encoded,
            sent.known.encoder_hits,
            sent.known.processor_hits,
        ], sent.id
        assert {names.PREPROCESS, names.QUEUE, names.PREFILL} <= {
            str(span.attributes[names.PHASE]) for span in request.phases
        }, sent.id


def test_callers_trace_and_download_are_known_of_streams_and_others(run: AttachedRun) -> None:
    recorded = trace_files.requests(run.spans)
    traced = [sent for sent in run.later if "traceparent" in sent.known.case.headers]
    assert {sent.known.case.stream for sent in traced} == {False, True}
    for sent in traced:
        root = recorded[sent.id].root
        assert (root.trace_id, root.parent_id) == (CALLER_TRACE_ID, CALLER_SPAN_ID), sent.id
    assert [sent.known.case.stream for sent in run.later if sent.known.case.kind == "fetched"] == [
        False,
        True,
    ]
    for sent in run.later:
        (preprocess,) = recorded[sent.id].named(names.PREPROCESS)
        fetch, decode = (
            preprocess.count(key) for key in (names.PREPROCESS_FETCH_NS, names.PREPROCESS_DECODE_NS)
        )
        remote = sent.known.case.kind == "fetched"
        assert (fetch >= DELAY_S * 1e9) if remote else (fetch == 0), sent.id
        assert (decode > 0) == bool(sent.known.case.images), sent.id
        assert fetch + decode <= preprocess.end_ns - preprocess.start_ns, sent.id


def test_requests_from_outside_that_time_are_no_half_requests(run: AttachedRun) -> None:
    recorded = trace_files.requests(run.spans)
    assert recorded.keys() == {sent.id for sent in run.later}
    assert not any(name.startswith(RESPONSE_PREFIX + "after") for name in recorded)


def test_steps_count_the_request_that_was_there_before(run: AttachedRun) -> None:
    steps = [span for span in run.spans if span.name in (names.SPAN_STEP, names.SPAN_WINDOW)]
    decoded = sum(span.count(names.STEP_DECODE_REQUESTS) for span in steps)
    own = sum(sent.answer["completion_tokens"] - sent.known.case.n for sent in run.later)
    assert decoded > own
