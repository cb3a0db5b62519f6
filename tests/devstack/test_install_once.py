"""Test that tools are fetched once, completely, and by one process at a time."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from devstack.errors import ToolUnavailableError
from devstack.tools.cache import install_once, run_tool, tools_folder

REPOSITORY = Path(__file__).resolve().parents[2]


def test_second_call_builds_nothing(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "tool").write_text("v1")

    for _ in range(2):
        target = install_once(tmp_path / "tools" / "thing", "1", build)
        assert (target / "tool").read_text() == "v1"
    assert len(built) == 1


def test_another_key_replaces_everything(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    install_once(target, "1", lambda folder: (folder / "old").touch())
    install_once(target, "2", lambda folder: (folder / "new").touch())
    assert (target / "new").exists()
    assert not (target / "old").exists()


def test_failed_build_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    target = tmp_path / "thing"

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ToolUnavailableError("no network")

    with pytest.raises(ToolUnavailableError, match="no network"):
        install_once(target, "1", fail)
    assert not target.exists()
    install_once(target, "1", lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in target.iterdir()) == [".complete", "whole"]


def test_concurrent_calls_wait_for_one_build(tmp_path: Path) -> None:
    meeting = threading.Barrier(2)
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)  # a second builder would arrive here
        (folder / "tool").touch()

    with ThreadPoolExecutor(4) as pool:
        targets = [pool.submit(install_once, tmp_path / "thing", "1", build) for _ in range(4)]
        assert all((future.result(30) / "tool").exists() for future in targets)
    assert len(built) == 1


def test_killed_builder_leaves_no_lock_and_no_partial_tool(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from devstack.tools.cache import install_once
def build(folder):
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
install_once(Path({str(tmp_path / "thing")!r}), "1", build)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode < 0
    target = install_once(tmp_path / "thing", "1", lambda folder: (folder / "whole").touch())
    assert not (target / "half").exists()
    assert (target / "whole").exists()


def test_run_tool_returns_the_output() -> None:
    assert run_tool([sys.executable, "-c", "print('hello')"], timeout=60, failure="no") == "hello\n"


def test_failure_of_a_tool_is_one_sentence_without_urls() -> None:
    script = (
        "import sys; print('downloading'); print('\\x1b[1m[ERROR]\\x1b[m no luck at https://user:pw@mirror/x');"
        "print('[ERROR] help follows'); sys.exit(1)"
    )
    with pytest.raises(ToolUnavailableError) as caught:
        run_tool([sys.executable, "-c", script], timeout=60, failure="install Maven")
    sentence = str(caught.value)
    assert sentence.startswith("install Maven (python")
    assert "no luck at (address)" in sentence
    assert "\n" not in sentence
    assert "\x1b" not in sentence


def test_hung_tool_is_killed_with_its_descendants(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    script = f"mkfifo {fifo}; (exec 3<>{fifo}; exec sleep 600) & wait"
    with pytest.raises(ToolUnavailableError, match="took over"):
        run_tool(["/bin/sh", "-c", script], timeout=1.0, failure="no")
    holders = [path for path in Path("/proc").glob("[0-9]*/fd/*") if _points_to(path, fifo)]
    assert holders == []


def _points_to(link: Path, target: Path) -> bool:
    try:
        return link.readlink() == target
    except OSError:
        return False


def test_environment_variable_sets_the_tools_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UVR_TOOLS_DIR", raising=False)
    assert tools_folder(tmp_path) == tmp_path
    monkeypatch.setenv("UVR_TOOLS_DIR", str(tmp_path / "elsewhere"))
    assert tools_folder(tmp_path) == tmp_path / "elsewhere"
