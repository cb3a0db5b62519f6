"""Children that do as they are told, in the place of the one that owns a model."""

from __future__ import annotations

import sys
from pathlib import Path


def scripted_command(root: Path, *behaviours: str) -> tuple[str, ...]:
    """The command of a child that shows ``behaviours``; it leaves its notes in ``root/children``."""
    folder = root / "children"
    folder.mkdir(exist_ok=True)
    return (sys.executable, "-m", "tests.processor.workers.children.scripted", str(folder), *behaviours)
