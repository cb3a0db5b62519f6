"""How many threads the libraries of a child have, and where that number comes from."""

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
    """The kernel's folder of a machine whose processors share cores as ``pairs`` has it, one after the other."""
    for number, siblings in zip(ALLOWED, pairs, strict=False):
        file = folder / f"cpu{number}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(siblings)
    return folder


def quota(folder: Path, membership: str, files: dict[str, str]) -> int:
    """The cores of a process in such groups, on a machine like this one."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "cgroup").write_text(membership)
    return usable_cores(folder / "cgroup", folder, NONE)


def test_without_groups_they_are_those_that_the_process_may_run_on() -> None:
    assert usable_cores(NONE, NONE, NONE) == len(ALLOWED)


def test_processors_that_share_a_core_are_one(tmp_path: Path) -> None:
    assert usable_cores(NONE, NONE, with_siblings(tmp_path, *["0,1"] * len(ALLOWED))) == 1


def test_a_share_of_their_time_is_rounded_up(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/a\n", {"a/cpu.max": "max 100000\n"}) == len(ALLOWED)
    assert quota(tmp_path, "0::/a\n", {"a/cpu.max": "40000 100000\n"}) == 1
    assert quota(tmp_path, "0::/a\n", {"a/cpu.max": "110000 100000\n"}) == min(2, len(ALLOWED))


def test_a_group_around_ours_counts_too(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "6400000 100000\n"}
    assert quota(tmp_path, "0::/a/b\n", files) == 1


@pytest.mark.parametrize(("time", "found"), [("-1", len(ALLOWED)), ("50000", 1)])
def test_the_first_version_of_groups(tmp_path: Path, time: str, found: int) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": f"{time}\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    assert quota(tmp_path, "5:cpu,cpuacct:/a\n0::/y\n", files) == found


def test_what_the_operator_has_set_stays() -> None:
    environment = {THREADS: "7", WAITING: "ACTIVE"}
    cpu.configure_threads(environment)
    assert environment == {THREADS: "7", WAITING: "ACTIVE"}
    assert cpu.threads(environment) == 7


def test_else_there_is_a_thread_for_each_core_and_it_sleeps_while_it_waits() -> None:
    environment: dict[str, str] = {}
    cpu.configure_threads(environment)
    assert environment == {THREADS: str(usable_cores()), WAITING: "PASSIVE"}


@pytest.mark.parametrize(("value", "meant"), [("3,2", 3), (" 5 ", 5), ("0", None), ("many", None), ("", None)])
def test_numbers_as_openmp_reads_them(value: str, meant: int | None) -> None:
    assert cpu.threads({THREADS: value}) == (meant or usable_cores())


#: What the libraries have in the end; ONNX Runtime's options are asked what a session of its own would be given.
TOLD = """
from processor.system import cpu
cpu.configure_threads()
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
def test_all_libraries_keep_to_it(wanted: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (THREADS, WAITING)}
    environment |= {THREADS: wanted} if wanted else {}
    done = subprocess.run(
        (sys.executable, "-c", TOLD), capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    expected = wanted or str(usable_cores())
    assert done.stdout.split() == [expected, expected, "0", "0"]
