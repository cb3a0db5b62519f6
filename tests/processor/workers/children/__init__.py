"""Scripted children that replace the real child process."""

from __future__ import annotations

import sys
from pathlib import Path


def scripted_command(root: Path, *behaviours: str) -> tuple[str, ...]:
    """Return the command of children with these successive behaviours; their files are in ``root/children``."""
    folder = root / "children"
    folder.mkdir(exist_ok=True)
    return (sys.executable, "-m", "tests.processor.workers.children.scripted", str(folder), *behaviours)
