"""The devices that a setting selects, for different listings of the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from config import ConfigError
from processor.workers.devices import ANY, Device, Gpu, list_gpus, parse_gpu_list, select_devices

TWO = (
    Gpu(0, "NVIDIA A100-SXM4-40GB", "GPU-aaaa1111-0000-0000-0000-000000000000"),
    Gpu(1, "NVIDIA L4", "GPU-bbbb2222-0000-0000-0000-000000000000"),
)
PARTITIONED = Gpu(2, "NVIDIA H100", "GPU-cccc3333", (("3g.40gb", "MIG-dd44"), ("1g.10gb", "MIG-ee55")))

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


def visibility(*wanted: str, gpus: Sequence[Gpu] = TWO, visible: str | None = None) -> list[tuple[str, str | None]]:
    """Return the label of each device, and the ``CUDA_VISIBLE_DEVICES`` of its children."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return [(device.label, device.visible) for device in choose(*wanted, gpus=gpus, environment=environment)]


# --- the driver's listing ---


def fake_nvidia_smi(folder: Path, script: str) -> list[str]:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def test_gpus_and_mig_instances_are_parsed(tmp_path: Path) -> None:
    assert parse_gpu_list(LISTING) == (*TWO, PARTITIONED)
    (tmp_path / "listing").write_text(LISTING)
    assert list_gpus(fake_nvidia_smi(tmp_path, f"cat {tmp_path}/listing; exit 15")) == (*TWO, PARTITIONED)


@pytest.mark.parametrize(
    "script", ["echo No devices were found; exit 6", "exit 9", "kill -9 $$", "echo GPU zero", "printf '\\377'"]
)
def test_failed_listing_gives_no_gpus(tmp_path: Path, script: str) -> None:
    assert list_gpus(fake_nvidia_smi(tmp_path, script)) == ()


def test_missing_nvidia_smi_gives_no_gpus(tmp_path: Path) -> None:
    assert list_gpus([str(tmp_path / "nvidia-smi")]) == ()
    (tmp_path / "nvidia-smi").touch()
    assert list_gpus([str(tmp_path / "nvidia-smi")]) == ()  # not executable
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert list_gpus([str(tmp_path / "nvidia-smi")]) == ()  # an empty file cannot be executed


# --- auto ---


def test_auto_selects_all_gpus_by_uuid() -> None:
    """CUDA numbers GPUs in another order than the driver."""
    assert visibility("auto") == [("0", TWO[0].uuid), ("1", TWO[1].uuid)]
    assert [device.name for device in choose("auto")] == [TWO[0].name, TWO[1].name]
    assert not any(device.must_be_gpu for device in choose("auto"))


def test_instances_of_a_partitioned_gpu_are_selected() -> None:
    assert visibility("auto", gpus=[PARTITIONED]) == [("MIG-dd44", "MIG-dd44"), ("MIG-ee55", "MIG-ee55")]
    assert visibility("2", gpus=[*TWO, PARTITIONED]) == [("MIG-dd44", "MIG-dd44"), ("MIG-ee55", "MIG-ee55")]
    assert visibility("GPU-cc", gpus=[PARTITIONED]) == [("MIG-dd44", "MIG-dd44"), ("MIG-ee55", "MIG-ee55")]
    assert visibility("MIG-ee55", gpus=[*TWO, PARTITIONED]) == [("MIG-ee55", "MIG-ee55")]


def test_without_listed_gpus_the_child_finds_a_device() -> None:
    assert choose("auto", gpus=[]) == (ANY,)
    assert ANY.environment == {}


def test_auto_respects_cuda_visible_devices() -> None:
    assert visibility("auto", visible="3,GPU-bbbb") == [("0", "3"), ("1", "GPU-bbbb")]
    assert visibility("auto", visible="2,0,-1,1") == [("0", "2"), ("1", "0")]  # like CUDA, stop at -1
    assert visibility("auto", visible="") == [("auto", None)]
    assert visibility("auto", visible="-1") == [("auto", None)]


# --- named ---


def test_named_gpus_are_required() -> None:
    devices = choose("1", "GPU-aaaa1111")
    assert [(device.label, device.visible) for device in devices] == [("1", TWO[1].uuid), ("GPU-aaaa1111", TWO[0].uuid)]
    assert all(device.must_be_gpu for device in devices)


def test_numbers_are_positions_in_cuda_visible_devices() -> None:
    assert visibility("1", visible="5,7") == [("1", "7")]
    assert visibility("GPU-BB", visible="GPU-aaaa,GPU-bbbb") == [("GPU-BB", "GPU-bbbb")]
    with pytest.raises(ConfigError, match="PROCESSOR_DEVICES names 7, but CUDA_VISIBLE_DEVICES offers 2 devices"):
        visibility("7", visible="5,7")
    with pytest.raises(ConfigError, match="name them by their place in it"):
        visibility("GPU-aaaa", visible="0,1")


def test_cpu_hides_all_gpus() -> None:
    (device,) = choose("cpu")
    assert device.environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert not device.must_be_gpu
    assert visibility("0", "cpu") == [("0", TWO[0].uuid), ("cpu", "")]
    assert visibility("0", "cpu", visible="4") == [("0", "4"), ("cpu", "")]
    with pytest.raises(ConfigError, match="REQUIRE_GPU"):
        choose("cpu", require_gpu=True)


def test_missing_gpu_does_not_exclude_the_others() -> None:
    devices = choose("0", "2")
    assert [(device.label, device.visible) for device in devices] == [("0", TWO[0].uuid), ("2", "2")]
    assert devices[1].must_be_gpu
    with pytest.raises(ConfigError, match=r"names 2, GPU-dead, but the driver has 0 \(GPU-aaaa"):
        choose("2", "GPU-dead")


def test_named_gpus_without_a_listing_are_left_to_cuda() -> None:
    devices = choose("0", "GPU-aaaa", gpus=[])
    assert [device.visible for device in devices] == ["0", "GPU-aaaa"]
    assert all(device.must_be_gpu for device in devices)


def test_device_named_twice_is_a_config_error() -> None:
    for names in (("0", "0"), ("0", "GPU-aaaa1111"), ("cpu", "0", "cpu")):
        with pytest.raises(ConfigError, match="PROCESSOR_CONCURRENCY is for several children on a device"):
            choose(*names)


def test_environment_of_this_process_is_not_changed() -> None:
    before = dict(os.environ)
    choose("auto")
    assert dict(os.environ) == before
