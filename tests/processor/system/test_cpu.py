"""The number of threads of a child's libraries, and its sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from processor.system import cpu
from processor.system.cpu import THREADS, WAITING, usable_cores

NONE = Path("/nowhere")
ALLOWED = sorted(os.sched_getaffinity(0))


def with_siblings(folder: Path, *pairs: str) -> Path:
    """Create the kernel's folder of a machine whose hardware threads share cores as ``pairs`` lists them."""
    for number, siblings in zip(ALLOWED, pairs, strict=False):
        file = folder / f"cpu{number}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(siblings)
    return folder


def usable_with_cgroups(folder: Path, membership: str, files: dict[str, str]) -> int:
    """Return the usable cores of a process in these cgroups, on this machine."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "cgroup").write_text(membership)
    return usable_cores(folder / "cgroup", folder, NONE)


def test_without_cgroups_all_allowed_cores_are_usable() -> None:
    assert usable_cores(NONE, NONE, NONE) == len(ALLOWED)


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    assert usable_cores(NONE, NONE, with_siblings(tmp_path, *["0,1"] * len(ALLOWED))) == 1


def test_cpu_quota_is_rounded_up(tmp_path: Path) -> None:
    assert usable_with_cgroups(tmp_path, "0::/a\n", {"a/cpu.max": "max 100000\n"}) == len(ALLOWED)
    assert usable_with_cgroups(tmp_path, "0::/a\n", {"a/cpu.max": "40000 100000\n"}) == 1
    assert usable_with_cgroups(tmp_path, "0::/a\n", {"a/cpu.max": "110000 100000\n"}) == min(2, len(ALLOWED))


def test_quota_of_an_ancestor_cgroup_applies(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "6400000 100000\n"}
    assert usable_with_cgroups(tmp_path, "0::/a/b\n", files) == 1


@pytest.mark.parametrize(("time", "found"), [("-1", len(ALLOWED)), ("50000", 1)])
def test_quota_of_cgroup_version_1(tmp_path: Path, time: str, found: int) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": f"{time}\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    assert usable_with_cgroups(tmp_path, "5:cpu,cpuacct:/a\n0::/y\n", files) == found


def test_operator_settings_are_kept() -> None:
    environment = {THREADS: "7", WAITING: "ACTIVE"}
    cpu.configure_threads(environment)
    assert environment == {THREADS: "7", WAITING: "ACTIVE"}
    assert cpu.threads(environment) == 7


def test_default_is_one_passive_thread_per_core() -> None:
    environment: dict[str, str] = {}
    cpu.configure_threads(environment)
    assert environment == {THREADS: str(usable_cores()), WAITING: "PASSIVE"}


@pytest.mark.parametrize(("value", "meant"), [("3,2", 3), (" 5 ", 5), ("0", None), ("many", None), ("", None)])
def test_thread_counts_are_parsed_like_openmp(value: str, meant: int | None) -> None:
    assert cpu.threads({THREADS: value}) == (meant or usable_cores())


#: Prints the settings of the libraries; for ONNX Runtime those that a new session would get.
PRINT_THREADS = """
import os
from processor.system import cpu
cpu.configure_threads(os.environ)
import onnxruntime, torch
from processor.separation.options import DeviceOptions
from processor.separation.runtime.onnx import configured_sessions
with configured_sessions(DeviceOptions()):
    options = onnxruntime.SessionOptions()
before = onnxruntime.SessionOptions()
spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
print(torch.get_num_threads(), options.intra_op_num_threads, spinning, before.intra_op_num_threads)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [None, "1"])
def test_all_libraries_use_the_configured_threads(wanted: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (THREADS, WAITING)}
    environment |= {THREADS: wanted} if wanted else {}
    done = subprocess.run(
        (sys.executable, "-c", PRINT_THREADS), capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    expected = wanted or str(usable_cores())
    assert done.stdout.split() == [expected, expected, "0", "0"]
