"""The flags that `run`, `exec` and `doctor` share, and the settings made of them."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from vtprof_agent.config import Settings, merge, read_file

Out = Annotated[Path | None, typer.Option("--out", help="Folder for OTLP JSON-lines files.")]
OtlpEndpoint = Annotated[
    str | None, typer.Option("--otlp-endpoint", help="OTLP/HTTP receiver, such as http://collector:4318.")
]
RingDir = Annotated[Path | None, typer.Option("--ring-dir", help="Where the probes put their rings.")]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Prometheus page; without HOST this machine only."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
OtlpReceive = Annotated[
    bool | None,
    typer.Option(
        "--otlp-receive/--no-otlp-receive",
        help="Take OTLP traces that engines on this machine send: gRPC at port 4317, HTTP at 4318.",
    ),
]
OtlpReceiveGrpc = Annotated[
    str | None,
    typer.Option(
        "--otlp-receive-grpc", metavar="HOST:PORT", help="Take OTLP traces over gRPC at this address."
    ),
]
OtlpReceiveHttp = Annotated[
    str | None,
    typer.Option(
        "--otlp-receive-http", metavar="HOST:PORT", help="Take OTLP traces over HTTP at this address."
    ),
]
EngineMetrics = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-metrics", metavar="URL",
        help="Metrics page of a vLLM or SGLang server, such as http://127.0.0.1:8000/metrics; may be repeated.",
    ),
]  # fmt: skip
CalibrateHost = Annotated[
    bool | None,
    typer.Option(
        "--calibrate-host/--no-calibrate-host",
        help="First measure what this machine's CPU attains, as a roof for models that run on it.",
    ),
]


def settings(
    out: Path | None = None,
    otlp_endpoint: str | None = None,
    ring_dir: Path | None = None,
    metrics: str | None = None,
    config: Path | None = None,
    calibrate_host: bool | None = None,
    otlp_receive: bool | None = None,
    otlp_receive_grpc: str | None = None,
    otlp_receive_http: str | None = None,
    engine_metrics: list[str] | None = None,
) -> Settings:
    """Merge flags, environment, file and defaults; raises ConfigError."""
    flags = {
        "out_dir": out,
        "otlp_endpoint": otlp_endpoint,
        "ring_dir": ring_dir,
        "metrics": metrics,
        "calibrate_host": calibrate_host,
        "otlp_receive": otlp_receive,
        "otlp_receive_grpc": otlp_receive_grpc,
        "otlp_receive_http": otlp_receive_http,
        "engine_metrics": engine_metrics or None,
    }
    file = read_file(config) if config is not None else None
    return merge(flags, os.environ, file, str(config))


def start_logging(level: str) -> None:
    """Send log lines to stderr; the exporters' own stay out, their failures are counted and said once by us."""
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format="vtprof-agent: %(message)s")
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM, Ctrl-C and SIGHUP set, instead of ending this process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's is to stay
            signal.signal(number, lambda *_: stop.set())
    return stop
