"""What a GPU does while a song is separated, by NVML, as far as that is there (the package ``nvidia-ml-py``)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: Between two looks at the device, s. NVML's figures are of the last sixth of a second to second.
_INTERVAL = 0.1


@dataclass(slots=True)
class Reading:
    """Of one run; None where that cannot be read."""

    busy: float | None = None
    """Share of the time in which a kernel was running, 0 to 1."""
    joules: float | None = None
    peak: int | None = None
    """Most memory in use on the device, by whomever, bytes."""
    _busy: list[float] = field(default_factory=list)

    def finish(self) -> None:
        """Average what was seen."""
        if self._busy:
            self.busy = sum(self._busy) / len(self._busy)

    def look(self, nvml: Any, handle: Any) -> None:
        """Once."""
        self._busy.append(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        self.peak = max(self.peak or 0, nvml.nvmlDeviceGetMemoryInfo(handle).used)


@contextmanager
def metered(device_uuid: str | None) -> Iterator[Reading]:
    """A reading that is complete when the block is left. ``device_uuid``: as NVML has it; None: there is no GPU."""
    reading = Reading()
    found = _device(device_uuid) if device_uuid else None
    if found is None:
        yield reading
        return
    nvml, handle = found
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_INTERVAL):
            reading.look(nvml, handle)

    watcher = threading.Thread(target=watch, name="meter")
    before = _millijoules(nvml, handle)
    watcher.start()
    try:
        yield reading
    finally:
        over.set()
        watcher.join()
        after = _millijoules(nvml, handle)
        reading.joules = None if before is None or after is None else (after - before) / 1000
        reading.finish()
        nvml.nvmlShutdown()


def _device(uuid: str) -> tuple[Any, Any] | None:
    """NVML and the device in it; None where there is no package, no library, or no such device."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return None


def _millijoules(nvml: Any, handle: Any) -> int | None:
    """Since the driver was loaded; not all devices count."""
    try:
        counted: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return None
    return counted
