"""The probe: records of one inference process into a ring. Standard library only, Python 3.9 and later.

``enable()`` is the one call; ``VTPROF_ENABLE=1`` under ``vtprof-agent exec`` does the same without it.
"""

from vtprof_probe.install import disable, enable, enabled, open_ring, why_no_ring
from vtprof_probe.request_context import request

__all__ = ["disable", "enable", "enabled", "open_ring", "request", "why_no_ring"]
