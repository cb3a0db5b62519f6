"""Confine this process before it reads a file from elsewhere: limits of its resources, and what the kernel offers.

Landlock and seccomp depend on the kernel and on what a container allows. A process without them still has the limits,
no credentials in its memory, and no open descriptors of the service.
"""

from __future__ import annotations

import resource
import socket
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import processor
from pipeline import files
from processor.audio.decode import max_decoded_bytes
from processor.sandbox.landlock import restrict_files
from processor.sandbox.seccomp import restrict_system_calls
from processor.system.linux import IS_LINUX, forbid_inspection, forbid_new_privileges

#: The largest private memory of the process, bytes: docs/AUDIO.md has what files need.
MAX_MEMORY = 1024**3
#: The processor time for any file, s, and the further share of the longest song.
_CPU_SECONDS, _CPU_SHARE = 60, 0.5
#: The time, s, from the signal that names the limit of the processor time to the one that cannot be ignored.
_CPU_GRACE = 5
#: Standard streams, the channel, the source twice, two written files; the rest is for modules that are loaded late.
_MAX_DESCRIPTORS = 32
#: Room for the headers of a written file, bytes.
_HEADERS = 1 << 20


@dataclass(frozen=True, slots=True)
class Protections:
    """What confines a process, as /health shows it."""

    rlimits: bool
    """Memory, processor time, size and number of files are limited."""
    landlock: int
    """The version of Landlock's interface that restricts the files; 0: they are not restricted."""
    seccomp: bool
    """System calls are restricted to an allowlist."""
    network: bool
    """The process could use the network."""


def cpu_limit(max_seconds: float) -> int:
    """Return the processor time, s, that a source of up to ``max_seconds`` s may take."""
    return round(_CPU_SECONDS + _CPU_SHARE * max_seconds)


def confine(folder: Path, max_seconds: float) -> Protections:
    """Confine this process for good. It may write in ``folder`` only; ``max_seconds``: the longest song, s."""
    limited = _limit_resources(max_seconds)
    landlock, seccomp = 0, False
    if IS_LINUX:
        forbid_new_privileges()
        forbid_inspection()
        with suppress(OSError):  # a container's own filter may forbid each of them
            landlock = restrict_files(_libraries(), folder)
        with suppress(OSError):
            seccomp = restrict_system_calls()
    return Protections(limited, landlock, seccomp, _has_network())


def _limit_resources(max_seconds: float) -> bool:
    seconds = cpu_limit(max_seconds)
    size = max_decoded_bytes(max_seconds) + _HEADERS
    limits = {
        resource.RLIMIT_DATA: (MAX_MEMORY, MAX_MEMORY),
        resource.RLIMIT_CPU: (seconds, seconds + _CPU_GRACE),
        resource.RLIMIT_FSIZE: (size, size),
        resource.RLIMIT_NOFILE: (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS),
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    try:
        for kind, (soft, hard) in limits.items():
            allowed = resource.getrlimit(kind)[1]
            hard = hard if allowed == resource.RLIM_INFINITY else min(hard, allowed)
            resource.setrlimit(kind, (min(soft, hard), hard))
    except (OSError, ValueError):
        return False
    return True


def _libraries() -> Iterator[Path]:
    """Yield the folders of the modules that may be loaded late. They contain no secrets."""
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        path = Path(sysconfig.get_path(name))
        if path.is_dir():
            yield path
    for module in (processor, files):
        assert module.__file__
        yield Path(module.__file__).parent


def _has_network() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True
