"""Attaches the probe to Python processes that run already, and takes it away again.

Method: borrow a thread that is parked in a system call such as ``epoll_wait`` or ``poll``, let it start a new thread
and go back to its call; the new thread takes the GIL and runs one Python text. A parked thread holds neither
the allocator's nor the loader's lock, so that ``pthread_create`` on it is sound; on a busy thread it is not, and a
program that has no parked thread is refused.

Why an injector of our own, and no library to load: there is no compiler in production and the wheel is pure Python, so a
``.so`` would have to be shipped in binary for each processor and C library. Instead, 230 bytes of machine code for each
processor (assembler text in ``stubs/``, compared with the bytes by a test) go into a fresh mapping, and all addresses
are read from the symbol tables in the target's memory, so that neither its files nor the version of its C library
matter. The loader is not called at all. The borrowed thread is traced only while its registers are set: it
saves and restores them itself, so that the host goes on even if the agent is killed meanwhile. The mapping (128 KiB,
three pages touched) stays and serves the next attach and the detach. pyinjector, the alternative, ships binaries and
runs ``dlopen`` on the stopped thread.

Already attached is an error (exit code 2), as are processes of a tree that could not be attached to; the others are. Below
one that was named and cannot be attached to, none is.
"""
