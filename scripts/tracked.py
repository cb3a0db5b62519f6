"""List the files that Git tracks, without those that are deleted in the working tree."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked_files(root: Path = ROOT) -> Iterator[Path]:
    """Yield the path of each tracked file, relative to ``root``. New files count before they are committed.

    Raises CalledProcessError outside a Git checkout.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in sorted(set(output.split("\0"))):
        if name and (root / name).is_file():
            yield Path(name)
