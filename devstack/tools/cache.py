"""Fetch tools into a folder, each of them once and completely."""

import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from devstack.errors import ToolUnavailableError
from devstack.processes.spawn import signal_group, spawn

logger = logging.getLogger(__name__)

_MARKER = ".complete"
_EXCERPT_CHARACTERS = 300
# URLs may contain the credentials of a private mirror, and do not help the reader.
_ADDRESS = re.compile(r"\(?\w+://\S+")


def tools_folder(default: Path) -> Path:
    """Return the absolute folder of tools: UVR_TOOLS_DIR of the environment, or else `default`."""
    return Path(os.environ.get("UVR_TOOLS_DIR") or default).expanduser().absolute()


def install_once(target: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Fill `target` with `build(folder)`, unless it already holds the version `key`, and return it.

    `build` fills a folder beside `target`, which is renamed when it is complete, so that a crash leaves nothing that
    looks finished. Concurrent processes and threads wait for the first one through a lock file, which the kernel
    releases when its holder ends. Exceptions of `build` propagate.
    """
    if _holds(target, key):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _holds(target, key):
            return target
        logger.info("fetching %s", target.name)
        staging = target.with_name(f"{target.name}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            build(staging)
            (staging / _MARKER).write_text(key, encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def run_tool(command: Sequence[str], *, timeout: float, failure: str, env: Mapping[str, str] | None = None) -> str:
    """Run a fetching command to its end and return its output.

    Raises ToolUnavailableError, with `failure` and a short reason, if it fails or takes longer than `timeout` seconds;
    its descendants are then killed.
    """
    with tempfile.TemporaryFile() as output:
        process = spawn(command, output=output, env=env)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ToolUnavailableError(f"{failure} ({Path(command[0]).name} took over {timeout:.0f} s)") from None
        finally:
            signal_group(process, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if code != 0:
        raise ToolUnavailableError(f"{failure} ({Path(command[0]).name}: {_essence(text)})")
    return text


def _holds(target: Path, key: str) -> bool:
    try:
        return (target / _MARKER).read_text(encoding="utf-8") == key
    except FileNotFoundError:
        return False


def _essence(output: str) -> str:
    """Return the most informative line of a failed command: the first one marked as an error, or else the last."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"\[?(error|fatal)\b", line, re.IGNORECASE)]
    line = next(iter(marked or lines[-1:]), "it gave no reason")
    return _ADDRESS.sub("(address)", line)[:_EXCERPT_CHARACTERS]
