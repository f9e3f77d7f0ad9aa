"""A web server of images that each take a known time to come, so that a download's length is known beforehand."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from workload import Image

DELAY_S: Final = 0.7


@dataclass(frozen=True)
class RemoteImage(Image):
    """An image that the server has to fetch."""

    base_url: str

    def data_url(self) -> str:
        """Return where it lies; the path is its size and tint."""
        return f"{self.base_url}/{self.height}/{self.width}/{self.tint}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        height, width, tint = (int(part) for part in self.path.strip("/").split("/"))
        png = base64.b64decode(Image(height, width, tint).data_url().partition(",")[2])
        threading.Event().wait(DELAY_S)
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(png)))
        self.end_headers()
        self.wfile.write(png)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def slow_images() -> Iterator[str]:
    """Serve images; yield the address that a `RemoteImage` needs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
