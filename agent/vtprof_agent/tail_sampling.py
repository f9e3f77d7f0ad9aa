"""Which finished requests' spans are exported: all slow and failed ones, of the others a share drawn by their trace ids.

The ratio recorded is the probability with which the request was kept, given all that came before it, so that sums
of value / ratio over the kept requests are unbiased for sums over all (Horvitz and Thompson 1952). A request that is
read twice, as after a restart, is drawn alike both times; but what is slow by the quantile may differ, because the
window begins anew. Of copies with different ratios the largest is right: with it the request was kept for certain.
"""

import hashlib
from bisect import bisect_left, insort
from collections import deque
from typing import Final

from vtprof_agent.facts import FinishedRequest
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

SLOW_SHARE: Final = 0.05
"""Of a stratum, by TTFT: the slowest twentieth."""
WINDOW_REQUESTS: Final = 1000
"""Of each stratum: what a TTFT is compared with."""
LEAST_REQUESTS: Final = 100
"""Until a stratum has so many, each of its requests counts as slow."""
_ORDINARY: Final = frozenset((names.STATUS_OK,))
_SPACE: Final = 1 << 64


class TailSampling:
    """Decides request by request; bounded memory."""

    def __init__(self, keep_ratio: float, slow_ttft_s: float | None = None) -> None:
        """Keep this share of ordinary requests, above 0 and at most 1.

        Slow is a TTFT of ``slow_ttft_s`` or more; without it one in the slowest twentieth of the visual stratum's last
        ``WINDOW_REQUESTS``.
        """
        self.keep_ratio = keep_ratio
        self._slow_ns = None if slow_ttft_s is None else slow_ttft_s * NS_PER_S
        self._windows: dict[str, _Window] = {}
        self.left_out = 0
        """Requests whose spans were not exported."""

    def ratio(self, finished: FinishedRequest, trace_id: int) -> float | None:
        """Return the probability with which a request is kept, None when it is left out.

        ``trace_id`` is that of its spans (the caller's, if it has one), so that requests of one trace stay together
        and another agent decides alike.
        """
        if self.keep_ratio >= 1.0:
            return 1.0
        slow = self._slow(finished)  # a failed request's TTFT belongs into the window, too
        if slow or finished.attributes.get(names.REQUEST_STATUS) not in _ORDINARY:
            return 1.0
        if position(trace_id) < self.keep_ratio:
            return self.keep_ratio
        self.left_out += 1
        return None

    def _slow(self, finished: FinishedRequest) -> bool:
        if finished.first_token_ns is None:
            return False
        ttft_ns = finished.first_token_ns - finished.start_ns
        if self._slow_ns is not None:
            return ttft_ns >= self._slow_ns
        visual = sum(int(finished.attributes.get(key, 0)) for key in (names.TOKENS_IMAGE, names.TOKENS_VIDEO))
        return self._windows.setdefault(names.visual_stratum(visual), _Window()).take(ttft_ns)


class _Window:
    """The last TTFTs of a stratum, by age and by length."""

    def __init__(self) -> None:
        self._by_age: deque[int] = deque()
        self._sorted: list[int] = []

    def take(self, ttft_ns: int) -> bool:
        """Tell whether a TTFT is among the slowest of those before it, and add it."""
        count = len(self._sorted)
        slow = count < LEAST_REQUESTS or bisect_left(self._sorted, ttft_ns) >= (1 - SLOW_SHARE) * count
        if count == WINDOW_REQUESTS:
            del self._sorted[bisect_left(self._sorted, self._by_age.popleft())]
        self._by_age.append(ttft_ns)
        insort(self._sorted, ttft_ns)
        return slow


def position(trace_id: int) -> float:
    """Return the place of a trace id in [0, 1): uniform also where ids are not random, and independent of all else."""
    digest = hashlib.blake2b(trace_id.to_bytes(16, "big"), digest_size=8, person=b"vtprof.sampling").digest()
    return (int.from_bytes(digest, "big") >> 11 << 11) / _SPACE
