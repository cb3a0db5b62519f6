"""Start commands in their own process groups that end with this process, even if SIGKILL ends it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_WRAPPER = Path(__file__).with_name("die_with_parent.py")

_spawners: dict[int, ThreadPoolExecutor] = {}  # by process id
_creating = threading.Lock()


def spawn(
    command: Sequence[str],
    *,
    output: BinaryIO,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` with stdout and stderr to `output`, and write `stdin` (at most a pipe's 64 KiB) to it.

    The command leads its own session, so that Ctrl-C in the terminal reaches only this process, which then stops its
    commands in the right order. On Linux, the kernel kills the command when this process ends for any reason; on
    other systems, the command survives a parent that SIGKILL ended. A command that cannot be run ends at once with
    code 1 and the reason in `output`; on other systems it raises OSError.
    """
    on_linux = sys.platform == "linux"
    wrapper = [sys.executable, "-I", "-S", str(_WRAPPER), str(os.getpid())] if on_linux else []
    started = _spawner().submit(
        subprocess.Popen[bytes],
        [*wrapper, *command],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    popen = started.result()
    if popen.stdin is not None:
        with suppress(BrokenPipeError), popen.stdin as pipe:  # it ended early; its exit code is checked later
            pipe.write(stdin or b"")
    return popen


def signal_group(popen: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    """Send `signals` to the command and its descendants; do nothing if it has ended."""
    for number in signals:
        if popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, number)


def pause_group(popen: subprocess.Popen[bytes]) -> None:
    """Send SIGSTOP to the command and its descendants; return when the command itself has stopped.

    The call that sends a signal returns before the signal takes effect: on a busy machine, a server ran for another
    6 ms, long enough to answer. The kernel reports a process as stopped when the last of its threads has stopped.
    """
    signal_group(popen, signal.SIGSTOP)
    if popen.poll() is None:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _spawner() -> ThreadPoolExecutor:
    """Return the pool of one thread that starts all commands of this process (a forked child gets its own).

    In PR_SET_PDEATHSIG, the kernel's "parent" is the thread that forked, not the process: a server started from a
    short-lived thread would die with that thread. This thread lives until the interpreter ends.
    """
    with _creating:
        pid = os.getpid()
        if pid not in _spawners:
            _spawners[pid] = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devstack-spawner")
        return _spawners[pid]
