"""The device under test, through torch: its name, its matrix multiplications and its copies as bursts."""

import importlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vtprof_analyzer.calibrate.rates import Burst
from vtprof_analyzer.devices.device import CPU, GPU
from vtprof_analyzer.devices.host import cpu_name
from vtprof_schemas.errors import BackendError, ConfigError

DTYPES = {CPU: ("float32", "bfloat16"), GPU: ("float32", "bfloat16", "float16")}
"""Measured when the user names none."""
KNOWN_DTYPES = ("float32", "bfloat16", "float16")
GEMM_SIZES = {CPU: (512, 1024, 2048), GPU: (2048, 4096, 8192)}
"""Rows of square matrices. Short bursts fit between the turns of other processes, large matrices fill many cores."""
COPY_BYTES = {CPU: 256 << 20, GPU: 1 << 30}
"""One array; it and its copy are several times larger than any cache of its kind of device."""
_GPU_BURST_FLOP = 2e12
"""Some milliseconds of work, beside which launches and the wait for the end are nothing."""
_GPU_COPIES = 8
_DEVICE = re.compile(r"cpu|cuda(?::(\d{1,3}))?")


@dataclass(frozen=True)
class Machine:
    """One device that torch can use."""

    torch: Any
    device: Any
    kind: str
    name: str
    """As traces record it."""
    cores: int | None
    """Threads of torch on a CPU."""

    @property
    def torch_version(self) -> str:
        """Return the version of torch, its build included."""
        return str(self.torch.__version__)

    def gemms(self, dtype: str, sizes: tuple[int, ...] | None = None) -> Iterator[Burst]:
        """Yield products of square matrices of a data type, from small to large; 2 n^3 FLOP each.

        The values are random: multiplying zeros or ones draws less power, so that a GPU clocks higher than with any model.
        """
        kind = getattr(self.torch, dtype)
        for size in sizes or GEMM_SIZES[self.kind]:
            flop = 2.0 * size**3
            repeats = max(1, math.ceil(_GPU_BURST_FLOP / flop)) if self.kind == GPU else 1
            left, right = (
                self.torch.randn(size, size, device=self.device, dtype=self.torch.float32).to(kind)
                for _ in range(2)
            )
            out = self.torch.empty_like(left)
            yield Burst(flop * repeats, self._repeated(repeats, self.torch.mm, (left, right), out), size)

    def copies(self, array_bytes: int | None = None) -> Iterator[Burst]:
        """Yield the copy of one array to another; bytes read and bytes written count."""
        length = array_bytes or COPY_BYTES[self.kind]
        source = self.torch.ones(length, device=self.device, dtype=self.torch.uint8)
        target = self.torch.zeros_like(source)  # not empty: its pages would be made while the clock runs
        repeats = _GPU_COPIES if self.kind == GPU else 1

        def copy(array: Any, out: Any) -> None:
            out.copy_(array)

        yield Burst(2.0 * length * repeats, self._repeated(repeats, copy, (source,), target), length)

    def _repeated(self, repeats: int, operation: Any, inputs: tuple[Any, ...], out: Any) -> Any:
        def work() -> None:
            with self.torch.inference_mode():
                for _ in range(repeats):
                    operation(*inputs, out=out)
            if self.kind == GPU:
                self.torch.cuda.synchronize(self.device)

        return work


def check_device(text: str | None) -> str | None:
    """Return the device as given; raise ConfigError for one that torch has no word for."""
    if text is not None and not _DEVICE.fullmatch(text):
        raise ConfigError(f"--device {text[:40]!r}: choose cpu, cuda or cuda:N")
    return text


def open_machine(device: str | None = None) -> Machine:
    """Return a device by torch's name, by default the first GPU or else the CPU.

    Raises BackendError when torch is not installed and ConfigError when there is no such device.
    """
    wanted = check_device(device)
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise BackendError(
            "vtprof calibrate measures with torch, which is not installed: pip install torch"
        ) from error
    has_gpu = bool(torch.cuda.is_available())
    wanted = wanted or ("cuda" if has_gpu else CPU)
    if wanted == CPU:
        return Machine(torch, torch.device(CPU), CPU, cpu_name(), _threads(torch))
    if not has_gpu:
        raise ConfigError(f"--device {wanted}: torch {torch.__version__} sees no GPU here; use --device cpu")
    count = int(torch.cuda.device_count())
    index = int(wanted.partition(":")[2] or torch.cuda.current_device())
    if index >= count:
        raise ConfigError(f"--device {wanted}: torch sees {count} GPU(s), the last is cuda:{count - 1}")
    return Machine(torch, torch.device("cuda", index), GPU, str(torch.cuda.get_device_name(index)), None)


def _threads(torch: Any) -> int:
    """Return the cores that torch computes on, as the probe counts them: at most those the process may run on."""
    try:
        open_cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        open_cores = os.cpu_count() or 1
    return min(int(torch.get_num_threads()), open_cores)
