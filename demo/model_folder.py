"""Write a model and the lists that describe it to `audio-separator`, which then needs no network.

`audio-separator` 0.47 reads three lists from its model folder and downloads each one that is missing: the models that
exist (`download_checks.json`), and the parameters of a model by the hash of its file (`mdx_model_data.json`,
`vr_model_data.json`). It uses an existing list as it is, so that in a folder with only this module's lists it finds no
other model: give the demo its own folder, or a complete one. The processor adds such lists to its own.
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
"""UVR identifies a model by the MD5 of this many bytes at the end of its file, or of the whole if it is smaller."""

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
    """Return the hash by which UVR identifies a model."""
    return hashlib.md5(model[-_HASHED_BYTES:], usedforsecurity=False).hexdigest()


def install_mdx_model(model_dir: Path, name: str, model: bytes, parameters: dict[str, Any]) -> Path:
    """Write an MDX-Net model and its entries into `model_dir`, which is created if necessary; return the model's path.

    Existing entries of the folder's lists are kept. Each file is replaced atomically and only if it changes, so that
    concurrent processes never see a partial file.

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
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        content = {}
    except ValueError:
        content = None
    if isinstance(content, dict):
        for key, value in entries.items():
            old = content.get(key)
            content[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        _replace(path, (json.dumps(content, indent=1) + "\n").encode())
        return
    raise ValueError(f"{path} does not hold a JSON object: repair or remove it")


def _replace(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    # Not `tempfile`: only the owner can read its files, and users often share a model folder.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
