"""vLLM's doubles with the API server's hooks set, a client of theirs, and what it left in the ring."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from asgi_double import serve
from probe_doubles import ListRing
from vllm_doubles import Era, output

from vtprof_probe.engines.vllm_api import install_api
from vtprof_probe.engines.vllm_hooks import HOOKS
from vtprof_probe.hooks.patches import Patches
from vtprof_probe.hooks.post_import import ImportWatcher
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import Recorder
from vtprof_schemas import names

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OK, ABORTED, REJECTED, ERROR = (names.STATUSES.index(status) for status in names.STATUSES)


class Server:
    """The doubles with the hooks set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        self.era = Era(monkeypatch, version)
        self.ring = ListRing()
        self.recorder = Recorder(lambda: self.ring)
        self.patches = Patches(self.recorder.fault, spent=self.recorder.spent)
        self.watcher = ImportWatcher(self.recorder.fault)
        self.setter = HookSetter(self.patches, self.watcher, self.recorder, version, HOOKS)
        install_api(self.setter, self.recorder, self.detach)

    def detach(self) -> None:
        self.watcher.close()
        self.patches.undo()
        self.recorder.close()

    def chat(self, request: Any, **headers: str) -> Any:
        """Send a chat call; a stream is begun."""

        def create(headers: Any) -> Any:
            return self.era.serving.create_chat_completion(request, SimpleNamespace(headers=headers))

        return self.http(create, **headers)

    def http(self, endpoint: Any, **headers: str) -> Any:
        """Send a call to an endpoint, which is given the headers; return its first answer."""
        by_name = {name.replace("_", "-"): text for name, text in headers.items()}
        return asyncio.run(serve(endpoint, by_name))

    def engine_says(self, *outputs: Any) -> None:
        self.era.outputs.process_outputs(outputs)

    def run_out(self, core: Any, tokens: int) -> None:
        """Let a request of one sequence generate ``tokens``."""
        for _ in range(tokens - 1):
            self.engine_says(output(core.request_id))
        self.engine_says(output(core.request_id, finish_reason="length"))


def text_of(fields: dict[str, Any]) -> str:
    return bytes(fields["text"][: fields["length"]]).decode()


def finished(server: Server) -> tuple[int, int]:
    fields = server.ring.one("request_finished")
    return fields["status"], fields["output_tokens"]
