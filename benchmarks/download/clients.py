"""The measured clients: their commands and versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.download.sandbox import ROOT

ENGINE: Final = "this engine"
CURL: Final = "curl"
WGET: Final = "wget"

#: The Makefile installs packages that only the benchmark needs here.
_PACKAGES: Final = ROOT / ".local" / "bench"
_FETCHERS: Final = "benchmarks.download.fetchers"
_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits passed to clients that have options for them. Times in s."""

    stall: float
    total: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Order:
    """One download."""

    url: str
    target: Path
    limits: ClientLimits | None = None
    sha256: str = ""
    """The expected hash in hexadecimal, for clients that can verify it."""
    resume: bool = False
    """Resume the download of an earlier process."""


@dataclass(frozen=True, slots=True)
class Client:
    """A program, or a library called by a small script of this package."""

    name: str
    command: Callable[[Order], Sequence[str]]
    version_command: Sequence[str]
    python: bool = False

    @property
    def version(self) -> str:
        """The version that the client prints; empty if it is not installed."""
        return _first_line(tuple(self.version_command))


def environment() -> dict[str, str]:
    """Return the environment of all clients: no proxy, no user settings, this checkout and the benchmark's packages."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": "/nonexistent", "PYTHONPATH": f"{ROOT}{os.pathsep}{_PACKAGES}", "no_proxy": "*"}


def _engine(order: Order) -> Sequence[str]:
    command = [*_fetcher("engine", order)]
    if order.limits:
        command += [
            f"--stall-timeout={order.limits.stall}",
            f"--total-timeout={order.limits.total}",
            f"--max-bytes={order.limits.max_bytes}",
        ]
    if order.sha256:
        command.append(f"--sha256={order.sha256}")
    return [*command, "--resume"] if order.resume else command


def _curl(order: Order) -> Sequence[str]:
    command = ["curl", "--disable", "--silent", "--fail", "--output", str(order.target)]
    if order.limits:
        stall = f"{order.limits.stall:g}"
        command += ["--connect-timeout", stall, "--speed-limit", "1000", "--speed-time", stall]
        command += ["--max-time", f"{order.limits.total:g}", "--max-filesize", str(order.limits.max_bytes)]
    return [*command, *(("--continue-at", "-") if order.resume else ()), order.url]


def _wget(order: Order) -> Sequence[str]:
    command = ["wget", "--no-config", "--quiet", f"--output-document={order.target}"]
    if order.limits:
        command += [f"--timeout={order.limits.stall:g}", "--tries=5", "--waitretry=1"]
    return [*command, *(("--continue",) if order.resume else ()), order.url]


def _axel(order: Order) -> Sequence[str]:
    # axel resumes without an option.
    command = ["axel", "--quiet", "--no-proxy", f"--num-connections={_CONNECTIONS}", f"--output={order.target}"]
    return [*command, *((f"--timeout={order.limits.stall:g}",) if order.limits else ()), order.url]


def _aria2c(order: Order) -> Sequence[str]:
    command = ["aria2c", "--no-conf", "--quiet", f"--dir={order.target.parent}", f"--out={order.target.name}"]
    command += [f"--max-connection-per-server={_CONNECTIONS}", f"--split={_CONNECTIONS}", "--min-split-size=1M"]
    if order.limits:
        command += [f"--timeout={order.limits.stall:g}", f"--connect-timeout={order.limits.stall:g}"]
        command += ["--max-tries=5", "--lowest-speed-limit=1K"]
    if order.sha256:
        command.append(f"--checksum=sha-256={order.sha256}")
    return [*command, *(("--continue=true",) if order.resume else ()), order.url]


def _hf_transfer(order: Order) -> Sequence[str]:
    return _fetcher("hf", order)


def _requests(chunk_bytes: int) -> Callable[[Order], Sequence[str]]:
    def command(order: Order) -> Sequence[str]:
        timeout = [f"{order.limits.stall:g}"] if order.limits else []
        return [*_fetcher("plain_requests", order), str(chunk_bytes), *timeout]

    return command


def _fetcher(module: str, order: Order) -> list[str]:
    return [sys.executable, "-m", f"{_FETCHERS}.{module}", order.url, str(order.target)]


def _package(name: str) -> Sequence[str]:
    """Return a command that prints the version of a Python package, if the clients can import it."""
    script = f"import {name}, importlib.metadata as metadata; print('{name}', metadata.version('{name}'))"
    return (sys.executable, "-c", script)


def _checkout() -> Sequence[str]:
    script = 'echo "uvr-api $(git describe --always --dirty 2>/dev/null)"'
    return ("sh", "-c", f'cd "$0" && {script}', str(ROOT))


@cache
def _first_line(command: Sequence[str]) -> str:
    if not shutil.which(command[0]):
        return ""
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    line = result.stdout.partition("\n")[0] if result.returncode == 0 else ""
    return line.partition(" (")[0].strip()


CLIENTS: Final = (
    Client(ENGINE, _engine, _checkout(), python=True),
    Client(CURL, _curl, ("curl", "--version")),
    Client(WGET, _wget, ("wget", "--version")),
    Client("axel -n16", _axel, ("axel", "--version")),
    Client("aria2c -x16 -s16 -k1M", _aria2c, ("aria2c", "--version")),
    Client("hf_transfer", _hf_transfer, _package("hf_transfer"), python=True),
    Client("requests, 8 KB", _requests(8 * 1024), _package("requests"), python=True),
    Client("requests, 1 MB", _requests(1024**2), _package("requests"), python=True),
)
"""All clients, installed or not."""
