"""The Python text that runs in the target, and its answer. It never prints, never raises into the host.

The folder of the answer is the licence to act: a text that comes to run when the agent has given up does nothing, and of
two that carry the same order one does.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from vtprof_agent.attach.refusal import Refused

ATTACH, DETACH = "attach", "detach"
ANSWER, PROBE = "answer", "probe"
"""Names of the files that the target answers in, and reads the probe from."""
_MOST_ANSWER_BYTES = 1 << 16
_POLL_S = 0.005
_SOURCE: Final = """
def forget():
    for name in list(sys.modules):
        if name.partition(".")[0] in ("vtprof_probe", "vtprof_schemas"):
            del sys.modules[name]

class Bundle:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.modules = json.load(file)
    def find_spec(self, name, path=None, target=None):
        if name in self.modules:
            return type(sys.__spec__)(name, self, is_package=self.modules[name][0])
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        name = module.__name__
        exec(compile(self.modules[name][1], "<%s>" % name, "exec", dont_inherit=True), vars(module))

def probe_of(order):
    found = sys.modules.get("vtprof_probe")
    if found is not None and getattr(found, "attached_release", order["release"]) == order["release"]:
        return found
    forget()
    bundle = Bundle(os.path.join(order["folder"], "probe"))
    sys.meta_path.insert(0, bundle)
    try:
        for name in bundle.modules:
            if name.startswith("vtprof_probe"):  # which import what they need of the other package
                __import__(name)
    except BaseException:
        forget()
        raise
    finally:
        sys.meta_path.remove(bundle)
    found = sys.modules["vtprof_probe"]
    found.attached_release = order["release"]
    return found

def run(order):
    answer = {}
    path = os.path.join(order["folder"], "answer")
    try:
        os.close(os.open(path + ".begun", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except BaseException:
        return
    try:
        probe = sys.modules.get("vtprof_probe")
        if order["action"] == "detach":
            answer["changed"] = probe is not None and probe.disable()
        elif probe is not None and probe.enabled():
            answer["changed"] = False
            answer["ring"] = probe.open_ring()[0]
        else:
            probe = probe_of(order)
            problem = probe.why_no_ring(order["ring_dir"])
            if problem:
                answer["refused"] = "no ring can be made in %s: %s; give another --ring-dir" % (
                    order["ring_dir"], problem)
            else:
                os.environ[order["family_variable"]] = order["family"]
                answer["changed"] = probe.enable(ring_dir=order["ring_dir"])
                answer["ring"], problem = probe.open_ring()
                if problem:
                    probe.disable()
                    answer["refused"] = problem + "; give another --ring-dir"
    except BaseException as error:
        answer["error"] = "%s: %s" % (type(error).__name__, error)
    try:
        with open(path + ".new", "x") as file:
            file.write(json.dumps(answer))
        os.rename(path + ".new", path)
    except BaseException:
        pass

import sys
switching = sys.getswitchinterval()
sys.setswitchinterval(min(switching, 0.0002))
brief = sys.getswitchinterval()
import json, os
try:
    run(order)
finally:
    if sys.getswitchinterval() == brief:  # the host did not set it meanwhile
        sys.setswitchinterval(switching)
"""
"""All of the probe is imported at once, so that nothing need stay for it: neither a file nor an entry on the path, which
in /tmp would be anybody's to fill. A probe that an earlier release brought in is replaced.

An import gives the interpreter's lock up a thousand times, for each file that is looked for and read. A busy program hands
it back only when somebody has waited for the switch interval, 5 ms, without a wake-up in between; one that makes short
system calls wakes the waiter each time and has it again first. So the interval is short meanwhile.
"""


class NoAnswer(Refused):
    """The target has not answered in time."""


def text(order: Mapping[str, str]) -> str:
    """Return one statement that carries out an order; nothing of it stays in the host's ``__main__``."""
    names = {"__name__": "vtprof_attach", "order": dict(order)}
    return f"__import__('builtins').exec({_SOURCE!r}, {names!r})"


def wait_for_answer(path: Path, alive: Callable[[], bool], timeout_s: float) -> dict[str, Any]:
    """Return what the target wrote. Raises Refused when it failed there, ended, or did not answer in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        living = alive()
        content = _read(path)
        if content is not None:
            break
        if not living:
            raise Refused("it ended meanwhile")
        if time.monotonic() > deadline:
            raise NoAnswer(_no_answer(path, timeout_s))
        time.sleep(_POLL_S)
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise Refused("its answer is damaged") from error
    if isinstance(answer, dict) and "error" in answer:
        raise Refused(f"the probe failed in it: {answer['error']}".replace("\n", " "))
    if isinstance(answer, dict) and "refused" in answer:
        raise Refused(str(answer["refused"]).replace("\n", " "))
    if not isinstance(answer, dict) or "changed" not in answer:
        raise Refused("its answer is damaged")
    return answer


def _no_answer(path: Path, timeout_s: float) -> str:
    if path.with_name(path.name + ".begun").exists():
        return (
            f"the probe was not ready within {timeout_s:g} s and may still become so: run `vtprof-agent detach`, then"
            " try again with a longer --timeout"
        )
    return (
        f"its interpreter was not free within {timeout_s:g} s (native code holds it), nothing was done: try again, or"
        " give a longer --timeout"
    )


def _read(path: Path) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(file, _MOST_ANSWER_BYTES)
    finally:
        os.close(file)
