"""Become a command that the kernel kills when its parent dies: `die_with_parent.py PARENT_PID COMMAND...`.

A script of its own, run by path, because the setting has to be made in the child: `prctl` between fork and exec
(`preexec_fn`) is unsafe in a process with threads, whereas here the interpreter is fresh. The death signal is kept
over `exec`, and so are the process id and the session; nothing of this script is left once the command runs.
Linux only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the setting was made, so the signal will never come
        sys.exit("the parent process is gone")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that on
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
