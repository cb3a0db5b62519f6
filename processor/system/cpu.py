"""The number of cores that a child may use, and the settings of its libraries' threads.

``configure_threads`` must run before torch is imported, because torch reads the variables once. ONNX Runtime reads no
variable: ``processor.separation.runtime.onnx`` passes the number to it. Both use ``OMP_NUM_THREADS``: the value of the
operator, or of the parent (which divides the cores among several children), or of this module. Reasons, measured in
docs/BENCHMARKS.md, "Threads":

* One thread per core. Several children with one thread each separate slightly more songs per hour, but each song takes
  longer, and each child needs memory for its own models.
* Threads sleep while they wait for each other. By default they spin, on the cores that the parent needs to decode and
  to upload: small networks become many times slower as soon as anything else runs, and large networks gain little.
* The operators of a network run one after the other, which is also ONNX Runtime's default: each of them already uses
  all cores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from processor.system.cgroups import MEMBERSHIP, TREE, control_files

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"

_CPUS = Path("/sys/devices/system/cpu")


def configure_threads(environment: MutableMapping[str, str]) -> None:
    """Set OpenMP's variables that are not set yet."""
    environment.setdefault(WAITING, "PASSIVE")
    environment.setdefault(THREADS, str(usable_cores()))


def threads(environment: Mapping[str, str]) -> int:
    """Return OpenMP's number of threads. Like OpenMP, ignore invalid values and use the first number of a list."""
    with suppress(KeyError, ValueError):
        count = int(environment[THREADS].split(",")[0])
        if count > 0:
            return count
    return usable_cores()


def usable_cores(proc: Path = MEMBERSHIP, tree: Path = TREE, cpus: Path = _CPUS) -> int:
    """Return the number of cores that this process may run on, or fewer if a cgroup limits its CPU time.

    Hardware threads that share a core count once: one of them keeps the core's arithmetic units busy.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)  # macOS
    cores: set[str] = set()
    for cpu in allowed:
        try:
            cores.add((cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    limits: list[float] = [len(cores)]
    for file in control_files("cpu", "cpu.max", "cpu.cfs_quota_us", proc, tree):
        # Version 2 of cgroups has both numbers in one file, version 1 in two.
        files = (file,) if file.name == "cpu.max" else (file, file.with_name("cpu.cfs_period_us"))
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = map(int, " ".join(part.read_text() for part in files).split())
            if quota > 0 and period > 0:  # -1: no limit
                limits.append(quota / period)
    return math.ceil(min(limits))
