"""How many cores a child may use, and how the threads of its libraries share them.

``configure_threads`` is for the time before torch is imported, which asks once; ONNX Runtime, which keeps to no variable, is told
in ``processor.separation.runtime.onnx``. Both go by ``OMP_NUM_THREADS``: the operator's, or the parent's that shares the cores
out to several children, or what is set here. What was measured is in docs/BENCHMARKS.md, "Threads":

* there is a thread for each core. Several children with a thread each separate somewhat more songs in an hour, but each
  song takes longer, and each child needs the memory of its models;
* threads sleep while they wait for each other. By default they wait in loops, on the cores that the parent decodes and
  uploads with: small networks become many times slower as soon as anything else runs, and large ones gain little;
* the operators of a network run one after the other, as is ONNX Runtime's default: each has all cores already.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

from processor.system.cgroups import MEMBERSHIP, TREE, control_files

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"

_CPUS = Path("/sys/devices/system/cpu")


def configure_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what OpenMP goes by, unless it is set."""
    environment.setdefault(WAITING, "PASSIVE")
    environment.setdefault(THREADS, str(usable_cores()))


def threads(environment: MutableMapping[str, str] = os.environ) -> int:
    """How many OpenMP has. As for OpenMP, what is no number counts as not set; of a list, the first is meant."""
    with suppress(KeyError, ValueError):
        wanted = int(environment[THREADS].split(",")[0])
        if wanted > 0:
            return wanted
    return usable_cores()


def usable_cores(proc: Path = MEMBERSHIP, tree: Path = TREE, cpus: Path = _CPUS) -> int:
    """Those that this process may run on, or fewer if a control group gives it less of their time.

    Threads of a processor that share a core count once: networks keep its units for arithmetic busy with one.
    """
    cores = len({_core(cpu, cpus) for cpu in _allowed()})
    return math.ceil(min([cores, *_quotas(proc, tree)]))


def _allowed() -> Iterable[int]:
    with suppress(AttributeError):  # not on macOS
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _core(cpu: int, cpus: Path) -> str:
    """The same for all that share one."""
    with suppress(OSError):
        return (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text()
    return str(cpu)


def _quotas(proc: Path, tree: Path) -> Iterator[float]:
    """Cores' worth of time. Version 2 has both numbers in one file, version 1 in two."""
    for file in control_files("cpu", "cpu.max", "cpu.cfs_quota_us", proc, tree):
        old = file.name != "cpu.max"
        yield from _quota((file, file.with_name("cpu.cfs_period_us")) if old else (file,))


def _quota(files: Iterable[Path]) -> Iterator[float]:
    with suppress(OSError, ValueError):  # no such file, or "max"
        time, period = map(int, " ".join(file.read_text() for file in files).split())
        if time > 0 and period > 0:  # -1: as much as there is
            yield time / period
