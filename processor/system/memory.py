"""The memory that models are loaded into: how much there is, how much is taken, and giving it back for good."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from processor.system.cgroups import MEMBERSHIP, TREE, control_files

#: Shares of the memory that loaded models may take by default: the rest is for what a model needs while it runs, and
#: without a GPU for the pipeline around it.
DEVICE_SHARE, MAIN_SHARE = 0.6, 0.5


class Memory(Protocol):
    """Where models are loaded."""

    @property
    def share(self) -> int:
        """Bytes that loaded models may take together by default."""

    def used(self) -> int | None:
        """Bytes that are taken of it now, by whomever; None if what a model takes cannot be told by that."""

    def give_back(self) -> None:
        """Return what nobody refers to any more to the device and to the system."""


class MainMemory:
    """Of a machine without a GPU. What is taken says little: files are mapped, and freed memory is kept for later."""

    @property
    def share(self) -> int:
        """See ``Memory``."""
        return int(MAIN_SHARE * main_memory())

    def used(self) -> int | None:
        """See ``Memory``."""
        return None

    def give_back(self) -> None:
        """See ``Memory``."""
        spared = gc.get_freeze_count() > 0
        gc.unfreeze()
        gc.collect()
        if spared:
            gc.freeze()
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # glibc's; musl has no such thing
                ctypes.CDLL(None).malloc_trim(0)


class DeviceMemory(MainMemory):
    """Of the CUDA device that torch uses."""

    @property
    def share(self) -> int:
        """See ``Memory``."""
        import torch

        return int(DEVICE_SHARE * torch.cuda.mem_get_info()[1])

    def used(self) -> int | None:
        """See ``Memory``. The device's own count: onnxruntime takes memory that torch knows nothing of."""
        import torch

        self._empty_cache()
        free, total = torch.cuda.mem_get_info()
        return total - free

    def give_back(self) -> None:
        """See ``Memory``."""
        super().give_back()
        self._empty_cache()

    @staticmethod
    def _empty_cache() -> None:
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def freeze_loaded_objects() -> None:
    """Leave what there is out of garbage collections, until ``Memory.give_back``.

    Modules stay for good, and models until others need their room. Looking through those of torch takes 0.2 s of a
    core: after every song, while the next one waits.
    """
    gc.collect()
    gc.freeze()


def memory_in_use() -> Memory:
    """Of the device that models are loaded on."""
    import torch

    return DeviceMemory() if torch.cuda.is_available() else MainMemory()


def pool_limit(memory: Memory, wanted: int | None, *, on_device: int, in_all: int) -> int:
    """What the models of one child may take, bytes: its part of ``wanted``, or of the share that models get there.

    ``on_device``: the children that share its device; ``in_all``: those that share the machine, and main memory.
    """
    sharers = on_device if isinstance(memory, DeviceMemory) else in_all
    return (memory.share if wanted is None else wanted) // sharers


def main_memory(proc: Path = MEMBERSHIP, tree: Path = TREE) -> int:
    """What this process may have, bytes: the machine's memory, or less if a control group says so."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    files = control_files("memory", "memory.max", "memory.limit_in_bytes", proc, tree)
    return min([installed, *(limit for file in files for limit in _limit(file))])


def _limit(file: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such file, or "max"
        yield int(file.read_text())
