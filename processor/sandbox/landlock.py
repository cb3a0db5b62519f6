"""Restrict the files, the TCP ports and the signals of this process: landlock(7), Linux 5.13 and later.

The kernel's version of the interface (its ABI) decides what can be restricted: TCP from 4 on, signals from 6 on.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from processor.system.linux import IS_LINUX, system_call

#: The numbers are the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_FOR_ABI = 1
_PATH_BENEATH = 1
#: linux/landlock.h, LANDLOCK_ACCESS_FS_*
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
#: The number of rights to files that each ABI has, by the first ABI that has them.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
#: Binding and connecting TCP sockets; connecting to abstract Unix sockets and sending signals outside.
_TCP, _TCP_ABI = 0b11, 4
_SCOPES, _SCOPES_ABI = 0b11, 6


def landlock_abi() -> int:
    """Return the version of the kernel's interface; 0 if it has none, or it is switched off."""
    if not IS_LINUX:
        return 0
    try:
        return system_call(_CREATE_RULESET, None, 0, _ASK_FOR_ABI)
    except OSError:
        return 0


def restrict_files(readable: Iterable[Path], writable: Path) -> int:
    """Allow only to read below ``readable``, and to read, write and delete files below ``writable``; for good.

    Returns the ABI that is in force. Raises OSError if the kernel refuses; nothing is restricted then.
    """
    abi = landlock_abi()
    if not abi:
        return 0
    rights = (1 << _FILE_RIGHTS[max(first for first in _FILE_RIGHTS if first <= abi)]) - 1
    attributes = struct.pack("QQQ", rights, _TCP if abi >= _TCP_ABI else 0, _SCOPES if abi >= _SCOPES_ABI else 0)
    size = 24 if abi >= _SCOPES_ABI else 16 if abi >= _TCP_ABI else 8
    ruleset = system_call(_CREATE_RULESET, ctypes.c_char_p(attributes), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & rights)
        _allow(ruleset, writable, _WRITE & rights)
        system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(descriptor)
