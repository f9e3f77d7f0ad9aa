"""What /proc says of a process before it is touched: state, owner, namespaces, descendants."""

import os
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.attach.memory import PROC
from vtprof_agent.attach.refusal import NotConcerned, Refused

_STATE, _PARENT, _START_TICKS = 0, 1, 19
"""Places in /proc/PID/stat behind the process name; fields 3, 4 and 22 of proc(5)."""
_STRICT_SECCOMP = "1"
_CAN_TRACE = 1 << 19
"""CAP_SYS_PTRACE in the masks of /proc/PID/status."""
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the PID namespace that the kernel starts in; PROC_PID_INIT_INO of its proc_ns.h."""
_YAMA = PROC / "sys/kernel/yama/ptrace_scope"
_USE_EXEC = "start it with `vtprof-agent exec -- …`"


@dataclass(frozen=True)
class Process:
    """One process, as seen from here."""

    pid: int
    name: str
    user: int
    """Its effective user id, which files made by it belong to."""
    own_pid: int
    """Its PID as it sees it itself."""
    start_ticks: int
    pid_namespace: int
    foreign_mounts: bool
    """It sees another file system than this agent."""

    @property
    def root(self) -> Path:
        """Return the folder that the process calls ``/``, as seen from here."""
        return PROC / str(self.pid) / "root" if self.foreign_mounts else Path("/")

    def path(self, inside: Path) -> Path:
        """Return where a path of the process lies as seen from here."""
        return self.root / inside.relative_to("/")


def read_process(pid: int) -> Process:
    """Return the facts of a process that may be traced; raises Refused with the reason if it may not, ever or now."""
    folder = PROC / str(pid)
    try:
        status = _status(folder)
        fields = _stat(folder)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise Refused("there is no such process here; in a container, share the PID namespace") from error
    _refuse_state(status, fields[_STATE].decode())
    try:
        return Process(
            pid,
            status["Name"],
            int(status["Uid"].split()[1]),
            int(status.get("NSpid", str(pid)).split()[-1]),
            int(fields[_START_TICKS]),
            (folder / "ns/pid").stat().st_ino,
            _foreign_mounts(folder),
        )
    except PermissionError as error:
        raise Refused(why_denied(pid)) from error
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotConcerned("it ended just now") from error


def is_machine_init(process: Process) -> bool:
    """Tell whether it is the first process of the machine, and not one of a container."""
    return process.own_pid == 1 and process.pid_namespace == _FIRST_PID_NAMESPACE


def process_name(pid: int) -> str | None:
    """Return the name of a process as the kernel has it, or None when it is gone."""
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return None


def ended(pid: int) -> bool:
    """Tell whether a process has ended, collected by its parent or not."""
    try:
        return _stat(PROC / str(pid))[_STATE] in (b"Z", b"X")
    except OSError:
        return True


def alive(process: Process) -> bool:
    """Tell whether it is still that process, and not a zombie."""
    try:
        fields = _stat(PROC / str(process.pid))
    except OSError:
        return False
    return int(fields[_START_TICKS]) == process.start_ticks and fields[_STATE] not in (b"Z", b"X")


def tree(pid: int, children: bool) -> list[int]:
    """Return the process and, if wanted, all its descendants, parents first."""
    if not children:
        return [pid]
    below: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                below.setdefault(int(_stat(entry)[_PARENT]), []).append(int(entry.name))
            except (OSError, ValueError, IndexError):
                continue
    found = [pid]
    for parent in found:
        found.extend(sorted(child for child in below.get(parent, []) if child != os.getpid()))
    return found


def tracing_allowed() -> str:
    """Return one line on whose processes may be traced from here."""
    try:
        if int(_status(PROC / "self")["CapEff"], 16) & _CAN_TRACE:
            return "any process (CAP_SYS_PTRACE)"
    except (OSError, KeyError, ValueError):
        pass
    scope = _yama_scope()
    if scope != "0":
        return f"none: kernel.yama.ptrace_scope = {scope}, and no CAP_SYS_PTRACE (sudo, docker run --cap-add SYS_PTRACE)"
    return f"processes of user {os.geteuid()}; others need CAP_SYS_PTRACE"


def _yama_scope() -> str:
    try:
        return _YAMA.read_text().strip()
    except OSError:
        return "0"


def why_denied(pid: int) -> str:
    """Return one line on why this process may not be traced, and what to do."""
    try:
        owner = int(_status(PROC / str(pid))["Uid"].split()[1])
        capable = int(_status(PROC / "self")["CapEff"], 16) & _CAN_TRACE
    except (OSError, KeyError, ValueError):
        return "no permission to trace it: run vtprof-agent as root"
    if capable:
        return (
            "no permission to trace it, not even with CAP_SYS_PTRACE: it lies in another user namespace, or a security"
            " module or sandbox forbids it; run vtprof-agent beside it"
        )
    if owner != os.geteuid():
        return f"it belongs to user {owner}: run vtprof-agent as that user, or as root with CAP_SYS_PTRACE"
    scope = _yama_scope()
    if scope != "0":
        return (
            f"Yama forbids to trace it (kernel.yama.ptrace_scope = {scope}): run vtprof-agent with CAP_SYS_PTRACE"
            " (sudo, docker run --cap-add SYS_PTRACE), or " + _USE_EXEC
        )
    return "no permission to trace it (it has more rights than you, or is not dumpable): run vtprof-agent as root"


def _refuse_state(status: dict[str, str], state: str) -> None:
    group = int(status["Tgid"])
    if group != int(status["Pid"]):
        raise Refused(f"that is a thread: give its process, {group}")
    if group == os.getpid():
        raise Refused("that is vtprof-agent itself")
    if state in "ZX":
        raise NotConcerned("it has ended already (a zombie that its parent has not collected)")
    if "VmSize" not in status:
        raise NotConcerned("it is not a Python process but a kernel thread, or it is just ending")
    tracer = int(status.get("TracerPid", "0"))
    if tracer:
        raise Refused(
            f"process {tracer} traces it already (a debugger, strace, or another attach): end that first"
        )
    if state in "Tt":
        raise Refused(f"it is stopped: continue it first (kill -CONT {group})")
    if status.get("Seccomp") == _STRICT_SECCOMP:
        raise Refused(
            "it runs under strict seccomp, which ends a process that maps memory; it cannot be attached to"
        )
    if "shstk" in status.get("x86_Thread_features", ""):
        raise Refused(f"it uses a shadow stack, on which no call can be injected: {_USE_EXEC}")


def _foreign_mounts(folder: Path) -> bool:
    same_namespace = (folder / "ns/mnt").stat().st_ino == (PROC / "self/ns/mnt").stat().st_ino
    theirs, ours = (folder / "root").stat(), Path("/").stat()
    return not same_namespace or (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino)


def _status(folder: Path) -> dict[str, str]:
    lines = (folder / "status").read_text(errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _stat(folder: Path) -> list[bytes]:
    content = (folder / "stat").read_bytes()
    return content[content.rindex(b")") + 1 :].split()
