"""Measures one client process: time, CPU, memory, exit status."""

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

#: Time between two readings of the memory of a process, s.
_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one process. Times in s, sizes in bytes."""

    wall: float
    """Of the whole process; of the download alone for a Python client, which reports it."""
    cpu: float
    """User and system time, measured likewise."""
    start_wall: float
    """Time of a Python client before the download; 0 for other clients."""
    start_cpu: float
    peak: int
    """Largest resident set."""
    exit_code: int
    """Negative: the number of the signal that ended the process."""
    killed: bool
    """The benchmark killed the process."""
    error: str
    """Error code reported by a Python client."""


def measure(
    command: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str],
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Run ``command`` in ``folder`` to its end; kill it after ``timeout`` (s) or when ``stop`` returns True.

    Blocks. Thread-safe.
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
        figures = _parse_figures(output)
    start_wall, start_cpu = float(figures.get("started", started)) - started, float(figures.get("cpu_before", 0.0))
    inherited = _resident(os.getpid())
    return Measured(
        wall=float(figures.get("seconds", wall)),
        cpu=usage.ru_utime + usage.ru_stime - start_cpu,
        start_wall=start_wall,
        start_cpu=start_cpu,
        # A process inherits the high-water mark of its parent; below that, use its last own reading.
        peak=usage.ru_maxrss * 1024 if usage.ru_maxrss * 1024 > inherited else peak,
        exit_code=process.returncode,
        killed=killed,
        error=str(figures.get("error", "")),
    )


@cache
def bare_interpreter(python: str) -> int:
    """Return the largest resident set (bytes) of an idle interpreter."""
    script = "print(open('/proc/self/status').read())"
    status = subprocess.run((python, "-c", script), capture_output=True, text=True, check=True).stdout
    return _high_water_mark(status)


def _watch(pid: int, deadline: float, stop: Callable[[], bool]) -> tuple[int, bool]:
    """Wait for the end of a process. Return its largest resident set, and whether it has to be killed."""
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
    """Kill a process group and return the resource usage of its leader."""
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


def _parse_figures(output: IO[bytes]) -> dict[str, float | str]:
    """Parse the last line that a Python client printed; see ``fetchers.figures``."""
    output.seek(0)
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {}
    figures: dict[str, float | str] = json.loads(lines[-1])
    return figures
