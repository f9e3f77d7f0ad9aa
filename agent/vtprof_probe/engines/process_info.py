"""What every process of an engine says of itself: engine, version, host and service."""

import os
import platform
from typing import Any, Dict

from vtprof_schemas import SCHEMA_VERSION, names


def process_info(engine: str, version: str) -> Dict[str, Any]:
    """Return the resource attributes of a process of this engine; keys of ``names``."""
    info: Dict[str, Any] = {
        names.RESOURCE_SCHEMA_VERSION: SCHEMA_VERSION,
        names.ENGINE_NAME: engine,
        names.ENGINE_VERSION: version,
        names.HOST_NAME: platform.node(),
    }
    service = os.environ.get("OTEL_SERVICE_NAME")
    if service:
        info[names.SERVICE_NAME] = service
    return info
