"""Loads of known size for one GPU, run by torch in a thread: copies, a matrix product, uploads; steady or a square wave."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from counter_series import Work

from vtprof_schemas.errors import BackendError

COPY, TRICKLE, GEMM, UPLOAD = "copy", "trickle", "gemm", "upload"
"""DRAM at full rate; small pieces of DRAM one by one; bf16 on tensor cores; host to device."""
_BYTES, _PIECE, _UPLOAD, _SIDE = 1 << 30, 1 << 20, 256 << 20, 8192
_BF16_PER_SM_CYCLE: Final = {9: 4096, 10: 8192}
"""Dense bf16 FLOP of one SM in a cycle, by major compute capability: the datasheets' peaks over SMs and boost clock."""


class Loads(Protocol):
    """Runs one load at a time."""

    bf16_per_cycle: float | None
    """Dense bf16 FLOP of the whole GPU in one SM clock cycle, where known."""

    def start(self, kind: str, on_s: float = 1.0, off_s: float = 0.0) -> None:
        """Begin, for ``on_s`` at a time with pauses of ``off_s``."""

    def stop(self) -> list[Work]:
        """End; return what ran, bytes or FLOP. Raises BackendError when the load failed."""


class TorchLoads:
    """Loads of one GPU, given by its UUID; must be made before anything else imports torch."""

    def __init__(self, uuid: str) -> None:
        """Prepare; raises BackendError where torch has no CUDA."""
        os.environ["CUDA_VISIBLE_DEVICES"] = uuid
        try:
            import torch
        except ImportError as error:
            raise BackendError("torch is not installed") from error
        if not torch.cuda.is_available():
            raise BackendError("this torch has no CUDA, or sees no GPU")
        self._torch = torch
        gpu = torch.cuda.get_device_properties(0)
        per_sm = _BF16_PER_SM_CYCLE.get(gpu.major)
        self.bf16_per_cycle = None if per_sm is None else float(per_sm * gpu.multi_processor_count)
        self._stop, self._warm, self._failed = threading.Event(), threading.Event(), ""
        self._thread: threading.Thread | None = None
        self._work: list[Work] = []

    def start(self, kind: str, on_s: float = 1.0, off_s: float = 0.0) -> None:
        """Begin, for ``on_s`` at a time with pauses of ``off_s``."""
        self._stop.clear()
        self._warm.clear()
        self._work, self._failed = [], ""
        self._thread = threading.Thread(target=self._run, args=(kind, on_s, off_s), daemon=True)
        self._thread.start()
        self._warm.wait()  # a first context and cuBLAS take seconds

    def stop(self) -> list[Work]:
        """End; return what ran, bytes or FLOP. Raises BackendError when the load failed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._failed:
            raise BackendError(f"the load failed: {self._failed}")
        return self._work

    def _run(self, kind: str, on_s: float, off_s: float) -> None:
        try:
            run, amount = self._chunk(kind)
            for _ in range(3):
                self._timed(run)
            self._warm.set()
            while not self._stop.is_set():
                until_ns = time.monotonic_ns() + int(on_s * 1e9)
                while time.monotonic_ns() < until_ns and not self._stop.is_set():
                    self._work.append(Work(*self._timed(run), amount))
                self._stop.wait(off_s)
        except RuntimeError as error:  # torch's own, out of memory too
            self._failed = str(error).splitlines()[0]
        finally:
            self._warm.set()

    def _timed(self, run: Callable[[], Any]) -> tuple[int, int]:
        begin_ns = time.monotonic_ns()
        run()
        self._torch.cuda.synchronize()
        return begin_ns, time.monotonic_ns()

    def _chunk(self, kind: str) -> tuple[Callable[[], Any], float]:
        """Return some ms of a load, and its amount; a copy both reads and writes."""
        torch = self._torch
        if kind == GEMM:
            a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
            c = torch.empty_like(a)
            return lambda: [torch.matmul(a, b, out=c) for _ in range(4)], 4 * 2.0 * _SIDE**3
        to = torch.zeros(_BYTES, device="cuda", dtype=torch.uint8)
        if kind == UPLOAD:
            host = torch.ones(_UPLOAD, dtype=torch.uint8).pin_memory()
            return lambda: to[:_UPLOAD].copy_(host, non_blocking=True), float(_UPLOAD)
        whole = torch.ones_like(to)
        if kind == COPY:
            return lambda: [to.copy_(whole) for _ in range(16)], 16 * 2.0 * _BYTES
        pieces = list(zip(to.split(_PIECE), whole.split(_PIECE), strict=True))  # far more than caches hold
        return lambda: [piece.copy_(source) for piece, source in pieces], 2.0 * _BYTES
