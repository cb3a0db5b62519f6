"""Working files: deleted with their job, and after any end of their process."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import CancelledError, ErrorCode, InfrastructureError
from pipeline.files import disk_error
from pipeline.service.workdir import WorkDir

REPOSITORY = Path(__file__).resolve().parents[3]
LOCK = ".job-files.lock"

HOLDER = """
import sys
from pathlib import Path
from pipeline.service.workdir import WorkDir
workdir = WorkDir(Path(sys.argv[1]))
with workdir.job() as folder:
    (folder / "song.wav").write_bytes(bytes(1000))
    print(workdir.path, flush=True)
    sys.stdin.read()
workdir.close()
"""


@contextmanager
def another_process(root: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a process with a job. Yields the process and its folder."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        # The folder is printed after the log lines.
        folder = next(Path(line.strip()) for line in process.stdout if line.startswith("/"))
        try:
            yield process, folder
        finally:
            process.kill()


def test_folder_of_a_job_is_deleted_with_the_job(tmp_path: Path) -> None:
    workdir = WorkDir(tmp_path / "root")
    with workdir.job() as first, workdir.job() as second:
        assert first != second
        assert list(first.iterdir()) == []
        assert workdir.path.is_relative_to(tmp_path / "root")
        (first / "deep").mkdir()
        (first / "deep" / "song.wav").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError), workdir.job() as third:
        (third / "song.wav").write_bytes(bytes(1 // 0))
    assert [path.name for path in workdir.path.iterdir()] == ["lock"]
    workdir.close()
    assert [path.name for path in (tmp_path / "root").iterdir()] == [LOCK]


def test_relative_root_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workdir = WorkDir(Path("tmp"))
    assert workdir.path.is_absolute()
    workdir.close()


def test_files_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, stale):
        process.kill()
        process.wait()
    assert (stale / "lock").exists()
    workdir = WorkDir(tmp_path)
    assert not stale.exists()
    assert workdir.path.exists()
    workdir.close()


def test_files_of_a_running_process_are_kept(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, theirs):
        WorkDir(tmp_path).close()
        assert list(theirs.rglob("song.wav"))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_unlocked_folder_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "job-files-x").mkdir()
    WorkDir(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_foreign_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "job-files-are-not-only-folders").write_text("x")
    WorkDir(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, "notes", "job-files-are-not-only-folders"}


STARTER = """
import json, sys
from pathlib import Path
from pipeline.service.workdir import WorkDir
kept = []
for _ in range(40):
    workdir = WorkDir(Path(sys.argv[1]))
    with workdir.job() as folder:
        (folder / "song.wav").write_bytes(b"x")
        kept.append((folder / "song.wav").exists() and workdir.path.exists())
    workdir.close()
print(json.dumps(kept))
"""


def test_processes_that_start_together_keep_their_folders(tmp_path: Path) -> None:
    """Services start at the same time, and a folder exists before it is locked."""
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert [json.loads(lines.splitlines()[-1]) for lines in outputs] == [[True] * 40] * 4
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_unusable_root_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError) as caught:
        WorkDir(tmp_path / "file" / "root")
    assert (caught.value.code, caught.value.message) == (
        ErrorCode.STORAGE_UNAVAILABLE,
        "TEMP_DIR cannot be used: Not a directory",
    )


def test_unusable_job_folder_is_reported(tmp_path: Path) -> None:
    workdir = WorkDir(tmp_path)
    workdir.close()
    with pytest.raises(InfrastructureError) as caught, workdir.job():
        pass
    assert caught.value.message == "a local file cannot be read or written: No such file or directory"


UNUSABLE = "a local file cannot be read or written"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (OSError(errno.ENOSPC, "x", "/secret/path"), ErrorCode.DISK_FULL, "the disk is full"),
        (OSError(errno.EDQUOT, "x"), ErrorCode.DISK_FULL, "the disk is full"),
        (OSError(errno.EIO, "x"), ErrorCode.STORAGE_UNAVAILABLE, f"{UNUSABLE}: Input/output error"),
        (
            FileNotFoundError(errno.ENOENT, "x", "/secret/path"),
            ErrorCode.STORAGE_UNAVAILABLE,
            f"{UNUSABLE}: No such file or directory",
        ),
        (OSError("a message of a library"), ErrorCode.STORAGE_UNAVAILABLE, f"{UNUSABLE}: unknown error"),
    ],
)
def test_disk_errors_name_the_reason_and_no_path(error: OSError, code: ErrorCode, sentence: str) -> None:
    classified = disk_error(error)
    assert (classified.code, classified.message) == (code, sentence)


def test_folder_that_a_cleaner_removed_is_created_and_locked_again(tmp_path: Path) -> None:
    workdir = WorkDir(tmp_path)
    shutil.rmtree(workdir.path)
    with workdir.job() as folder:
        (folder / "song.wav").write_bytes(b"x")
        WorkDir(tmp_path).close()  # a process that starts removes what is not locked
        assert (folder / "song.wav").read_bytes() == b"x"
    workdir.close()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_folder_whose_content_a_cleaner_removed_is_locked_again(tmp_path: Path) -> None:
    workdir = WorkDir(tmp_path)
    (workdir.path / "lock").unlink()
    with workdir.job() as folder:
        WorkDir(tmp_path).close()
        assert folder.is_dir()
    workdir.close()


def fail_without_files(workdir: WorkDir, error: Exception) -> None:
    with workdir.job():
        shutil.rmtree(workdir.path)
        raise error


@pytest.mark.parametrize("error", [FileNotFoundError("song.wav"), ValueError("a decoder's"), ZeroDivisionError()])
def test_error_of_a_job_whose_files_were_removed_is_not_its_own(tmp_path: Path, error: Exception) -> None:
    workdir = WorkDir(tmp_path)
    with pytest.raises(InfrastructureError) as raised:
        fail_without_files(workdir, error)
    assert raised.value.code is ErrorCode.WORK_FILES_LOST
    assert raised.value.__cause__ is error
    with pytest.raises(type(error)), workdir.job():
        raise error
    workdir.close()


def test_cancellation_is_none_of_lost_files(tmp_path: Path) -> None:
    workdir = WorkDir(tmp_path)
    with pytest.raises(CancelledError):
        fail_without_files(workdir, CancelledError("cancelled", code=ErrorCode.SHUTTING_DOWN))
    workdir.close()
