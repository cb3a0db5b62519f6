"""Start a command in a process group of its own that does not outlive this process, not even one killed with -9."""

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
_making = threading.Lock()


def spawn(
    command: Sequence[str],
    *,
    output: BinaryIO,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` with stdout and stderr going to `output`; `stdin` (at most a pipe's 64 KiB) is fed to it.

    The command leads a session of its own, so Ctrl-C in the terminal reaches this process alone, which then stops
    what it started in the right order. On Linux the kernel kills the command when this process ends in whatever
    way; elsewhere there is no such promise, and a command survives a parent that was killed with -9.
    A command that cannot be run ends at once with code 1 and the reason in `output`; elsewhere it raises OSError.
    """
    started = _spawner().submit(
        subprocess.Popen[bytes],
        [*_wrapper(), *command],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    popen = started.result()
    if popen.stdin is not None:
        with suppress(BrokenPipeError), popen.stdin as pipe:  # it died early: its exit code tells
            pipe.write(stdin or b"")
    return popen


def signal_group(popen: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    """Send `signals` to the command and all it started; nothing happens once it has ended."""
    for number in signals:
        if popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, number)


def pause_group(popen: subprocess.Popen[bytes]) -> None:
    """SIGSTOP to the command and all it started; the command itself has come to a halt when this returns.

    A signal is only on its way when the call that sends it returns: on a busy machine a server went on for another
    6 ms, long enough to answer. The kernel reports a process as stopped once the last of its threads is.
    """
    signal_group(popen, signal.SIGSTOP)
    if popen.poll() is None:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _wrapper() -> list[str]:
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", str(_WRAPPER), str(os.getpid())]


def _spawner() -> ThreadPoolExecutor:
    """The one thread that starts all commands of this process (a forked child gets its own).

    The kernel's "parent" in PR_SET_PDEATHSIG is the thread that forked, not the process: a server started from a
    short-lived thread would die with that thread. This one lives until the interpreter ends.
    """
    with _making:
        pid = os.getpid()
        if pid not in _spawners:
            _spawners[pid] = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devstack-spawner")
        return _spawners[pid]
