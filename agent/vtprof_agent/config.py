"""The agent's settings: one frozen dataclass, filled from defaults < TOML file < environment < flags.

``VTPROF_AGENT_OUT_DIR`` sets ``out_dir``, and so on. The merge is pure and remembers where each value came from.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from vtprof_agent.samplers.sampler import SAMPLERS
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError

ENV_PREFIX = "VTPROF_AGENT_"
ORIGIN_DEFAULT = "default"
_SERVICE_LINK = re.compile(rf"{ENV_PREFIX}(SERVICE_.*|PORT(_.*)?)")
"""What Kubernetes puts into every container when a Service is called vtprof-agent: no settings of ours."""
DEFAULT_OUT_DIR = Path("traces")
LEAST_SPOOL_BYTES = 256 * 1024
"""Some batches; see ``export.spool``."""
DEFAULT_FILE = Path("/etc/vtprof/agent.toml")
"""Read when it is there and no --config was given."""


@dataclass(frozen=True)
class Config:
    """Every setting with its default."""

    ring_dir: Path = Path(names.DEFAULT_RING_DIR)
    """Where probes put their rings."""
    out_dir: Path | None = None
    """Folder for OTLP JSON-lines files; ``traces`` when no destination is named."""
    otlp_endpoint: str | None = None
    """Base URL of an OTLP receiver, such as http://collector:4318."""
    otlp_protocol: str = "http/protobuf"
    """How to speak to it: http/protobuf or grpc."""
    otlp_token_file: Path | None = None
    """File with a bearer token to send to it; read again when it changes."""
    otlp_ca_file: Path | None = None
    """Certificates to trust for it, PEM; without it those that requests (certifi) and grpcio bring."""
    spool_dir: Path | None = None
    """Where batches wait while the endpoint is away; by default vtprof/spool below the state folder of the user."""
    spool_bytes: int = 1 << 30
    """How much may wait there; beyond it the oldest is dropped and counted. 0: nothing is written to disk."""
    metrics: str | None = None
    """HOST:PORT of the Prometheus page; port 0 takes a free one."""
    tls_cert_file: Path | None = None
    """Certificate for the page and the receivers, PEM. They listen beyond this machine only with it and a token."""
    tls_key_file: Path | None = None
    token_file: Path | None = None
    """File with the bearer token that readers of the page and senders of OTLP must show."""
    insecure_listen: bool = False
    """Listen beyond this machine without TLS and token: the network is guarded otherwise, as by a NetworkPolicy."""
    otlp_receive: bool = False
    """Take OTLP traces that engines send, at the standard ports of this machine: gRPC 4317, HTTP 4318."""
    otlp_receive_grpc: str | None = None
    """HOST:PORT of this machine for OTLP over gRPC."""
    otlp_receive_http: str | None = None
    """HOST:PORT of this machine for OTLP over HTTP."""
    engine_metrics: tuple[str, ...] = ()
    """URLs of engines' metrics pages."""
    engine_metrics_s: float = 5.0
    """How often they are read."""
    calibrate_host: bool = False
    """Measure this machine's attainable compute and bandwidth before the run."""
    rotate_bytes: int = 64 * 1024 * 1024
    rotate_age_s: float = 300.0
    keep_bytes: int = 10 << 30
    """Delete the oldest finished files beyond so many bytes of each kind, traces and metrics; 0: keep all."""
    poll_min_s: float = 0.01
    poll_max_s: float = 1.0
    scan_s: float = 1.0
    """How often new rings and dead processes are looked for."""
    flush_s: float = 2.0
    batch_spans: int = 512
    sample_s: float = 2.0
    """How often GPUs and processes are sampled; 0 never."""
    gpu_sample_s: float = 0.1
    """How often GPU counters are read for attribution; what is exported of them are means over ``sample_s``."""
    samplers: tuple[str, ...] = ()
    """Only these sources of counters: host, nvml, gpm, pcie, dcgm, amd; empty: all that are here."""
    dcgm_url: str | None = None
    """Metrics page of a dcgm-exporter, such as http://127.0.0.1:9400/metrics."""
    budget_cpu_ratio: float = 0.15
    """CPU time of the agent in cores; before it is exceeded detail is shed. 0: no limit."""
    budget_rss_bytes: int = 160_000_000
    """Resident memory of the agent; the same. 0: no limit."""
    budget_probe_ratio: float = 0.005
    """Share of a process's time that the probe may take in it; the same. 0: no limit."""
    keep_ratio: float = 1.0
    """Share of ordinary requests whose spans are exported; slow and failed ones are all kept."""
    keep_ttft_above_s: float | None = None
    """A request is slow from this TTFT on; without it when it is among the slowest twentieth of its visual stratum."""
    gpu_time_hold_s: float = 5.0
    max_open_requests: int = 8192
    """Per ring; beyond it the oldest is closed and counted."""
    otlp_timeout_s: float = 10.0
    otlp_queue_batches: int = 256
    """Batches kept while the endpoint is away; beyond it the oldest is dropped and counted."""
    stop_s: float = 5.0
    """How long a stop waits for the endpoint."""
    log_level: str = "info"

    @property
    def files_dir(self) -> Path | None:
        """Where files are written: ``traces`` when no destination is named; None: nowhere."""
        nowhere = self.otlp_endpoint is None and self.metrics is None
        return DEFAULT_OUT_DIR if self.out_dir is None and nowhere else self.out_dir


