"""The process's one connection to the NVIDIA driver: its GPUs and MIG devices, and how lost ones are found again.

NVML is process-wide state, so its samplers share a session: what one of them finds lost is lost for all of them.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from vtprof_agent.samplers.sampler import ALL
from vtprof_schemas.errors import BackendError

RETRY_S: Final = 5.0
"""Between two looks for what is lost."""
RECONNECT_S: Final = 60.0
"""Between two new connections for the sake of one GPU, as each gives all the others new handles."""
RELIST_S: Final = 30.0
"""Between two looks at which MIG devices there are."""
_MEANINGS: Final = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver library (libnvidia-ml.so.1) here; containers need NVIDIA's runtime",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded",
    "NVML_ERROR_NO_PERMISSION": "no permission for the GPU devices; add /dev/nvidia* to the container",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and library versions differ; reboot, or match the container's driver",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "the driver library is too old; update the NVIDIA driver",
    "NVML_ERROR_GPU_IS_LOST": "the GPU fell off the bus",
    "NVML_ERROR_RESET_REQUIRED": "the GPU needs a reset",
    "NVML_ERROR_UNINITIALIZED": "the NVIDIA driver was reloaded",
}
"""What the user reads for each vendor error; the others show NVML's own text."""
_DRIVER_GONE: Final = ("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH")
_GPU_GONE: Final = ("GPU_IS_LOST", "RESET_REQUIRED", "GPU_NOT_FOUND")
_INSTANCE_GONE: Final = ("NOT_FOUND", "INVALID_ARGUMENT")
_UNREAD: Final = "index "
_NOT_OFFERED: Final = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "ARGUMENT_VERSION_MISMATCH")


@dataclass(frozen=True, eq=False)
class Gpu:
    """A GPU or MIG device with its handle; after it was lost it comes back as another object."""

    uuid: str
    name: str
    handle: Any
    mig: bool = False
    """Whether it is cut into instances."""
    parent: "Gpu | None" = None
    """The GPU that a MIG device is an instance of."""
    index: int = 0
    """Of a MIG device, within its parent."""
    instance: int = 0
    """Id of its GPU instance; ids are reused."""


