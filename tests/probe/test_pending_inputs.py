"""A processor's output finds its `generate` call, and none that it does not belong to."""

import os
import threading
from typing import Any

import pytest

from vtprof_probe.engines.transformers_calls import Preprocessing
from vtprof_probe.engines.transformers_preprocess import PendingInputs, _Pending

torch = pytest.importorskip("torch", reason="torch is not installed")


def run(start_ns: int) -> Preprocessing:
    return Preprocessing(start_ns, start_ns + 1, 1, 0, 0, None)


def ids(columns: int = 3) -> Any:
    return torch.zeros((1, columns), dtype=torch.long)


class Moved:
    """Stands in for a tensor on a GPU: hardware."""

    def __init__(self, columns: int = 3) -> None:
        self.shape = (1, columns)
        self.device = "cuda:0"


def test_outputs_of_other_shapes_may_be_alive() -> None:
    pending, first, second = PendingInputs(), ids(3), ids(5)
    pending.add(_Pending(first, run(1)))
    pending.add(_Pending(second, run(2)))
    assert pending.take(second) == run(2)
    assert pending.take(first) == run(1)


def test_a_second_generate_of_the_same_ids_gets_no_other_calls_times() -> None:
    pending, used = PendingInputs(), ids()
    pending.add(_Pending(ids(), run(1)))  # a length check, dropped at once
    pending.add(_Pending(used, run(2)))
    assert pending.take(used) == run(2)
    assert pending.take(used) is None


def test_an_unknown_tensor_of_the_same_device_is_not_matched_by_shape() -> None:
    pending, waiting = PendingInputs(), ids()
    pending.add(_Pending(waiting, run(1)))
    assert pending.take(ids()) is None


def test_ids_moved_to_another_device_are_found_by_shape_and_thread() -> None:
    pending, here, longer = PendingInputs(), ids(3), ids(5)
    pending.add(_Pending(here, run(1)))
    pending.add(_Pending(longer, run(2)))
    moved = Moved(3)
    assert pending.take(moved) == run(1)
    assert pending.take(moved) is None


def test_a_child_forked_while_another_thread_holds_the_lock_does_not_wait_for_it() -> None:
    pending = PendingInputs()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with pending._lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if not child:
        os._exit(0 if pending._lock.acquire(blocking=False) else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0
