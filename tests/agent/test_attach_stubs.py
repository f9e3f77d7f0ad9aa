"""The machine code of attach is what its assembler text says; the aarch64 one runs, under an emulator where this is none."""

import platform
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import vtprof_agent.attach
from vtprof_agent.attach import machine
from vtprof_agent.attach.machine import Machine
from vtprof_agent.attach.machine_aarch64 import ArmMachine, signal_frame
from vtprof_agent.attach.machine_x86_64 import X86Machine

STUBS = Path(vtprof_agent.attach.__file__).parent / "stubs"
MACHINES: dict[str, Machine] = {"x86_64": X86Machine(), "aarch64": ArmMachine()}


def tool(architecture: str, name: str) -> str:
    prefix = "" if platform.machine() == architecture else f"{architecture.replace('_', '-')}-linux-gnu-"
    found = shutil.which(prefix + name)
    if found is None:
        pytest.skip(f"needs {prefix}{name}")
    return found


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_bytes_are_those_of_the_assembler_text(architecture: str, tmp_path: Path) -> None:
    assembled, binary = tmp_path / "stub.o", tmp_path / "stub.bin"
    subprocess.run([tool(architecture, "as"), STUBS / f"{architecture}.S", "-o", assembled], check=True)
    subprocess.run(
        [tool(architecture, "objcopy"), "-O", "binary", "-j", ".text", assembled, binary], check=True
    )
    assert MACHINES[architecture].code == binary.read_bytes()


@pytest.mark.parametrize("architecture", MACHINES)
def test_both_sides_agree_on_the_places_in_the_data(architecture: str) -> None:
    source = (STUBS / f"{architecture}.S").read_text()
    places = {name: int(value, 16) for name, value in re.findall(r"\.set\s+(\w+),\s+(0x\w+)", source)}
    assert places.pop("DATA", machine.DATA) == machine.DATA
    assert places.pop("LEFT", machine.LEFT) == machine.LEFT
    assert (places["RESULT"], places["DONE"], places["TEXT"]) == (machine.RESULT, machine.DONE, machine.TEXT)
    assert places["PTHREAD_CREATE"] == machine.FUNCTIONS
    assert MACHINES[architecture].code.startswith(machine.MARK)


