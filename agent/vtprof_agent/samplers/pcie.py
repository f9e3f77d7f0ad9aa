"""PCIe traffic of NVIDIA GPUs through NVML: a sampler of its own, as each call blocks for some 20 ms."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from vtprof_agent.samplers.nvml_session import SHARED, NvmlSession
from vtprof_agent.samplers.refusals import Refusals
from vtprof_agent.samplers.sampler import Device, Sample
from vtprof_schemas import names

SOURCE: Final = "nvml"
_TX, _RX = 0, 1
"""nvmlPcieUtilCounter_t, as seen from the GPU."""
_COUNTERS: Final = ((names.GPU_PCIE_TX_BYTES_PER_S, _TX), (names.GPU_PCIE_RX_BYTES_PER_S, _RX))
INTERVAL_NS: Final = 20_000_000
"""What the driver counts over; it says KB/s."""


class PcieSampler:
    """Reads each GPU every ten seconds: a look at 20 ms of them, no total."""

    period_s = 10.0
    quiet_s = 35.0

    def __init__(self, session: NvmlSession = SHARED, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is opened."""
        self._session = session
        self._clock_s = clock_s
        self._refusals = Refusals()
        self._open = False

    def why_not(self) -> str | None:
        """Return why there is no NVML here."""
        return self._session.why_not()

    def open(self) -> None:
        """Connect to the driver; raises BackendError."""
        if not self._open:
            self._session.open()
            self._open = True

    def devices(self) -> list[Device]:
        """Return none: they are those of the sampler "nvml"."""
        return []

    def sample(self, pids: frozenset[int]) -> list[Sample]:  # noqa: ARG002  # the protocol's
        """Read both directions of each GPU; takes some 40 ms for each."""
        samples = []
        nvml = self._session.nvml
        for gpu in self._session.gpus:
            now_s = self._clock_s()
            if gpu.parent is not None or not self._refusals.asks(gpu.uuid, "pcie", now_s):
                continue
            try:
                for key, counter in _COUNTERS:
                    rate = 1000.0 * nvml.nvmlDeviceGetPcieThroughput(gpu.handle, counter)
                    samples.append(Sample(key, rate, hw_id=gpu.uuid, source=SOURCE, interval_ns=INTERVAL_NS))
            except nvml.NVMLError as error:
                lasting = self._session.refused(gpu, error)
                if lasting is not None:
                    self._refusals.refused(gpu.uuid, "pcie", now_s, lasting=lasting)
        return samples

    def lost(self) -> Mapping[str, str]:
        """Return which GPUs fell off the bus, or why the driver does not answer."""
        return self._session.lost()

    def refused(self) -> Mapping[str, str]:
        """Return nothing: what a device does not offer is left out."""
        return {}

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return nothing: these are GPM's quantities too, and told of once."""
        return {}

    def close(self) -> None:
        """Disconnect from the driver."""
        if self._open:
            self._open = False
            self._session.close()