@dataclass(frozen=True)
class Settings:
    """A configuration and where each of its values came from."""

    config: Config
    origins: Mapping[str, str]

    def named(self, said: str) -> str:
        """Return what is said of a value with where that came from, for the flag that such messages begin with."""
        flag = re.match(r"--[a-z-]+", said)
        if flag is None:
            return said
        key = "out_dir" if flag[0] == "--out" else flag[0].removeprefix("--").replace("-", "_")
        origin = self.origins.get(key, ORIGIN_DEFAULT)
        if origin == ORIGIN_DEFAULT or origin.startswith("--"):
            return said
        return _where(key, origin) + said.removeprefix(flag[0])


def merge(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Mapping[str, Any] | None = None,
    file_name: str = "",
) -> Settings:
    """Merge the sources, later ones first in force; a flag that is None was not given. Raises ConfigError."""
    values: dict[str, Any] = {}
    origins = {field.name: ORIGIN_DEFAULT for field in fields(Config)}
    for key, value in (file or {}).items():
        if isinstance(value, dict):
            raise ConfigError(
                f"{file_name}: [{key}]: settings stand in no [table]; move those below it to the top level"
            )
        _known(key, file_name)
        values[key], origins[key] = _convert(key, value, f"{file_name}: {key}"), file_name
    for variable, text in environment.items():
        if variable.startswith(ENV_PREFIX) and not _SERVICE_LINK.fullmatch(variable):
            key = variable.removeprefix(ENV_PREFIX).lower()
            _known(key, variable)
            values[key], origins[key] = _convert(key, text, variable), variable
    for key, value in flags.items():
        if value is not None:
            flag = "--" + key.removesuffix("_dir" if key == "out_dir" else "\0").replace("_", "-")
            values[key], origins[key] = _convert(key, value, flag), flag
    merged = Config(**values)
    if 0 < merged.keep_bytes < merged.rotate_bytes:
        blamed = "keep_bytes" if "keep_bytes" in values else "rotate_bytes"
        raise ConfigError(
            f"{_where(blamed, origins[blamed])} = {getattr(merged, blamed)}: keep_bytes must be 0, to keep all, or not less"
            f" than rotate_bytes ({merged.keep_bytes} and {merged.rotate_bytes}): every file would be deleted when it is"
            " finished; correct one"
        )
    return Settings(merged, origins)


def _where(key: str, origin: str) -> str:
    """Return how a message names a setting: a file's by both, others by what was given."""
    return origin if origin.startswith(("--", ENV_PREFIX)) else f"{origin}: {key}"


def load(flags: Mapping[str, Any], environment: Mapping[str, str], path: Path | None = None) -> Settings:
    """Merge all sources with the TOML file, or with ``DEFAULT_FILE`` if it is there; raises ConfigError."""
    if path is None and DEFAULT_FILE.is_file():
        path = DEFAULT_FILE
    return merge(flags, environment, read_file(path) if path is not None else None, str(path))


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError, naming the file and the line."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--config {path}: cannot be read: {error.strerror}; give another with --config"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"--config {path}: nested too deep; correct it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML: {error}; correct it") from error


def without_secrets(url: str) -> str:
    """Return a URL without user, password and query, which may be secrets; other text as it is."""
    return re.sub(
        r"^([a-z][a-z0-9+.-]*://)(?:[^/@?#]*@)?([^?#]*).*$", r"\1\2", url, flags=re.IGNORECASE | re.DOTALL
    )


