"""One client process: how long, how much, and how it ended."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

#: Between two looks at the memory of a process, s.
_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """Times in s, sizes in bytes."""

    wall: float
    """Of the whole process; of the download alone, if the client is a Python program and says so."""
    cpu: float
    """User and system, likewise."""
    start_wall: float
    """What a Python program took before the download; 0 for the others."""
    start_cpu: float
    peak: int
    """Largest resident set."""
    exit_code: int
    """Negative: the signal that ended it."""
    killed: bool
    """By us."""
    error: str
    """What a Python client says of its failure, in a word."""


def measure(
    command: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str],
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Run ``command`` in ``folder`` to its end; kill it when ``timeout`` (s) is over, or ``stop`` says so.

    Blocks; may run in many threads.
    """
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
        try:
            peak, killed = _watch(process.pid, started + timeout, stop)
        finally:
            wall = time.monotonic() - started
            usage = _reap(process)
        told = _told(output)
    start_wall, start_cpu = float(told.get("started", started)) - started, float(told.get("cpu_before", 0.0))
    inherited = _resident(os.getpid())
    return Measured(
        wall=float(told.get("seconds", wall)),
        cpu=usage.ru_utime + usage.ru_stime - start_cpu,
        start_wall=start_wall,
        start_cpu=start_cpu,
        # A process starts with the mark of the one that started it; below that, its own last reading has to do.
        peak=usage.ru_maxrss * 1024 if usage.ru_maxrss * 1024 > inherited else peak,
        exit_code=process.returncode,
        killed=killed,
        error=str(told.get("error", "")),
    )


@cache
def bare_interpreter(python: str) -> int:
    """Largest resident set (bytes) of an interpreter that does nothing."""
    script = "print(open('/proc/self/status').read())"
    status = subprocess.run((python, "-c", script), capture_output=True, text=True, check=True).stdout
    return _high_water_mark(status)


def _watch(pid: int, deadline: float, stop: Callable[[], bool]) -> tuple[int, bool]:
    """Wait for the end of a process: its largest resident set as last seen, and whether it has to be killed."""
    peak = 0
    descriptor = os.pidfd_open(pid)
    try:
        while not select.select([descriptor], [], [], _INTERVAL)[0]:
            peak = max(peak, _resident(pid))
            if time.monotonic() > deadline or stop():
                return peak, True
    finally:
        os.close(descriptor)
    return peak, False


def _reap(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """End a process with all that it has started, and read what it has used."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _resident(pid: int) -> int:
    try:
        return _high_water_mark(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0


def _high_water_mark(status: str) -> int:
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _told(output: IO[bytes]) -> dict[str, float | str]:
    """The last line that a Python client printed; see ``fetchers.figures``."""
    output.seek(0)
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {}
    told: dict[str, float | str] = json.loads(lines[-1])
    return told
