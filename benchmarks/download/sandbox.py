"""Private network and mount namespaces, folders in memory, and child processes that end with the benchmark."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.download.link import DEVICE, bring_up
from benchmarks.download.server.profile import MIB

ROOT: Final = Path(__file__).resolve().parents[2]
"""The root of the repository."""

#: Set in a process that runs in its own namespaces.
_MARK: Final = "BENCHMARK_SANDBOX"
_MEMORY: Final = Path("/dev/shm")


def enter() -> None:
    """Restart this program in its own network and mount namespaces, if the system allows it.

    The program then has its own loopback device, can create a lossy line, and can mount small file systems that vanish
    with it. Otherwise those parts of the benchmark are replaced or skipped.
    """
    if _MARK in os.environ:
        bring_up(b"lo")
        return
    for identity in ((), ("--map-root-user",)):
        unshare = ("unshare", *identity, "--net", "--mount")
        if shutil.which("unshare") and subprocess.run((*unshare, "true"), capture_output=True).returncode == 0:
            os.environ[_MARK] = "1"
            os.execvp("unshare", (*unshare, sys.executable, "-m", "benchmarks.download", *sys.argv[1:]))


def has_namespaces() -> bool:
    """Return whether ``enter`` has created the namespaces."""
    return _MARK in os.environ


def has_lossy_line() -> bool:
    """Return whether a TUN device can be created."""
    return has_namespaces() and os.access(DEVICE, os.R_OK | os.W_OK)


def congestion_controls() -> frozenset[str]:
    """Return the TCP congestion controls that the server may use."""
    names = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    if os.geteuid() == 0:
        names = names.with_name("tcp_available_congestion_control")
    return frozenset(names.read_text().split()) if names.exists() else frozenset()


@contextmanager
def workspace(needed: int) -> Iterator[Path]:
    """Provide a temporary folder, in memory if ``needed`` bytes are free there."""
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > needed
    with tempfile.TemporaryDirectory(prefix="bench-download-", dir=_MEMORY if in_memory else None) as folder:
        yield Path(folder)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a file system of ``size`` bytes on ``folder``. Needs ``has_namespaces``."""
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size}", "bench", str(folder)), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", str(folder)), check=True)


@contextmanager
def service(module: str, *arguments: str) -> Iterator[str]:
    """Run ``module``, which prints a line when it is ready and ends with its standard input. Yields that line."""
    command = (sys.executable, "-m", module, *arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{module} did not start")
        yield line
        # Leaving the block closes its standard input and waits for it.


def write_random(path: Path, size: int, seed: int) -> None:
    """Write a reproducible file without a pattern that could hide a misplaced piece."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(source.randbytes(min(MIB, size - start)))
