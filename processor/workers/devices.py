"""Find the devices of this machine, and select those that the children of this processor use.

A child sees one device only, through its own ``CUDA_VISIBLE_DEVICES``; the selection therefore does not need torch.

GPUs are listed by ``nvidia-smi -L``, which CUDA's manual names as the source of the identifiers that the variable
accepts. The program is part of the driver (in containers it needs the capability ``utility``), and lists the instances
of a partitioned GPU (MIG). It is a separate process: a driver that hangs or crashes does so there, and not in this
process, as it would with NVML's Python binding. Its output format is not guaranteed. If it is missing or its output is
not understood, there is no selection: one child uses the device that torch finds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from config import ConfigError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
AUTO, CPU = "auto", "cpu"

_LIST_COMMAND = ("nvidia-smi", "-L")
#: The time limit for listing the GPUs, s: if no process uses them, the driver may have to initialise them first.
_LIST_TIMEOUT = 60.0
_GPU = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[0-9A-Za-z-]+)\)")
_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[0-9A-Za-z/-]+)\)")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that children run on."""

    label: str
    """The device's name in ``PROCESSOR_DEVICES``; ``auto``: the device that a child finds by itself."""
    visible: str | None = None
    """The ``CUDA_VISIBLE_DEVICES`` of its children; None: the value of this process."""
    name: str = ""
    """The product name, if it is known before a child uses the device."""
    requested: bool = False
    """True if the settings name the device. Children on a requested GPU do not start without it."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The changes to the environment of its children."""
        return {} if self.visible is None else {VISIBLE: self.visible}

    @property
    def must_be_gpu(self) -> bool:
        """True if its children may not fall back to the CPU."""
        return self.requested and self.label != CPU


ANY = Device(AUTO)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that the driver lists."""

    index: int
    name: str
    uuid: str
    instances: tuple[tuple[str, str], ...] = ()
    """Name and UUID of each MIG instance. A partitioned GPU runs work on its instances only."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The usable devices of the GPU, by UUID: CUDA by default numbers GPUs in another order than the driver."""
        if self.instances:
            return tuple(Device(uuid, uuid, f"{self.name} MIG {name}") for name, uuid in self.instances)
        return (Device(str(self.index), self.uuid, self.name),)


def list_gpus(command: Sequence[str] = _LIST_COMMAND) -> tuple[Gpu, ...]:
    """Return the GPUs that NVIDIA's driver lists; an empty tuple if there are none or the listing fails."""
    if shutil.which(command[0]) is None:
        return ()
    try:
        listing = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIST_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("gpus_not_listed", error=type(error).__name__)
        return ()
    text = listing.stdout.decode(errors="replace")
    gpus = parse_gpu_list(text)
    if listing.returncode or not gpus:  # one GPU that has fallen off the bus does not exclude the others
        log.warning("gpus_not_listed", status=listing.returncode, output=text[:500], found=len(gpus))
    return gpus


def parse_gpu_list(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs of a listing; ignore other lines."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        if match := _GPU.match(line):
            gpus.append(Gpu(int(match[1]), match[2], match[3]))
        elif gpus and (match := _INSTANCE.match(line)):
            gpus[-1] = replace(gpus[-1], instances=(*gpus[-1].instances, (match[1], match[2])))
    return tuple(gpus)


def select_devices(
    wanted: Sequence[str],
    environment: Mapping[str, str],
    *,
    require_gpu: bool = False,
    find: Callable[[], Sequence[Gpu]] = list_gpus,
) -> tuple[Device, ...]:
    """Return the devices that ``PROCESSOR_DEVICES`` selects, each once. ``environment``: that of this process.

    If only some of the named devices are missing, they are included: their children report the failure repeatedly, and
    the others work. Raises ConfigError if all are missing, or if the setting is invalid.
    """
    if CPU in wanted and require_gpu:
        raise ConfigError("PROCESSOR_DEVICES must not name cpu while REQUIRE_GPU is true: leave one of them out.")
    if set(wanted) == {CPU}:
        return (_as_requested(Device(CPU)),)
    visible = environment.get(VISIBLE)
    if visible is not None:
        devices = _select_visible(wanted, visible)
    elif wanted == (AUTO,):
        devices = [device for gpu in find() for device in gpu.devices]
    else:
        devices = _select_listed(wanted, find())
    seen: set[str | None] = set()
    for device in devices:
        if device.visible in seen:
            raise ConfigError(
                f"PROCESSOR_DEVICES names {device.label} twice: PROCESSOR_CONCURRENCY is for several children on a "
                "device."
            )
        seen.add(device.visible)
    return tuple(devices) or (ANY,)


def _select_visible(wanted: Sequence[str], visible: str) -> list[Device]:
    """Select from the operator's own ``CUDA_VISIBLE_DEVICES``. Numbers are positions in it, as for torch."""
    offered: list[Device] = []
    for position, entry in enumerate(part.strip() for part in visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", entry):
            break  # CUDA also stops at the first invalid entry, such as -1
        offered.append(Device(str(position), entry))
    if wanted == (AUTO,):
        return offered
    devices = []
    for name in wanted:
        found = [each for each in offered if name == each.label or _abbreviates(name, each.visible or "")]
        if name == CPU:
            found = [Device(CPU)]
        if not found:
            raise ConfigError(
                f"PROCESSOR_DEVICES names {name}, but {VISIBLE} offers {len(offered)} devices: name them by their "
                "place in it, from 0, or change it."
            )
        devices += [replace(_as_requested(each), label=name) for each in found]
    return devices


def _select_listed(wanted: Sequence[str], gpus: Sequence[Gpu]) -> list[Device]:
    """Select by the driver's numbers and UUIDs. If the driver lists no GPU, CUDA must find the named devices."""
    devices, missing = [], []
    for name in wanted:
        found = [Device(CPU)] if name == CPU else _find_listed(name, gpus)
        if not found:
            missing.append(name)
        devices += [_as_requested(each) for each in found or [Device(name, name)]]
    if gpus and missing:
        listed = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
        if len(missing) == len(wanted):
            raise ConfigError(f"PROCESSOR_DEVICES names {', '.join(missing)}, but the driver has {listed}.")
        log.error("devices_missing", missing=missing, there=listed)
    return devices


def _find_listed(name: str, gpus: Sequence[Gpu]) -> list[Device]:
    for gpu in gpus:
        if name == str(gpu.index):
            return list(gpu.devices)
        if _abbreviates(name, gpu.uuid):
            return [replace(each, label=name if not gpu.instances else each.label) for each in gpu.devices]
    instances = (each for gpu in gpus for each in gpu.devices if gpu.instances)
    return [replace(each, label=name) for each in instances if _abbreviates(name, each.visible or "")][:1]


def _abbreviates(name: str, uuid: str) -> bool:
    """Return True if ``name`` is a prefix of ``uuid``, which CUDA accepts too."""
    return name.startswith(("GPU-", "MIG-")) and uuid.lower().startswith(name.lower())


def _as_requested(device: Device) -> Device:
    return replace(device, requested=True, visible="" if device.label == CPU else device.visible)
