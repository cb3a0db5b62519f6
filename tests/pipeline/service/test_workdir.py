"""Working files go with their job, and with their process however it ends."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, InfrastructureError
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
    """A process with a job in hand, and its folder."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        # Whatever it logs comes first, the folder last.
        folder = next(Path(line.strip()) for line in process.stdout if line.startswith("/"))
        try:
            yield process, folder
        finally:
            process.kill()


def test_a_jobs_folder_goes_with_the_job(tmp_path: Path) -> None:
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


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workdir = WorkDir(Path("tmp"))
    assert workdir.path.is_absolute()
    workdir.close()


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, left):
        process.kill()
        process.wait()
    assert (left / "lock").exists()
    workdir = WorkDir(tmp_path)
    assert not left.exists()
    assert workdir.path.exists()
    workdir.close()


def test_what_a_living_process_works_on_stays(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, theirs):
        WorkDir(tmp_path).close()
        assert list(theirs.rglob("song.wav"))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_folder_whose_owner_died_before_it_locked_it_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "job-files-x").mkdir()
    WorkDir(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_other_peoples_files_stay(tmp_path: Path) -> None:
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


def test_processes_that_start_at_once_leave_each_others_folders_alone(tmp_path: Path) -> None:
    """Services are started together; a folder is there before it is locked."""
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        told = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert [json.loads(lines.splitlines()[-1]) for lines in told] == [[True] * 40] * 4
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_root_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError) as caught:
        WorkDir(tmp_path / "file" / "root")
    assert (caught.value.code, caught.value.message) == (
        ErrorCode.STORAGE_UNAVAILABLE,
        "TEMP_DIR cannot be used: Not a directory",
    )


def test_a_jobs_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
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
        (OSError("what a library says"), ErrorCode.STORAGE_UNAVAILABLE, f"{UNUSABLE}: unknown error"),
    ],
)
def test_disk_errors_name_the_reason_and_no_path(error: OSError, code: ErrorCode, sentence: str) -> None:
    told = disk_error(error)
    assert (told.code, told.message) == (code, sentence)
