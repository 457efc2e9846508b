"""A kernel that answers otherwise: a seccomp filter lets a system call fail, in a program and its children."""

from __future__ import annotations

import platform
import struct
import sys

import pytest

_CALLS = {  # asm/unistd.h
    "x86_64": {"bind": 49, "listen": 50, "getsockname": 51, "getpeername": 52, "socketpair": 53, "shutdown": 48},
    "aarch64": {"bind": 200, "listen": 201, "getsockname": 204, "getpeername": 205, "socketpair": 199, "shutdown": 210},
}
_NOT_HERE = 77
_SOURCE = """
import ctypes, runpy, sys
module, filter = sys.argv.pop(1), bytes.fromhex(sys.argv.pop(1))
libc = ctypes.CDLL(None, use_errno=True)
held = ctypes.create_string_buffer(filter)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(filter) // 8, ctypes.addressof(held))
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
):
    sys.exit(77)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, call: str, number: int) -> list[str]:
    """What runs a module with a kernel in which that call fails with that errno."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        pytest.skip("the numbers of this machine's calls are not known")
    # linux/filter.h, linux/seccomp.h
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    allow, fail = 0x7FFF0000, 0x00050000 | number
    lines = [(load, 0, 0, 0), (jump_if_equal, 0, 1, calls[call]), (give, 0, 0, fail), (give, 0, 0, allow)]
    return [sys.executable, "-c", _SOURCE, module, b"".join(struct.pack("=HBBI", *line) for line in lines).hex()]


def skip_if_not_here(returncode: int) -> None:
    """Where there are no such filters."""
    if returncode == _NOT_HERE:
        pytest.skip("no seccomp filters here")
