"""The web framework below vLLM in miniature: which task serves a call, and which one iterates the stream it answers with."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Endpoint = Callable[["Headers"], Awaitable[Any]]


class Headers(dict[str, str]):
    """Headers by names whose case does not matter."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Starlette:
    """Serves a call in a task of its own, as vLLM's `with_cancellation` does, and iterates a stream behind it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers({name.decode(): text.decode() for name, text in scope["headers"]})
        answer = await asyncio.ensure_future(self.endpoint(headers))
        if hasattr(answer, "__anext__"):
            async for chunk in answer:
                send(chunk)
        else:
            send(answer)


async def serve(endpoint: Endpoint, headers: Mapping[str, str]) -> Any:
    """Serve one HTTP request in a task of its own, as uvicorn does; return what was answered first."""
    sent: list[Any] = []
    coded = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "headers": coded}
    await asyncio.ensure_future(Starlette(endpoint)(scope, None, sent.append))
    return sent[0]
