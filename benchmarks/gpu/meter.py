"""Measurements of a GPU during a separation, by NVML if it is available (the package ``nvidia-ml-py``)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: Sampling interval, s. NVML averages over the last 1/6 s to 1 s.
_INTERVAL = 0.1


@dataclass(slots=True)
class Reading:
    """The measurements of one run; None where they are not available."""

    busy: float | None = None
    """Share of the time in which a kernel was running, 0 to 1."""
    joules: float | None = None
    peak: int | None = None
    """Peak memory of all processes on the device, bytes."""
    _busy: list[float] = field(default_factory=list)

    def finish(self) -> None:
        """Average the samples."""
        if self._busy:
            self.busy = sum(self._busy) / len(self._busy)

    def sample(self, nvml: Any, handle: Any) -> None:
        """Take one sample."""
        self._busy.append(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        self.peak = max(self.peak or 0, nvml.nvmlDeviceGetMemoryInfo(handle).used)


@contextmanager
def metered(device_uuid: str | None) -> Iterator[Reading]:
    """Yield a reading that is complete when the context ends. ``device_uuid``: of NVML; None: there is no GPU."""
    reading = Reading()
    found = _device(device_uuid) if device_uuid else None
    if found is None:
        yield reading
        return
    nvml, handle = found
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL):
            reading.sample(nvml, handle)

    watcher = threading.Thread(target=watch, name="meter")
    before = _millijoules(nvml, handle)
    watcher.start()
    try:
        yield reading
    finally:
        stop.set()
        watcher.join()
        after = _millijoules(nvml, handle)
        reading.joules = None if before is None or after is None else (after - before) / 1000
        reading.finish()
        nvml.nvmlShutdown()


def _device(uuid: str) -> tuple[Any, Any] | None:
    """Return NVML and the handle of the device; None without the package, the library or the device."""
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
    """Return the energy since the driver was loaded; None if the device does not measure it."""
    try:
        counted: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return None
    return counted
