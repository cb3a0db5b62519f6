"""Worker processes with a line-based protocol on their standard input and output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from benchmarks.download.sandbox import ROOT


@contextmanager
def conversation(
    module: str, *arguments: str, environment: Mapping[str, str], log: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run a module as a process and yield its standard input and output.

    The process must end when its input ends. ``log`` receives its standard error.
    """
    command, pipe = (sys.executable, "-m", module, *arguments), subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=ROOT, env=dict(environment)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        except BaseException:
            process.kill()
            raise
        # Leaving this block closes the standard input and waits for the process.
