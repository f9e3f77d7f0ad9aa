"""What the hooks of vLLM's processes must agree on: numbers of requests and steps."""

from functools import lru_cache
from typing import Any, Dict, Tuple

from vtprof_schemas.names import request_number

STEP_ATTRIBUTE = "vtprof_step"
"""Set on the SchedulerOutput by the scheduler's hook: the step's number, which travels to the workers with it."""

number = lru_cache(maxsize=65536)(request_number)
"""``request_number``, remembered: a request is named in many steps."""


def argument(
    args: Tuple[Any, ...], kwargs: Dict[str, Any], index: int, name: str, default: Any = None
) -> Any:
    """Return a call's argument (``self`` not counted) by position or name."""
    return args[index] if len(args) > index else kwargs.get(name, default)
