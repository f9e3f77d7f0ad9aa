"""Finds the Python interpreter and the C library in a process, and the functions of them that attach calls."""

import struct
from dataclasses import dataclass
from pathlib import PurePath

from vtprof_agent.attach.memory import Mapping, Memory, mappings
from vtprof_agent.attach.processes import why_denied
from vtprof_agent.attach.refusal import NotConcerned, Refused
from vtprof_agent.attach.symbols import CLASS_64, ELF_MAGIC, Image

_C_FUNCTIONS = ("pthread_create", "pthread_self", "pthread_detach")
_PYTHON_FUNCTIONS = ("Py_IsInitialized", "PyGILState_Ensure", "PyRun_SimpleString", "PyGILState_Release")
_C_LIBRARIES = ("libc.so.6", "libc-2.", "libpthread.so.0", "libpthread-2.")
_FIRST_OF_3_9, _FIRST_OF_3_10, _VERSION_SINCE_3_11 = "PyModule_AddType", "PyModule_AddObjectRef", "Py_Version"
_IDENTITY = struct.Struct("<4sB13xH")
"""Of an ELF header: magic, class, machine."""
_USE_EXEC = "start it with `vtprof-agent exec -- …`"


@dataclass(frozen=True)
class Interpreter:
    """A CPython that runs in a process."""

    version: tuple[int, int]
    functions: tuple[int, ...]
    """Addresses, in the order in which ``stubs/`` calls them."""


def open_memory(pid: int) -> Memory:
    """Open the memory of a process; raises Refused with the reason if it is not allowed."""
    try:
        return Memory(pid)
    except PermissionError as error:
        raise Refused(why_denied(pid)) from error
    except OSError as error:
        raise NotConcerned("it ended just now") from error


def find_interpreter(pid: int, memory: Memory, elf_machine: int) -> Interpreter:
    """Return the interpreter of a process; raises NotConcerned, or Refused where it is one that cannot be attached to."""
    try:
        files = _loaded_files(mappings(pid))
    except PermissionError as error:
        raise Refused(why_denied(pid)) from error
    except OSError as error:
        raise NotConcerned("it ended just now") from error
    if not files:
        raise NotConcerned("it is just ending")
    _refuse_foreign_code(memory, files[0], elf_machine)
    image = _python_image(memory, files)
    version = _version(memory, image)
    found = [_c_function(memory, files, name) for name in _C_FUNCTIONS]
    found += [image.symbol(name) for name in _PYTHON_FUNCTIONS]
    addresses = tuple(address for address in found if address is not None)
    if len(addresses) < len(found):
        raise Refused(f"its Python does not export what attach calls: {_USE_EXEC}")
    return Interpreter(version, addresses)


def _loaded_files(mapped: list[Mapping]) -> list[Mapping]:
    """Return the first page of each file with code, the executable or its loader first."""
    with_code = {found.path for found in mapped if "x" in found.permissions and found.path.startswith("/")}
    return [found for found in mapped if found.offset == 0 and found.path in with_code]


def _refuse_foreign_code(memory: Memory, first: Mapping, elf_machine: int) -> None:
    magic, class_, machine = _IDENTITY.unpack(memory.read(first.start, _IDENTITY.size))
    if magic == ELF_MAGIC and class_ != CLASS_64:
        raise Refused(f"it is a 32-bit program, attach needs 64 bits: {_USE_EXEC}")
    if magic == ELF_MAGIC and machine != elf_machine:
        raise Refused(f"it is a program for another processor, run by an emulator: {_USE_EXEC}")


def _python_image(memory: Memory, files: list[Mapping]) -> Image:
    first = files[0].path
    candidates = [found for found in files if found.path == first or "python" in _name(found)]
    for found in candidates:
        if memory.read(found.start, len(ELF_MAGIC)) == ELF_MAGIC:
            image = Image(memory, found.start)
            if image.symbol("PyGILState_Ensure") is not None:
                return image
    if any("pypy" in _name(found) for found in files):
        raise Refused("it is PyPy; attach knows CPython 3.9 and later")
    if any("python" in _name(found) for found in files):
        raise Refused(f"its Python exports no functions (a static build): {_USE_EXEC}")
    raise NotConcerned(f"it is not a Python process: it runs {PurePath(first).name}")


def _version(memory: Memory, image: Image) -> tuple[int, int]:
    address = image.symbol(_VERSION_SINCE_3_11)
    if address is not None:
        (number,) = memory.words(address, 8, 1)
        return number >> 24 & 0xFF, number >> 16 & 0xFF
    if image.symbol(_FIRST_OF_3_10) is not None:
        return 3, 10
    if image.symbol(_FIRST_OF_3_9) is not None:
        return 3, 9
    raise Refused("its Python is older than 3.9; the probe needs CPython 3.9 or later")


def _c_function(memory: Memory, files: list[Mapping], name: str) -> int | None:
    if any(_name(found).startswith(("ld-musl", "libc.musl")) for found in files):
        raise Refused(f"its C library is musl, attach needs glibc: {_USE_EXEC}")
    libraries = [found for found in files if _name(found).startswith(_C_LIBRARIES)]
    if not libraries:
        raise Refused(f"it is linked statically, without a C library that attach could call: {_USE_EXEC}")
    addresses = (Image(memory, found.start).symbol(name) for found in libraries)
    return next((address for address in addresses if address is not None), None)


def _name(found: Mapping) -> str:
    return PurePath(found.path).name
