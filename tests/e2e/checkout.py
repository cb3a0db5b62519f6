"""Run `./start_local.sh` in a copy of the working tree, apart from the developer's state."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from devstack.environment import isolated_environment

REPOSITORY = Path(__file__).resolve().parents[2]
#: Longest run of one command, s, which may install packages, fetch servers, and run the demo.
LIMIT = 800.0


class Checkout:
    """A copy of the repository at `root`, without ignored files and tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
        patterns = (pattern.rstrip("/") for pattern in ignored)
        shutil.copytree(REPOSITORY, root, ignore=shutil.ignore_patterns(*patterns, ".git", "tests"))

    def borrow_environment(self) -> None:
        """Use the repository's virtual environment; skip the test if `make install` has not created it."""
        environment = REPOSITORY / ".venv"
        if not (environment / ".installed").exists():
            pytest.skip("there is no virtual environment: run make install")
        (self.root / ".venv").symlink_to(environment)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `./start_local.sh arguments` to its end."""
        return self.run_in(self.root, "./start_local.sh", *arguments, **environment)

    def run_in(
        self, folder: Path, script: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `script arguments` in a folder to its end; `script` is a path of `start_local.sh`."""
        _, env = self.command(arguments, environment)
        return subprocess.run(
            [script, *arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    @contextmanager
    def start(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Run `./start_local.sh arguments` in the background until it ends; terminate it if the block fails."""
        command, env = self.command(arguments, environment)
        with subprocess.Popen(
            command, env=env, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            try:
                yield running
            except BaseException:
                running.terminate()
                raise

    def command(self, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return the command and its environment, without the user's settings and without package indexes."""
        env = isolated_environment({}) | {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1"} | dict(environment)
        # The copy must import its own code, not the repository's.
        return ["./start_local.sh", *arguments], {name: value for name, value in env.items() if name != "PYTHONPATH"}

    def processes(self) -> list[str]:
        """Return the command lines of the processes that run in this checkout."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.root):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found
