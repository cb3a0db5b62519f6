"""The memory that models are loaded into: its size, its use, and its release to the device and the system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from processor.system.cgroups import MEMBERSHIP, TREE, control_files

#: Default shares of the memory for loaded models. The rest is for the working memory of a running model and, without a
#: GPU, for the rest of the pipeline.
DEVICE_SHARE, MAIN_SHARE = 0.6, 0.5


class Memory(Protocol):
    """The memory that models are loaded into."""

    @property
    def share(self) -> int:
        """The default limit for all loaded models together, bytes."""

    def used(self) -> int | None:
        """Return the bytes in use by all processes; None if they do not show how much memory a model takes."""

    def give_back(self) -> None:
        """Collect garbage, and return free memory to the device and to the system."""


class MainMemory:
    """The main memory of a machine without a GPU."""

    @property
    def share(self) -> int:
        """See ``Memory``."""
        return int(MAIN_SHARE * main_memory())

    def used(self) -> int | None:
        """Return None: files are memory-mapped, and the allocator keeps freed memory for later."""
        return None

    def give_back(self) -> None:
        """See ``Memory``."""
        was_frozen = gc.get_freeze_count() > 0
        gc.unfreeze()
        gc.collect()
        if was_frozen:
            gc.freeze()
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # glibc has it, musl does not
                ctypes.CDLL(None).malloc_trim(0)


class DeviceMemory(MainMemory):
    """The memory of the CUDA device that torch uses."""

    @property
    def share(self) -> int:
        """See ``Memory``."""
        import torch

        return int(DEVICE_SHARE * torch.cuda.mem_get_info()[1])

    def used(self) -> int | None:
        """Return the device's own count in bytes, which includes onnxruntime's memory; torch's count does not."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return total - free

    def give_back(self) -> None:
        """See ``Memory``."""
        import torch

        super().give_back()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def memory_in_use() -> Memory:
    """Return the memory of the device that models are loaded on."""
    import torch

    return DeviceMemory() if torch.cuda.is_available() else MainMemory()


def pool_limit(memory: Memory, wanted: int | None, *, children_on_device: int, children_on_machine: int) -> int:
    """Return the limit for the models of one child, bytes: its part of ``wanted``, or of the memory's default limit.

    ``children_on_device``: the number of children on its device, which share the device's memory;
    ``children_on_machine``: the number of children on the machine, which share the main memory.
    """
    children = children_on_device if isinstance(memory, DeviceMemory) else children_on_machine
    return (memory.share if wanted is None else wanted) // children


def main_memory(proc: Path = MEMBERSHIP, tree: Path = TREE) -> int:
    """Return the memory limit of this process, bytes: the machine's memory, or less if a cgroup limits it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in control_files("memory", "memory.max", "memory.limit_in_bytes", proc, tree):
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(file.read_text()))
    return min(limits)
