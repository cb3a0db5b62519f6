"""Tests of the small disk. Mounting requires a namespace, and therefore a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.system.disk import Disk, in_namespace


def main(folder: Path) -> None:
    """Fill and free the disk, in the namespace."""
    disk = Disk(folder / "disk", small=True)
    (disk.folder / "song.wav").write_bytes(bytes(1000))
    disk.fill()
    try:
        (disk.folder / "more").write_bytes(bytes(5000))
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
    (disk.folder / "more").unlink()
    (disk.folder / "song.wav").unlink()
    disk.fill()  # the space that was freed meanwhile
    try:
        (disk.folder / "again").write_bytes(bytes(5000))
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
    (disk.folder / "again").unlink()
    disk.free()
    (disk.folder / "lock.lock").touch()
    (disk.folder / "song.wav").write_bytes(bytes(1_000_000))
    sys.stdout.write(f"{disk.files()}\n")
    disk.unmount()


def test_small_disk_can_be_filled_and_freed(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos.system.test_disk", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 3:
        pytest.skip(f"no small disk can be mounted: {run.stdout}")
    assert run.stdout.splitlines() == ["No space left on device"] * 2 + ["['song.wav']"], run.stderr
    assert not list((tmp_path / "disk").iterdir()), "the disk is visible outside of its namespace"


def test_folder_without_a_small_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", small=False)
    (disk.folder / "folder").mkdir()
    (disk.folder / "folder" / "song.wav").touch()
    assert disk.files() == ["folder", "folder/song.wav"]


if __name__ == "__main__":
    error = in_namespace("tests.chaos.system.test_disk", sys.argv[1:])
    if error:
        sys.stdout.write(error)
        sys.exit(3)
    main(Path(sys.argv[1]))
