"""Run a command that the kernel kills when its parent dies: `die_with_parent.py PARENT_PID COMMAND...`.

This is a separate script, run by path, because the child must call `prctl` itself: between fork and exec
(`preexec_fn`) that is unsafe in a process with threads, whereas this interpreter is fresh. `exec` keeps the death
signal, the process id and the session. The command replaces this script. Linux only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Set the death signal, then replace this process by the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the call, so that the signal will never be sent
        sys.exit("the parent process is gone")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would keep that
    try:
        os.execvp(command[0], command)  # noqa: S606  no shell is wanted
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
