"""The demo's inference server: an ordinary script around transformers that knows nothing of any profiler.

`python -m vtprof_analyzer.demo.serve` builds the tiny model, listens on loopback, prints `{"port": N}` and serves
`POST /generate` with `{"conversations": [[text, [png as base64, …]], …], "max_new_tokens": N}`, one at a time; several
conversations are one batch. The answer is `{"output_ids": [[…], …]}`. `POST /shutdown` or SIGTERM end it cleanly.
"""

import argparse
import base64
import binascii
import io
import json
import signal
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from vtprof_analyzer.demo import tiny_model

HOST = "127.0.0.1"
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_NEW_TOKENS = 4096


class BadRequest(Exception):
    """The client's fault; its text is the answer."""


class Generator:
    """The model and its processor."""

    def __init__(self, threads: int, max_image_pixels: int = tiny_model.MAX_IMAGE_PIXELS) -> None:
        """Build both; `threads` limits torch's, 0 leaves them alone. Larger images are made smaller."""
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._model = tiny_model.build_model()
        tiny_model.warm_up(self._model)
        self._processor = tiny_model.build_processor(max_image_pixels)

    def generate(
        self, conversations: Sequence[tuple[str, Sequence[bytes]]], max_new_tokens: int
    ) -> list[list[int]]:
        """Generate exactly `max_new_tokens` for each conversation of (text, PNG files), as one batch, greedily."""
        import torch
        from PIL import Image

        messages = []
        for text, pictures in conversations:
            # `open` reads the header only: decoding is the processor's work.
            content: list[dict[str, Any]] = [
                {"type": "image", "image": Image.open(io.BytesIO(picture))} for picture in pictures
            ]
            messages.append([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])
        inputs = self._processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        with torch.inference_mode():
            sequences = self._model.generate(
                **inputs, max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens
            )
        output: list[list[int]] = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return output


def parse_request(body: bytes) -> tuple[list[tuple[str, list[bytes]]], int]:
    """Read the body of a request. Raises BadRequest with one line that says what is wrong."""
    try:
        document = json.loads(body)
        conversations = [
            (str(text), [base64.b64decode(picture, validate=True) for picture in pictures])
            for text, pictures in document["conversations"]
        ]
        max_new_tokens = int(document["max_new_tokens"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise BadRequest(f"not a request for /generate: {error!r}") from error
    if not conversations or not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
        raise BadRequest(f"needs a conversation, and max_new_tokens between 1 and {MAX_NEW_TOKENS}")
    return conversations, max_new_tokens


def make_server(generator: Generator, port: int) -> HTTPServer:
    """Bind a server on loopback; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body leave as two segments: Nagle's algorithm would hold the second for the client's ACK.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY_BYTES:
                self.close_connection = True
                self._answer(413, {"error": f"more than {MAX_BODY_BYTES} bytes"})
                return
            body = self.rfile.read(length)
            if self.path == "/shutdown":
                self._answer(200, {})
                _stop(self.server)
            elif self.path == "/generate":
                self._generate(body)
            else:
                self._answer(404, {"error": f"no such path: {self.path}"})

        def _generate(self, body: bytes) -> None:
            try:
                conversations, max_new_tokens = parse_request(body)
            except BadRequest as error:
                self._answer(400, {"error": str(error)})
                return
            try:
                output = generator.generate(conversations, max_new_tokens)
            except Exception as error:
                self.log_error("generation failed: %r", error)
                self._answer(500, {"error": repr(error)})
                return
            self._answer(200, {"output_ids": output})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            # One connection a request: an idle one would keep this single-threaded server from the next client.
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing for a request that was answered."""

    return HTTPServer((HOST, port), Handler)


def _stop(server: Any) -> None:
    # `shutdown` waits for the loop to end, which is this thread: another one has to call it.
    threading.Thread(target=server.shutdown, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(
        description="Serve a tiny random-weight vision-language model on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one (default)")
    parser.add_argument(
        "--threads", type=int, default=0, help="torch threads; 0 leaves torch's own choice (default)"
    )
    parser.add_argument(
        "--longest-edge",
        type=int,
        default=tiny_model.MAX_IMAGE_PIXELS,
        metavar="PIXELS",
        help="pixels of an image, above which it is made smaller; the processor's name for it (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    server = make_server(Generator(options.threads, options.longest_edge), options.port)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: _stop(server))
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    try:
        server.serve_forever(poll_interval=0.05)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
