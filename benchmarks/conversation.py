"""Processes of ours that are asked line by line."""

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
    """Where to write to the process and to read its answers. It ends with its input; ``log``: its standard error."""
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
        # Leaving the block closes its standard input and waits for it.