class NvmlSession:
    """Connects for the first sampler that opens it, disconnects after the last; safe to use from their threads."""

    def __init__(self, nvml: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; the binding is imported when opened. ``nvml`` stands in for it."""
        self.nvml = nvml
        self._clock = clock
        self._lock = threading.RLock()
        self._users = 0
        self._connected = False
        self._gpus: tuple[Gpu, ...] = ()
        self._lost: dict[str, str] = {}
        """By UUID why; an index where none could be read and no GPU that is known to be lost can be behind it."""
        self._indexes: dict[str, int] = {}
        """By UUID where a GPU was found last."""
        self._away: str | None = None
        """Why there is no connection though it is wanted."""
        self._next_try_s = self._next_connect_s = self._next_list_s = 0.0

    def why_not(self) -> str | None:
        """Return why there is no NVML here: no binding, no driver, no GPU, no permission."""
        if self.nvml is None and find_spec("pynvml") is None:
            return "the package nvidia-ml-py is not installed"
        try:
            self.open()
        except BackendError as error:
            return str(error)
        found = bool(self._gpus)
        self.close()
        return None if found else "the NVIDIA driver shows no GPU"

    def open(self) -> None:
        """Connect and find the GPUs, once for all users; raises BackendError in the user's words."""
        with self._lock:
            if self._users == 0:
                if self.nvml is None:
                    import pynvml

                    self.nvml = pynvml
                try:
                    self._connect()
                except self.nvml.NVMLError as error:
                    self._disconnect()
                    raise BackendError(f"NVML: {self._explain(error)}") from error
            self._users += 1

    def close(self) -> None:
        """Disconnect when nobody else uses it."""
        with self._lock:
            self._users = max(0, self._users - 1)
            if self._users == 0:
                self._disconnect()
                self._lost.clear()
                self._indexes.clear()
                self._away = None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs and MIG devices that are here, after a look for those that are not when it is time."""
        if self._clock() >= self._due_s():
            with self._lock:
                now_s = self._clock()
                if self._users and now_s >= self._due_s():  # no other thread has just looked
                    self._look_again(now_s)
        return self._gpus

    def refused(self, gpu: Gpu, error: Exception) -> bool | None:
        """Take an error of a call on a GPU. Return whether it is lasting; None when the GPU or the driver is lost."""
        if self._is(error, _NOT_OFFERED):
            return True
        driver_gone, gpu_gone = self._is(error, _DRIVER_GONE), self._is(error, _GPU_GONE)
        instance_gone = gpu.parent is not None and self._is(error, _INSTANCE_GONE)
        if not (driver_gone or gpu_gone or instance_gone):
            return False
        with self._lock:
            if gpu not in self._gpus:  # an old handle, of which others told before
                return None
            if instance_gone:
                self._gpus = tuple(g for g in self._gpus if g is not gpu)
                self._next_list_s = 0.0
                return None
            whole = gpu.parent or gpu
            gone = [g for g in self._gpus if driver_gone or whole in (g, g.parent)]
            reason = self._explain(error)
            self._lost |= {g.uuid: reason for g in gone if g.parent is None}
            self._gpus = tuple(g for g in self._gpus if g not in gone)
            if driver_gone:
                self._connected, self._away = False, reason
            self._next_try_s = self._clock() + RETRY_S
        return None

    def lost(self) -> Mapping[str, str]:
        """Return why GPUs that were here are not, by UUID; under ``ALL`` why there is no connection to the driver."""
        away = self._away  # without the lock, which a thread may hold whose driver hangs
        return self._lost.copy() if away is None else {**self._lost, ALL: away}

    def instance_uuid(self, parent: str, instance: int) -> str | None:
        """Return the UUID of the MIG device on a GPU instance, if it is known."""
        return next(
            (g.uuid for g in self._gpus if g.parent and g.parent.uuid == parent and g.instance == instance),
            None,
        )

    def same(self, gpu: Gpu) -> bool:
        """Tell whether a MIG device is still the one that was found; raises the binding's error when none is there."""
        if gpu.parent is None:
            return True
        handle = self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.parent.handle, gpu.index)
        uuid, instance = self.nvml.nvmlDeviceGetUUID(handle), self.nvml.nvmlDeviceGetGpuInstanceId(handle)
        return (_text(uuid), instance) == (gpu.uuid, gpu.instance)

    def relist(self) -> None:
        """Look at the MIG devices at the next use."""
        self._next_list_s = 0.0

    # --- Under the lock ------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect and find what is here; raises the binding's error when there is nothing because of one."""
        self.nvml.nvmlInit()
        self._connected, self._away = True, None
        now_s = self._clock()
        self._next_list_s, self._next_connect_s = now_s + RELIST_S, now_s + RECONNECT_S
        gpus: list[Gpu] = []
        failed: Exception | None = None
        unread: dict[int, str] = {}
        for index in range(self.nvml.nvmlDeviceGetCount()):
            try:
                found = self._with_instances(self.nvml.nvmlDeviceGetHandleByIndex(index))
            except self.nvml.NVMLError as error:
                failed = error
                if self._is(error, _GPU_GONE):
                    unread[index] = self._explain(error)
                continue
            gpus += found
            self._indexes[found[0].uuid] = index
        here = {gpu.uuid for gpu in gpus}
        self._lost = {
            uuid: why for uuid, why in self._lost.items() if uuid not in here and not uuid.startswith(_UNREAD)
        }
        self._lost |= self._unknown(unread)
        if failed is not None and not gpus:
            raise failed
        self._gpus = tuple(gpus)

    def _unknown(self, unread: Mapping[int, str]) -> dict[str, str]:
        """Return the indexes behind which no GPU can be that is known to be lost; they may have moved meanwhile."""
        known = {self._indexes.get(uuid) for uuid in self._lost}
        indexes = sorted(unread, key=lambda index: index not in known)
        return {f"{_UNREAD}{index}": unread[index] for index in indexes[len(self._lost) :]}

    def _due_s(self) -> float:
        return self._next_try_s if self._lost or not self._connected else self._next_list_s

    def _disconnect(self) -> None:
        self._gpus = ()
        if self._connected:
            self._connected = False
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self.nvml.nvmlShutdown()
        except self.nvml.NVMLError:
            return  # the driver went away first

    def _look_again(self, now_s: float) -> None:
        """Reopen lost GPUs by UUID; connect anew where that fails, as a GPU that was reset may be seen only then."""
        if self._connected and not self._lost:
            self._next_list_s = now_s + RELIST_S
            self._relist()
            return
        self._next_try_s = now_s + RETRY_S
        if self._connected:
            for uuid in list(self._lost):
                self._reopen(uuid)
        if not self._connected or (self._lost and now_s >= self._next_connect_s):
            self._gpus = ()
            self._connected = False
            self._shut_down()
            try:
                self._connect()
            except self.nvml.NVMLError as error:
                self._away = self._explain(error)  # the next try follows

    def _reopen(self, uuid: str) -> None:
        nvml = self.nvml
        index = int(uuid.removeprefix(_UNREAD)) if uuid.startswith(_UNREAD) else None
        try:
            found = self._with_instances(
                nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
                if index is None
                else nvml.nvmlDeviceGetHandleByIndex(index)
            )
        except nvml.NVMLError:
            return
        self._lost.pop(uuid, None)
        self._lost.pop(found[0].uuid, None)
        if found[0].uuid in {gpu.uuid for gpu in self._gpus}:
            return  # the indexes moved: it is another that is read
        if index is not None:
            self._indexes[found[0].uuid] = index
        self._gpus += tuple(found)
        self._away = None

    def _relist(self) -> None:
        """Take up MIG devices that were made, drop those that are gone; the others stay the objects they are."""
        known = {(g.uuid, g.instance, g.index, g.parent): g for g in self._gpus}
        listed: list[Gpu] = []
        for gpu in [gpu for gpu in self._gpus if gpu.parent is None]:
            mig = self._mig(gpu.handle)
            listed.append(gpu if mig == gpu.mig else Gpu(gpu.uuid, gpu.name, gpu.handle, mig))
            listed += [
                known.get((g.uuid, g.instance, g.index, g.parent), g) for g in self._instances(listed[-1])
            ]
        self._gpus = tuple(listed)

    def _with_instances(self, handle: Any) -> list[Gpu]:
        uuid, name = self.nvml.nvmlDeviceGetUUID(handle), self.nvml.nvmlDeviceGetName(handle)
        gpu = Gpu(_text(uuid), _text(name), handle, self._mig(handle))
        return [gpu, *self._instances(gpu)]

    def _mig(self, handle: Any) -> bool:
        try:
            return bool(self.nvml.nvmlDeviceGetMigMode(handle)[0])
        except (self.nvml.NVMLError, AttributeError):
            return False

    def _instances(self, gpu: Gpu) -> list[Gpu]:
        """Return the MIG devices of a GPU, the first of each GPU instance: counters and memory are the instance's.

        The driver shows only instances with a compute instance; the others run nothing.
        """
        found: dict[int, Gpu] = {}
        nvml = self.nvml
        try:
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle) if gpu.mig else 0):
                try:
                    handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, index)
                    uuid, instance = (
                        _text(nvml.nvmlDeviceGetUUID(handle)),
                        nvml.nvmlDeviceGetGpuInstanceId(handle),
                    )
                except nvml.NVMLError:
                    continue  # no instance at this index
                found.setdefault(instance, Gpu(uuid, f"{gpu.name} MIG", handle, False, gpu, index, instance))
        except nvml.NVMLError:
            return []
        return list(found.values())

    def _is(self, error: Exception, codes: tuple[str, ...]) -> bool:
        value = getattr(error, "value", None)
        return any(getattr(self.nvml, f"NVML_ERROR_{code}", None) == value for code in codes)

    def _explain(self, error: Exception) -> str:
        for code, meaning in _MEANINGS.items():
            if getattr(error, "value", None) == getattr(self.nvml, code, None):
                return meaning
        return str(error)


SHARED: Final = NvmlSession()
"""The session of this process."""


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
