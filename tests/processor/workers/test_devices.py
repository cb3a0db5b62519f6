"""Which devices a setting means, with what a driver may have told of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from config import ConfigError
from processor.workers.devices import ANY, Device, Gpu, driver_gpus, parsed, select_devices

TWO = (
    Gpu(0, "NVIDIA A100-SXM4-40GB", "GPU-aaaa1111-0000-0000-0000-000000000000"),
    Gpu(1, "NVIDIA L4", "GPU-bbbb2222-0000-0000-0000-000000000000"),
)
DIVIDED = Gpu(2, "NVIDIA H100", "GPU-cccc3333", (("3g.40gb", "MIG-dd44"), ("1g.10gb", "MIG-ee55")))

LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA L4 (UUID: GPU-bbbb2222-0000-0000-0000-000000000000)
Unable to determine the device handle for gpu 0000:41:00.0: Unknown Error
GPU 2: NVIDIA H100 (UUID: GPU-cccc3333)
  MIG 3g.40gb     Device  0: (UUID: MIG-dd44)
  MIG 1g.10gb     Device  1: (UUID: MIG-ee55)
"""


def choose(
    *wanted: str, gpus: Sequence[Gpu] = TWO, environment: Mapping[str, str] | None = None, require_gpu: bool = False
) -> tuple[Device, ...]:
    return select_devices(wanted, environment or {}, require_gpu=require_gpu, find=lambda: gpus)


def seen(*wanted: str, gpus: Sequence[Gpu] = TWO, visible: str | None = None) -> list[tuple[str, str | None]]:
    """The label of each device, and what its children see."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return [(device.label, device.visible) for device in choose(*wanted, gpus=gpus, environment=environment)]


# --- the driver's listing ---


def program(folder: Path, script: str) -> list[str]:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def test_gpus_and_their_parts_are_listed_whatever_stands_between(tmp_path: Path) -> None:
    assert parsed(LISTING) == (*TWO, DIVIDED)
    (tmp_path / "listing").write_text(LISTING)
    assert driver_gpus(program(tmp_path, f"cat {tmp_path}/listing; exit 15")) == (*TWO, DIVIDED)


@pytest.mark.parametrize(
    "script", ["echo No devices were found; exit 6", "exit 9", "kill -9 $$", "echo GPU zero", "printf '\\377'"]
)
def test_a_driver_that_tells_of_none_has_none(tmp_path: Path, script: str) -> None:
    assert driver_gpus(program(tmp_path, script)) == ()


def test_a_machine_without_the_driver_has_none(tmp_path: Path) -> None:
    assert driver_gpus([str(tmp_path / "nvidia-smi")]) == ()
    (tmp_path / "nvidia-smi").touch()
    assert driver_gpus([str(tmp_path / "nvidia-smi")]) == ()  # it must not be run
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert driver_gpus([str(tmp_path / "nvidia-smi")]) == ()  # it cannot be run


# --- auto ---


def test_auto_is_all_there_are_each_by_its_uuid() -> None:
    """CUDA's order is not the driver's."""
    assert seen("auto") == [("0", TWO[0].uuid), ("1", TWO[1].uuid)]
    assert [device.name for device in choose("auto")] == [TWO[0].name, TWO[1].name]
    assert not any(device.must_be_gpu for device in choose("auto"))


def test_of_a_divided_gpu_its_parts_are_used() -> None:
    assert seen("auto", gpus=[DIVIDED]) == [("MIG-dd44", "MIG-dd44"), ("MIG-ee55", "MIG-ee55")]
    assert seen("2", gpus=[*TWO, DIVIDED]) == [("MIG-dd44", "MIG-dd44"), ("MIG-ee55", "MIG-ee55")]
    assert seen("GPU-cc", gpus=[DIVIDED]) == [("MIG-dd44", "MIG-dd44"), ("MIG-ee55", "MIG-ee55")]
    assert seen("MIG-ee55", gpus=[*TWO, DIVIDED]) == [("MIG-ee55", "MIG-ee55")]


def test_where_none_is_known_a_child_takes_what_it_finds() -> None:
    assert choose("auto", gpus=[]) == (ANY,)
    assert ANY.environment == {}


def test_auto_keeps_to_what_the_operator_lets_be_seen() -> None:
    assert seen("auto", visible="3,GPU-bbbb") == [("0", "3"), ("1", "GPU-bbbb")]
    assert seen("auto", visible="2,0,-1,1") == [("0", "2"), ("1", "0")]  # as CUDA does
    assert seen("auto", visible="") == [("auto", None)]
    assert seen("auto", visible="-1") == [("auto", None)]


# --- named ---


def test_named_gpus_are_used_or_nothing() -> None:
    devices = choose("1", "GPU-aaaa1111")
    assert [(device.label, device.visible) for device in devices] == [("1", TWO[1].uuid), ("GPU-aaaa1111", TWO[0].uuid)]
    assert all(device.must_be_gpu for device in devices)


def test_numbers_count_within_what_the_operator_lets_be_seen() -> None:
    assert seen("1", visible="5,7") == [("1", "7")]
    assert seen("GPU-BB", visible="GPU-aaaa,GPU-bbbb") == [("GPU-BB", "GPU-bbbb")]
    with pytest.raises(ConfigError, match="PROCESSOR_DEVICES names 7, but CUDA_VISIBLE_DEVICES offers 2 devices"):
        seen("7", visible="5,7")
    with pytest.raises(ConfigError, match="name them by their place in it"):
        seen("GPU-aaaa", visible="0,1")


def test_the_cpu_is_a_device_without_gpus() -> None:
    (device,) = choose("cpu")
    assert device.environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert not device.must_be_gpu
    assert seen("0", "cpu") == [("0", TWO[0].uuid), ("cpu", "")]
    assert seen("0", "cpu", visible="4") == [("0", "4"), ("cpu", "")]
    with pytest.raises(ConfigError, match="REQUIRE_GPU"):
        choose("cpu", require_gpu=True)


def test_one_that_is_missing_is_not_the_end_of_the_others() -> None:
    devices = choose("0", "2")
    assert [(device.label, device.visible) for device in devices] == [("0", TWO[0].uuid), ("2", "2")]
    assert devices[1].must_be_gpu
    with pytest.raises(ConfigError, match=r"names 2, GPU-dead, but the driver has 0 \(GPU-aaaa"):
        choose("2", "GPU-dead")


def test_where_the_driver_tells_nothing_cuda_is_left_to_find_what_is_named() -> None:
    devices = choose("0", "GPU-aaaa", gpus=[])
    assert [device.visible for device in devices] == ["0", "GPU-aaaa"]
    assert all(device.must_be_gpu for device in devices)


def test_a_device_that_is_named_twice_is_a_mistake() -> None:
    for names in (("0", "0"), ("0", "GPU-aaaa1111"), ("cpu", "0", "cpu")):
        with pytest.raises(ConfigError, match="PROCESSOR_CONCURRENCY is for several children on a device"):
            choose(*names)


def test_this_process_own_environment_is_left_alone() -> None:
    before = dict(os.environ)
    choose("auto")
    assert dict(os.environ) == before