def _known(key: str, where: str) -> None:
    options = [field.name for field in fields(Config)]
    if key not in options:
        near = difflib.get_close_matches(key, options, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(options)}"
        raise ConfigError(f"{where}: unknown setting {key}; {hint}")


def _convert(key: str, value: Any, where: str) -> Any:
    hint = get_type_hints(Config)[key]
    wanted = (
        tuple
        if get_origin(hint) is tuple
        else next((kind for kind in get_args(hint) if kind is not type(None)), hint)
    )
    try:
        converted = _CONVERTERS[wanted](value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{where} = {_short(value)}: not {_NAMES[wanted]}; correct it") from error
    if converted is not None and key in _AT_MOST and converted > _AT_MOST[key]:
        raise ConfigError(f"{where} = {_short(value)}: must not be more than {_AT_MOST[key]}; correct it")
    if wanted in (int, float) and converted < 0:
        raise ConfigError(f"{where} = {value!r}: must not be negative; correct it")
    if key in _POSITIVE and converted == 0:
        raise ConfigError(f"{where} = {value!r}: must be more than zero; correct it")
    if key in _AT_LEAST and converted < _AT_LEAST[key] and not (key in _ZERO_IS_NONE and converted == 0):
        zero = "0 or " if key in _ZERO_IS_NONE else ""
        raise ConfigError(f"{where} = {value!r}: must be {zero}at least {_AT_LEAST[key]}; correct it")
    if key in _CHOICES:
        for one in converted if isinstance(converted, tuple) else (converted,):
            _require_choice(one, _CHOICES[key], where)
    return converted


def _require_choice(value: str, choices: Collection[str], where: str) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {near[0]}?" if near else "correct it"
        raise ConfigError(f"{where} = {_short(value)}: not one of {', '.join(choices)}; {hint}")


_CHOICES: Mapping[str, Collection[str]] = {
    "log_level": ("debug", "info", "warning", "error"),
    "otlp_protocol": ("http/protobuf", "grpc"),
    "samplers": SAMPLERS,
}
_POSITIVE = frozenset(
    ("rotate_bytes", "rotate_age_s", "poll_min_s", "poll_max_s", "scan_s", "batch_spans", "otlp_queue_batches",
     "max_open_requests", "otlp_timeout_s", "engine_metrics_s", "gpu_sample_s", "keep_ratio", "keep_ttft_above_s")
)  # fmt: skip
_DAY_S, _BYTES = 86_400, 1 << 50
_AT_MOST = {
    "rotate_bytes": _BYTES, "keep_bytes": _BYTES, "rotate_age_s": 366 * _DAY_S, "poll_min_s": 10, "poll_max_s": 60,
    "scan_s": 3600, "flush_s": 3600, "batch_spans": 100_000, "sample_s": _DAY_S, "gpu_time_hold_s": 3600,
    "max_open_requests": 1 << 20, "otlp_timeout_s": 3600, "otlp_queue_batches": 100_000, "stop_s": 3600,
    "engine_metrics_s": _DAY_S, "gpu_sample_s": 60, "spool_bytes": _BYTES, "keep_ratio": 1, "keep_ttft_above_s": _DAY_S,
    "budget_cpu_ratio": 1024, "budget_rss_bytes": _BYTES, "budget_probe_ratio": 1,
}  # fmt: skip
"""Beyond these a setting is a slip: the agent would never write, or need more memory than there is."""
_AT_LEAST = {
    "rotate_bytes": 64 << 10, "flush_s": 0.01, "gpu_sample_s": 0.1, "budget_rss_bytes": 32_000_000,
    "spool_bytes": LEAST_SPOOL_BYTES,
}  # fmt: skip
"""Below these too: a file for each span, batches without end, windows in which no counter moves, a budget that no Python
process keeps, a spool without room for a batch."""
_ZERO_IS_NONE = frozenset(("budget_rss_bytes", "spool_bytes"))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    choices = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    return choices[str(value).lower()] if str(value).lower() in choices else _refuse(value)


def _refuse(value: Any) -> bool:
    raise ValueError(value)


def _int(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError(value)
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(value)
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(value)
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(value)
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise TypeError(value)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # "~" of a user without a home folder
        raise ValueError(value) from error


def _texts(value: Any) -> tuple[str, ...]:
    """Read a list of texts; in the environment they stand apart by commas."""
    many = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(many, list | tuple):
        raise TypeError(value)
    return tuple(_str(one) for one in many)


_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
    tuple: _texts,
}
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    tuple: "a list of texts",
}
