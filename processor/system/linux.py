"""Properties of a process that only Linux has and Python has no function for: prctl(2) and system calls by number."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

IS_LINUX = sys.platform == "linux"
#: Makes the kernel prefer a process to its parent for an out-of-memory kill: proc(5), oom_score_adj.
_OOM_SCORE = "500"
#: linux/prctl.h
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38

_libc = ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: object) -> int:
    """Make the system call ``number`` and return its result. Raises OSError."""
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_word, arguments)))


def prctl(option: int, *arguments: object) -> int:
    """Change or return a property of this process, with the system call of this name. Raises OSError."""
    return _checked(_libc.prctl(option, *map(_word, (*arguments, 0, 0, 0, 0)[:4])))


def forbid_inspection() -> None:
    """Keep the memory, the environment and core dumps of this process from other processes of its user."""
    if IS_LINUX:
        prctl(_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Keep this process and its children from gaining privileges by the files that they execute. Raises OSError."""
    prctl(_SET_NO_NEW_PRIVS, 1)


def end_with_parent() -> None:
    """Make the kernel kill this process when the thread that started it ends. Raises OSError."""
    prctl(_SET_PDEATHSIG, SIGKILL)


def prefer_for_oom_kill() -> None:
    """Make the kernel prefer this process to its parent for an out-of-memory kill."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def _word(argument: object) -> object:
    return ctypes.c_ulong(argument) if isinstance(argument, int) else argument


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
