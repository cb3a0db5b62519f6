"""What models run on: which devices there are, and which of them the children of this processor use.

A child sees one device, by a ``CUDA_VISIBLE_DEVICES`` of its own; so whoever chooses it need not know torch.

GPUs are found by ``nvidia-smi -L``, which CUDA's manual names for the identifiers that the variable takes. It comes
with the driver (in containers with the capability ``utility``), lists the instances of a divided GPU (MIG), and is a
process of its own: a driver that hangs or crashes does so there, where NVML's Python binding would have it happen in
here. Its output is not promised to stay as it is. Where it is not there or is not understood, nothing is lost but the
choice: one child takes what torch finds by itself.
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

_LIST = ("nvidia-smi", "-L")
#: Longest time to list the GPUs, s: where no other process uses them, the driver may first have to set them up.
_LIST_TIMEOUT = 60.0
_GPU = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[0-9A-Za-z-]+)\)")
_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[0-9A-Za-z/-]+)\)")


@dataclass(frozen=True, slots=True)
class Device:
    """One device, as the children on it have it."""

    label: str
    """As ``PROCESSOR_DEVICES`` names it; ``auto``: what a child finds by itself."""
    visible: str | None = None
    """Its children's ``CUDA_VISIBLE_DEVICES``; None: this process's own."""
    name: str = ""
    """What it is, as far as that is known before a child has it."""
    named: bool = False
    """Whether the settings name it. A GPU that they name is used, or its children do not start."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What is different in the environment of its children."""
        return {} if self.visible is None else {VISIBLE: self.visible}

    @property
    def must_be_gpu(self) -> bool:
        """Whether its children may not fall back to the CPU."""
        return self.named and self.label != CPU


ANY = Device(AUTO)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One that the driver knows."""

    index: int
    name: str
    uuid: str
    instances: tuple[tuple[str, str], ...] = ()
    """Name and UUID of each of its parts, if it is divided: then nothing runs on it but on those."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """What can be used of it. By UUID: CUDA counts in another order than the driver unless it is told."""
        if self.instances:
            return tuple(Device(uuid, uuid, f"{self.name} MIG {name}") for name, uuid in self.instances)
        return (Device(str(self.index), self.uuid, self.name),)


def driver_gpus(command: Sequence[str] = _LIST) -> tuple[Gpu, ...]:
    """All that NVIDIA's driver knows; none if there are none, or that cannot be told."""
    if shutil.which(command[0]) is None:
        return ()
    try:
        listing = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIST_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("gpus_not_listed", error=type(error).__name__)
        return ()
    text = listing.stdout.decode(errors="replace")
    gpus = parsed(text)
    if listing.returncode or not gpus:  # one GPU that has fallen off the bus is no reason to leave out the others
        log.warning("gpus_not_listed", status=listing.returncode, output=text[:500], found=len(gpus))
    return gpus


def parsed(text: str) -> tuple[Gpu, ...]:
    """The GPUs of a listing; lines of any other kind are passed over."""
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
    find: Callable[[], Sequence[Gpu]] = driver_gpus,
) -> tuple[Device, ...]:
    """The devices that ``PROCESSOR_DEVICES`` means, each once. ``environment``: this process's own.

    Of several that it names, those that are missing are among them: their children say so again and again, and the
    others work. Raises ConfigError if there is none of them, or what it names cannot be.
    """
    if CPU in wanted and require_gpu:
        raise ConfigError("PROCESSOR_DEVICES must not name cpu while REQUIRE_GPU is true: leave one of them out.")
    if set(wanted) == {CPU}:
        return (_named(Device(CPU)),)
    offered = environment.get(VISIBLE)
    if offered is None:
        gpus = find()
        devices = _of_driver(wanted, gpus) if wanted != (AUTO,) else [each for gpu in gpus for each in gpu.devices]
    else:
        devices = _of_list(wanted, _entries(offered))
    _require_distinct(devices)
    return tuple(devices) or (ANY,)


def _named(device: Device) -> Device:
    return replace(device, named=True, visible="" if device.label == CPU else device.visible)


def _entries(visible: str) -> list[str]:
    """What CUDA makes of the variable: it reads up to the first entry that cannot be a device, such as -1."""
    entries: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", entry):
            break
        entries.append(entry)
    return entries


def _of_list(wanted: Sequence[str], entries: Sequence[str]) -> list[Device]:
    """Numbers count within the operator's own ``CUDA_VISIBLE_DEVICES``, as torch's do, and nothing outside is used."""
    offered = [Device(str(place), entry) for place, entry in enumerate(entries)]
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
        devices += [replace(_named(each), label=name) for each in found]
    return devices


def _of_driver(wanted: Sequence[str], gpus: Sequence[Gpu]) -> list[Device]:
    """The driver's numbers and UUIDs. Where it has told of none, CUDA is left to find them."""
    devices, missing = [], []
    for name in wanted:
        found = [Device(CPU)] if name == CPU else _found(name, gpus)
        if not found:
            missing.append(name)
        devices += [_named(each) for each in found or [Device(name, name)]]
    if gpus and missing:
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
        if len(missing) == len(wanted):
            raise ConfigError(f"PROCESSOR_DEVICES names {', '.join(missing)}, but the driver has {there}.")
        log.error("devices_missing", missing=missing, there=there)
    return devices


def _found(name: str, gpus: Sequence[Gpu]) -> list[Device]:
    for gpu in gpus:
        if name == str(gpu.index):
            return list(gpu.devices)
        if _abbreviates(name, gpu.uuid):
            return [replace(each, label=name if not gpu.instances else each.label) for each in gpu.devices]
    instances = (each for gpu in gpus for each in gpu.devices if gpu.instances)
    return [replace(each, label=name) for each in instances if _abbreviates(name, each.visible or "")][:1]


def _abbreviates(name: str, uuid: str) -> bool:
    """As CUDA has it: the first digits will do."""
    return name.startswith(("GPU-", "MIG-")) and uuid.lower().startswith(name.lower())


def _require_distinct(devices: Sequence[Device]) -> None:
    seen: set[str | None] = set()
    for device in devices:
        if device.visible in seen:
            raise ConfigError(
                f"PROCESSOR_DEVICES names {device.label} twice: PROCESSOR_CONCURRENCY is for several children on a "
                "device."
            )
        seen.add(device.visible)
