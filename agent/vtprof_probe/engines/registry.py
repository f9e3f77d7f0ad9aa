"""Which engines there are: a name, the module that starts the hooks, the import that calls for them, what was tested."""

from typing import Dict, NamedTuple, Tuple

from vtprof_schemas.engine_versions import TESTED


class EngineEntry(NamedTuple):
    """One engine."""

    name: str
    module: str
    """Module of ours with ``install(patches, watcher, recorder, detach) -> None``, imported when the engine is."""
    trigger: str
    """The engine's own top-level module: its import loads ours."""
    versions: Tuple[str, str]
    """Read and tested: from this version, below that one. Elsewhere each hook is set only where its target exists."""
    not_below: Tuple[str, ...] = ()
    """Servers built on this library: where one of them is imported, its own hooks do."""


ENGINES: Dict[str, EngineEntry] = {
    "transformers": EngineEntry(
        "transformers",
        "vtprof_probe.engines.transformers_vlm",
        "transformers",
        TESTED["transformers"],
        not_below=("vllm", "sglang"),
    ),
    "vllm": EngineEntry("vllm", "vtprof_probe.engines.vllm_server", "vllm", TESTED["vllm"]),
    "sglang": EngineEntry("sglang", "vtprof_probe.engines.sglang_server", "sglang", TESTED["sglang"]),
}
