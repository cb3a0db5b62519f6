"""``python -m tests.processor.sandbox.restricted FD``: the decoding server, where Landlock and seccomp are forbidden.

A filter of system calls answers them with EPERM, as that of a container may.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from processor.sandbox import server
from processor.system.linux import forbid_new_privileges, prctl

_CREATE_RULESET = 444
_SET_SECCOMP, _MODE_FILTER = 22, 2
_PRCTL = 157 if os.uname().machine == "x86_64" else 167
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000 | errno.EPERM
_PROGRAM = [
    (_LOAD, 0, 0, 0),  # the number
    (_JUMP_IF_EQUAL, 3, 0, _CREATE_RULESET),
    (_JUMP_IF_EQUAL, 0, 3, _PRCTL),
    (_LOAD, 0, 0, 16),  # the first argument
    (_JUMP_IF_EQUAL, 0, 1, _SET_SECCOMP),
    (_RETURN, 0, 0, _ERROR),
    (_RETURN, 0, 0, _ALLOW),
]


def forbid() -> None:
    """Answer the system calls with EPERM in this process and its children."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _PROGRAM))
    program = struct.pack("HxxxxxxP", len(_PROGRAM), ctypes.addressof(code))
    forbid_new_privileges()
    prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program))


if __name__ == "__main__":
    forbid()
    sys.exit(server.main(int(sys.argv[1])))
