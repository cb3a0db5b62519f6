"""What a service under test logs, as it comes."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def lines_until(running: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    """Log lines up to the first that tells of ``event``."""
    assert running.stderr is not None
    lines = []
    for text in running.stderr:
        lines.append(json.loads(text))
        if lines[-1]["event"] == event:
            return lines
    raise AssertionError(f"{event} was never logged: {lines}")