HARNESS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
static unsigned char code[] = {CODE};
static char *base; static volatile int ran; static char seen[64];
static int initialized(void) { return 1; }
static int ensure(void) { return 77; }
static int run(const char *text) { strcpy(seen, text); return 0; }
static void release(int state) { if (state == 77) ran = 1; }
static void all(int descriptor, char *at, size_t size) {
  while (size) {
    ssize_t n = descriptor ? write(1, at, size) : read(0, at, size);
    if (n <= 0) _exit(9);
    at += n; size -= n;
  }
}
static void handler(int number, siginfo_t *info, void *context) {
  ucontext_t *u = context; mcontext_t *m = &u->uc_mcontext;
  struct fpsimd_context *f = (void *)m->__reserved;
  unsigned long words[34]; memcpy(words, m->regs, 31 * 8); words[31] = m->sp; words[32] = m->pc; words[33] = m->pstate;
  all(1, (char *)words, sizeof words); all(1, (char *)f->vregs, 512); all(1, (char *)&f->fpsr, 4);
  all(1, (char *)&f->fpcr, 4);
  static char frame[8192]; unsigned size; all(0, (char *)&size, 4); all(0, frame, size);
  char *place = (char *)(((unsigned long)__builtin_frame_address(0) - 65536) & ~15ul); memcpy(place, frame, size);
  __asm__ volatile("mov x19, %0\n mov x9, %1\n mov sp, %2\n br x9"
                   :: "r"(base + 0x10000), "r"(base + 16), "r"(place) : "x19", "x9", "memory");
}
int main(void) {
  base = mmap(0, 0x20000, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); memcpy(base, code, sizeof code);
  __builtin___clear_cache(base, base + sizeof code);
  void *functions[] = {pthread_create, pthread_self, pthread_detach, initialized, ensure, run, release};
  memcpy(base + 0x10020, functions, sizeof functions); strcpy(base + 0x18000, "text of the order");
  struct sigaction action = {0}; action.sa_sigaction = handler; action.sa_flags = SA_SIGINFO; sigaction(SIGUSR1, &action, 0);
  register unsigned long saved __asm__("x21") = 0x1234567887654321; register double number __asm__("d9") = 2.5;
  __asm__ volatile("" : "+r"(saved), "+w"(number));
  register long x0 __asm__("x0") = getpid(), x1 __asm__("x1") = SIGUSR1, x8 __asm__("x8") = 129;
  __asm__ volatile("svc #0" : "+r"(x0), "+r"(saved), "+w"(number) : "r"(x1), "r"(x8) : "memory");
  unsigned long *data = (void *)(base + 0x10000);
  for (int i = 0; i < 3000 && !data[2]; i++) usleep(1000);
  sigset_t mask; sigprocmask(0, 0, &mask);
  fprintf(stderr, "%ld %lx %g left %ld error %ld done %ld ran %d '%s' blocked %d", x0, saved, number, data[0], data[1],
          data[2], ran, seen, sigismember(&mask, SIGUSR1));
  return 0;
}
"""
"""Has its own registers restored by our stub and our signal frame, as a borrowed thread has: here out of a handler."""


def test_the_aarch64_code_starts_the_thread_and_restores_all_registers(tmp_path: Path) -> None:
    emulator = (
        []
        if platform.machine() == "aarch64"
        else [shutil.which("qemu-aarch64") or "", "-L", "/usr/aarch64-linux-gnu"]
    )
    if "" in emulator:
        pytest.skip("needs qemu-aarch64 (Debian: qemu-user)")
    source, program = tmp_path / "harness.c", tmp_path / "harness"
    source.write_text(HARNESS.replace("CODE", ",".join(map(str, ArmMachine.code))))
    compiler = tool("aarch64", "gcc")
    subprocess.run([compiler, "-O1", "-w", "-pthread", source, "-o", program], check=True)
    process = subprocess.Popen(
        [*emulator, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    state = process.stdout.read(34 * 8 + 520)
    frame = signal_frame(state[: 34 * 8], state[34 * 8 :], 0)
    assert len(frame) % 16 == 0
    _, errors = process.communicate(struct.pack("<I", len(frame)) + frame, timeout=60)
    assert errors.decode() == (
        "0 1234567887654321 2.5 left 1 error 0 done 1 ran 1 'text of the order' blocked 0"
    )
    assert process.returncode == 0


def test_a_call_is_made_again_just_where_the_kernel_would_do_so() -> None:
    x86 = X86Machine()
    layout = struct.Struct("<27Q")
    behind, unsigned = 0x7000, 1 << 64

    def resumed(number: int, result: int, timeout: int = 0) -> tuple[int, int]:
        values = [0] * 27
        values[15], values[10], values[16], values[7] = number, result % unsigned, behind, timeout % unsigned
        after = layout.unpack(x86.resumed(layout.pack(*values)))
        assert after[15] == unsigned - 1  # the kernel itself makes nothing again
        return after[10], behind - after[16]

    assert resumed(7, -516) == (219, 2)  # poll, with what is left of its timeout: restart_syscall
    assert resumed(270, -514) == (270, 2)
    assert resumed(202, -512) == (202, 2)
    assert resumed(232, -4, timeout=-1) == (232, 2)  # epoll_wait without end
    assert resumed(232, -4, timeout=500) == (unsigned - 4, 0)  # with a timeout: EINTR, as after SIGCONT
    assert resumed(232, 3) == (3, 0)  # it had its events


def test_a_thread_that_may_hold_a_lock_is_not_borrowed() -> None:
    calls = X86Machine.parked_calls
    private, realtime = 128, 256
    wait, wait_bitset = 0, 9
    assert machine.call_rank(calls, 202, wait_bitset | private | realtime) == machine.WAITS_IN_FUTEX
    assert machine.call_rank(calls, 202, wait | private) is None  # as a mutex of glibc, malloc's too, waits
    assert machine.call_rank(calls, 9, 0) is None  # mmap
    assert machine.call_rank(calls, 232, 0) == machine.WAITS_FOR_EVENTS
