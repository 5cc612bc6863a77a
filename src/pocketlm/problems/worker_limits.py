"""What the child of `RewardWorker` may not do: a stand-alone script of the standard library, run by `worker_child`.

Two fences, both for the life of the process and without privileges:

- A seccomp filter (Linux on x86-64 or ARM64): the *kernel* refuses new processes and programs, signals, sockets, files
  opened for writing, and everything that renames, removes, mounts, traces or opens a way round (io_uring, bpf).
- An audit hook (everywhere): Python refuses the same with a message that says so. Code that means harm gets round an
  audit hook (through ctypes or a C extension), so where there is no seccomp it stops accidents, not attacks.

Reading is not fenced: a reward may read the files that you may read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from typing import Any

REFUSED_EVENTS = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen"),
    *("os.kill", "os.killpg", "signal.pthread_kill"),
    *("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"),
)
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def forbid() -> bool:
    """Raise both fences; whether the kernel's stands."""
    fenced = _seccomp()
    sys.addaudithook(_refuse)
    return fenced


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITE_FLAGS
    if writes or event in REFUSED_EVENTS:
        raise PermissionError(f"a reward function may not do this: {event}")


# Linux system calls by number on (x86-64, ARM64); -1 where the machine has no such call.
REFUSED_CALLS = {
    **{"fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281)},
    **{"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434)},
    **{"socket": (41, 198), "connect": (42, 203), "ptrace": (101, 117), "process_vm_writev": (311, 271)},
    **{"creat": (85, -1), "openat2": (437, 437), "truncate": (76, 45), "rename": (82, -1), "renameat": (264, 38)},
    **{"renameat2": (316, 276), "unlink": (87, -1), "unlinkat": (263, 35), "rmdir": (84, -1), "mkdir": (83, -1)},
    **{"mkdirat": (258, 34), "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1), "symlinkat": (266, 36)},
    **{"mknod": (133, -1), "mknodat": (259, 33), "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53)},
    **{"fchmodat2": (452, 452), "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54)},
    **{"utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7)},
    **{"mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51)},
    **{"bpf": (321, 280), "io_uring_setup": (425, 425), "setpriority": (141, 140)},
}
CLONE, CLONE3 = (56, 220), 435
OPEN, OPENAT, PRLIMIT = (2, -1), (257, 56), (302, 261)
CLONE_THREAD = 0x10000
ANY_PROCESS = 0xFFFFFFFF
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000

LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, MISSING = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # EPERM; ENOSYS: the C library falls back
KILL = 0x80000000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
PR_SET_NO_NEW_PRIVILEGES, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def _seccomp() -> bool:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES or sys.maxsize < 2**32:
        return False
    program = _program(machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    with contextlib.suppress(OSError, AttributeError):  # no C library to ask, or not this one
        control = ctypes.CDLL(None, use_errno=True).prctl
        zero = ctypes.c_ulong(0)
        if control(PR_SET_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero) == 0:
            mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
            return bool(control(PR_SET_SECCOMP, mode, ctypes.c_char_p(header), zero, zero) == 0)
    return False


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter: (operation, lines to skip if true, if false, operand). It ends in ALLOW."""
    column = list(ARCHITECTURES).index(machine)
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (GREATER_EQUAL, 0, 1, X32),  # the second set of numbers that x86-64 knows
        (RETURN, 0, 0, REFUSE),
        (EQUAL, 0, 1, CLONE3),  # its flags lie in memory, where a filter cannot look
        (RETURN, 0, 0, MISSING),
    ]
    for numbers in REFUSED_CALLS.values():
        if numbers[column] >= 0:
            lines += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE)]
    for numbers, argument, flags, refuse_if_set in (
        (CLONE, 0, CLONE_THREAD, False),  # a thread is allowed, a process is not
        (OPEN, 1, WRITE_FLAGS, True),
        (OPENAT, 2, WRITE_FLAGS, True),
        (PRLIMIT, 0, ANY_PROCESS, True),  # its own limits it may lower
    ):
        if numbers[column] >= 0:
            lines += [
                (EQUAL, 0, 4, numbers[column]),
                (LOAD, 0, 0, ARGUMENTS + 8 * argument),
                (ANY_BIT, 0, 1, flags) if refuse_if_set else (ANY_BIT, 1, 0, flags),
                (RETURN, 0, 0, REFUSE),
                (RETURN, 0, 0, ALLOW),
            ]
    return [*lines, (RETURN, 0, 0, ALLOW)]
