"""A job that kills every child process that begins it.

It requests a model that no processor has. The model lists refer to the source of the songs for its files, and the
source has the requesting process killed. So the child always dies immediately after it has begun the job.
"""

from __future__ import annotations

import json
from pathlib import Path

from processor.models.lockfile import LockFile, record
from tests.chaos.system.counterparts import POISON_PATH

POISON_MODEL = "poison.yaml"

_LIST_FILE = "download_checks.json"


def add_poison_model(model_dir: Path, source_port: int) -> None:
    """Add the model to the lists of an existing model folder, with hashes, since its source has no TLS."""
    address = f"http://127.0.0.1:{source_port}{POISON_PATH}"
    files = {name: f"{address}{name}" for name in ("poison.th", POISON_MODEL)}
    path = model_dir / _LIST_FILE
    lists = json.loads(path.read_text(encoding="utf-8"))
    lists["demucs_download_list"]["Demucs v4: poison"] = files
    path.write_text(json.dumps(lists), encoding="utf-8")
    for name, url in files.items():
        LockFile(model_dir).set(name, record("0" * 64, 1, url))
