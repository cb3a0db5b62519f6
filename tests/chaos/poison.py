"""A job that takes down every child process that begins it.

It asks for a model which no processor has. The lists of models say where its files are: at the source of the songs,
which has the process that asks for them killed. So the child dies exactly when it has begun the job, every time.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.counterparts import POISON_PATH

POISON_MODEL = "poison.yaml"

_LIST = "download_checks.json"


def list_poison(model_dir: Path, source_port: int) -> None:
    """Add the model to the lists of a model folder, which must be there."""
    address = f"http://127.0.0.1:{source_port}{POISON_PATH}"
    files = {name: f"{address}{name}" for name in ("poison.th", POISON_MODEL)}
    path = model_dir / _LIST
    lists = json.loads(path.read_text(encoding="utf-8"))
    lists["demucs_download_list"]["Demucs v4: poison"] = files
    path.write_text(json.dumps(lists), encoding="utf-8")
