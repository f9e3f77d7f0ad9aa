"""What a span costs on its way out: a line of JSON, OTLP over HTTP beside OpenTelemetry's own exporter, the disk spool.

CPU time of this process, median of several rounds in turn; the server that answers is a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext

from vtprof_agent.export.destination import Batch
from vtprof_agent.export.json_lines import spans_line
from vtprof_agent.export.otlp_http import HttpTransport
from vtprof_agent.export.parcel import encode
from vtprof_agent.export.spool import Spool
from vtprof_agent.resource import agent_resource
from vtprof_agent.spans import SCOPE
from vtprof_schemas import names

SPANS = 512
ATTRIBUTES = 12
ROUNDS = 15
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def make_spans() -> list[ReadableSpan]:
    """Make a batch: two links a span, integers with some text and doubles among the attributes."""
    resource, keys = agent_resource("bench"), list(names.ATTRIBUTES)[:ATTRIBUTES]
    made = []
    for number in range(1, SPANS + 1):
        values = [
            number * 1000 + at if at % 4 else ("text" if at % 8 else number / 7) for at in range(ATTRIBUTES)
        ]
        links = [Link(SpanContext(number, number + at, False)) for at in (1, 2)]
        made.append(
            ReadableSpan(
                names.SPAN_STEP, SpanContext(number, number, False), resource=resource, links=links,
                attributes=dict(zip(keys, values, strict=True)), start_time=10**18 + number, end_time=10**18 + 2 * number,
                instrumentation_scope=SCOPE,
            )
        )  # fmt: skip
    return made


def us_per_span(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run each way in turn; return the median CPU time for a span of each."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            took[name].append((time.process_time() - begin) / SPANS * 1e6)
    return {name: statistics.median(times[1:]) for name, times in took.items()}


def measure() -> dict[str, float]:
    """Return us a span of each way, and ratios."""
    spans = make_spans()
    (parcel,) = encode(Batch(1, spans)).parcels
    with (
        subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=Compression.Gzip)
        transport, spool = HttpTransport(url, 10.0), Spool(Path(folder), 1 << 30)

        def through_spool() -> None:
            spool.append(parcel)
            spool.head()
            spool.advance()

        found = us_per_span(
            {
                "json": lambda: spans_line(spans),
                "http_otel": lambda: exporter.export(spans),
                "http": lambda: transport.send(encode(Batch(1, spans)).parcels[0]),
                "spool": through_spool,
            }
        )
        transport.close()
        spool.close()
        server.kill()
    ratio = found["http"] / found["http_otel"]
    return {**found, "http_ratio": ratio, "bytes_per_span": len(parcel.payload) / SPANS}


def main() -> None:
    """Run and print, as text or with --json as one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    result = measure()
    if parser.parse_args().json:
        print(json.dumps(result))
        return
    print(
        f"export, us a span: JSON line {result['json']:.1f}, OTLP/HTTP {result['http']:.1f} (OpenTelemetry"
        f" {result['http_otel']:.1f}, ratio {result['http_ratio']:.2f}), into the spool and out again {result['spool']:.2f};"
        f" {result['bytes_per_span']:.0f} B a span on the wire and on disk"
    )


if __name__ == "__main__":
    main()
