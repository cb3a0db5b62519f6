"""The files beside a model from which `audio-separator` learns what the model is, without asking the network.

`audio-separator` 0.47 reads three lists from its model folder and fetches each one that is missing: which
models exist (`download_checks.json`), and by the hash of a model's file the parameters it was made with
(`mdx_model_data.json`, `vr_model_data.json`). A list that is there is taken as it is, so a folder that holds
only what this module wrote knows no other model: give the demo a folder of its own, or one that is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HASHED_BYTES = 10_000 * 1024
"""UVR knows a model by the MD5 of this many bytes at the end of its file, or of the whole if smaller."""

LISTS = (
    "vr_download_list",
    "mdx_download_list",
    "mdx_download_vip_list",
    "demucs_download_list",
    "mdx23c_download_list",
    "mdx23c_download_vip_list",
    "roformer_download_list",
)


def model_hash(model: bytes) -> str:
    return hashlib.md5(model[-_HASHED_BYTES:], usedforsecurity=False).hexdigest()


def install_mdx_model(model_dir: Path, name: str, model: bytes, parameters: dict[str, Any]) -> Path:
    """Put an MDX-Net model and its entries into `model_dir`, made if need be; returns the model's path.

    What the folder's lists already hold is kept. Each file is replaced whole and only if it changes, so that
    processes doing the same at once, or loading meanwhile, never see half a file.

    Raises:
        ValueError: one of the folder's lists is not a JSON object.
        OSError: the folder cannot be written.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    known_models: dict[str, dict[str, str]] = {key: {} for key in LISTS}
    known_models["mdx_download_list"] = {f"MDX-Net Model: {name}": name}
    _merge_json(model_dir / "download_checks.json", known_models)
    _merge_json(model_dir / "mdx_model_data.json", {model_hash(model): parameters})
    _merge_json(model_dir / "vr_model_data.json", {})
    _replace(model_dir / name, model)
    return model_dir / name


def _merge_json(path: Path, entries: Mapping[str, object]) -> None:
    held = _read_object(path)
    for key, value in entries.items():
        old = held.get(key)
        held[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    _replace(path, (json.dumps(held, indent=1) + "\n").encode())


def _read_object(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        held = None
    if isinstance(held, dict):
        return held
    raise ValueError(f"{path} does not hold a JSON object: repair or remove it")


def _replace(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    # Not `tempfile`: its files are for their owner alone, and a model folder is often shared between users.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
