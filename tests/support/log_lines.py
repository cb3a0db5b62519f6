"""Log lines of a service under test."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def lines_until(running: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    """Return the log lines up to the first with ``event``, which is the last of them."""
    assert running.stderr is not None
    lines = []
    for text in running.stderr:
        lines.append(json.loads(text))
        if lines[-1]["event"] == event:
            return lines
    raise AssertionError(f"{event} was never logged: {lines}")
