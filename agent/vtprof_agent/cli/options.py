"""The flags of settings that commands share: a table, and a decorator that gives a command those it names."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vtprof_agent.config import Settings, load
from vtprof_schemas.errors import ConfigError, VtprofError
from vtprof_schemas.names import DEFAULT_RING_DIR

_ADDRESS: Final = "HOST:PORT"


def path_option(*flags: str, **more: Any) -> Any:
    """Return an option for a path, which is not looked at before the command does: its errors say more."""
    return typer.Option(*flags, readable=False, **more)


OPTIONS: Final[Mapping[str, Any]] = {
    "out_dir": Annotated[
        Path | None,
        path_option("--out", help="Folder for OTLP JSON-lines files; ./traces without endpoint and page."),
    ],
    "otlp_endpoint": Annotated[
        str | None,
        typer.Option(
            "--otlp-endpoint", help="OTLP receiver: http://collector:4318, or http://collector:4317 for grpc."
        ),
    ],
    "otlp_protocol": Annotated[
        str | None,
        typer.Option("--otlp-protocol", help="How to speak to it: http/protobuf, the default, or grpc."),
    ],
    "otlp_token_file": Annotated[
        Path | None, path_option("--otlp-token-file", help="File with the bearer token to send to it.")
    ],
    "spool_dir": Annotated[
        Path | None, path_option(
            "--spool-dir",
            help="Where batches wait while the receiver is away; else vtprof/spool in the user's state folder.",
        ),
    ],
    "ring_dir": Annotated[
        Path | None, path_option("--ring-dir", help=f"Where the probes put their rings; else {DEFAULT_RING_DIR}."),
    ],
    "metrics": Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar=_ADDRESS, help="Serve a Prometheus page here; without HOST for this machine only."
        ),
    ],
    "tls_cert_file": Annotated[
        Path | None, path_option("--tls-cert-file", help="Certificate, to listen beyond this machine; PEM.")
    ],
    "tls_key_file": Annotated[Path | None, path_option("--tls-key-file", help="Its key.")],
    "token_file": Annotated[
        Path | None,
        path_option("--token-file", help="File with the bearer token that scrapers and senders must show then."),
    ],
    "insecure_listen": Annotated[
        bool | None,
        typer.Option(
            "--insecure-listen/--no-insecure-listen",
            help="Listen beyond this machine without TLS and token: the network itself is guarded.",
        ),
    ],
    "otlp_receive": Annotated[
        bool | None,
        typer.Option(
            "--otlp-receive/--no-otlp-receive",
            help="Take OTLP traces that engines on this machine send: gRPC at port 4317, HTTP at 4318.",
        ),
    ],
    "otlp_receive_grpc": Annotated[
        str | None,
        typer.Option(
            "--otlp-receive-grpc", metavar=_ADDRESS, help="Take OTLP traces over gRPC at this address."
        ),
    ],
    "otlp_receive_http": Annotated[
        str | None,
        typer.Option(
            "--otlp-receive-http", metavar=_ADDRESS, help="Take OTLP traces over HTTP at this address."
        ),
    ],
    "engine_metrics": Annotated[
        list[str] | None,
        typer.Option(
            "--engine-metrics",
            metavar="URL",
            help="Metrics page of a vLLM or SGLang server, such as http://127.0.0.1:8000/metrics; may be repeated.",
        ),
    ],
    "samplers": Annotated[
        list[str] | None,
        typer.Option(
            "--samplers",
            metavar="NAME",
            help="Only this source of counters; may be repeated. Else all that are here: `doctor` lists them.",
        ),
    ],
    "dcgm_url": Annotated[
        str | None,
        typer.Option(
            "--dcgm-url", help="Page of a dcgm-exporter, such as http://127.0.0.1:9400/metrics."
        ),
    ],
    "keep_ratio": Annotated[
        float | None,
        typer.Option(
            "--keep-ratio",
            help="Share of ordinary requests whose spans are kept, else 1: all. Slow and failed ones all are.",
        ),
    ],
    "keep_ttft_above_s": Annotated[
        float | None,
        typer.Option(
            "--keep-ttft-above-s", help="A request is slow from this TTFT on; else the slowest twentieth is."
        ),
    ],
    "calibrate_host": Annotated[
        bool | None,
        typer.Option(
            "--calibrate-host/--no-calibrate-host",
            help="First measure what this machine's CPU attains, as a roof for models that run on it.",
        ),
    ],
}  # fmt: skip
"""The flag of a setting, by the setting's name; all others are set by file and environment only."""
ALL: Final = tuple(OPTIONS)
FOLLOWING: Final = ("out_dir", "otlp_endpoint", "otlp_protocol", "ring_dir", "metrics")
"""Of those the ones that an agent started in passing needs."""
EPILOG: Final = (
    "Each option is a setting: --otlp-endpoint is otlp_endpoint in the file and VTPROF_AGENT_OTLP_ENDPOINT in the"
    " environment (--out is out_dir). An option wins over the environment, and that over the file. There are settings"
    " without an option, such as otlp_ca_file: `vtprof-agent doctor --verbose` lists all, with their values."
)
"""Behind the options of commands that take them all."""
_CONFIG: Final = Annotated[
    Path | None,
    path_option("--config", help="TOML file with settings; else /etc/vtprof/agent.toml if it is there."),
]


@dataclass(frozen=True)
class Given:
    """The flags that a user gave, and the file."""

    flags: Mapping[str, Any]
    config: Path | None

    def settings(self) -> Settings:
        """Merge flags, environment, file and defaults; raises ConfigError."""
        given = {key: value for key, value in self.flags.items() if value != []}
        return load(given, os.environ, self.config)

    def named(self, message: str) -> str:
        """Return a message that begins with a flag as one of what its value came from: a file, or the environment."""
        try:
            return self.settings().named(message)
        except ConfigError:
            return message  # of the settings themselves, which name it


def takes(*settings: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose parameter ``given`` stands for --config and the flags of these settings."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(*, config: Path | None, **values: Any) -> None:
            flags = {name: values.pop(name) for name in settings}
            given = Given(flags, config)
            try:
                function(given=given, **values)
            except VtprofError as error:
                error.args = (given.named(str(error)),)
                raise

        signature = inspect.signature(function)
        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name != "given":
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            for name, option in {**{name: OPTIONS[name] for name in settings}, "config": _CONFIG}.items():
                parameters.append(
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
                )
        vars(command)["__signature__"] = signature.replace(parameters=parameters)
        return command

    return decorate
