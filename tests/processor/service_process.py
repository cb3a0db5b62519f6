"""``python -m processor`` as a process, and its health endpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config import SECTIONS

ROOT = Path(__file__).parents[2]
DEADLINE = 90.0
KNOWN = {str(field.alias) for section in SECTIONS for field in section.model_fields.values()}


@contextmanager
def processor(folder: Path, *behaviours: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run the processor in a folder without ``.env``, with only these settings.

    With ``behaviours``, its children are scripted instead of loading a model.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in KNOWN}
    own = {"PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), "PROCESSOR_HEALTH_PORT": "0"}
    own["PROCESSOR_DEVICES"] = "cpu"  # one child on any machine
    scripted = ["tests.processor.workers.children.service", str(folder), *behaviours]
    with subprocess.Popen(
        [sys.executable, "-m", *(scripted if behaviours else ["processor"])],
        cwd=folder,
        env={**inherited, **own, **variables},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def port_of(lines: list[dict[str, Any]]) -> int:
    """Return the port of the health endpoints."""
    (port,) = (line["port"] for line in lines if line["event"] == "listening")
    return int(port)


def ask(port: int, path: str) -> tuple[int, Any]:
    """Return the status and the body of the response."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
