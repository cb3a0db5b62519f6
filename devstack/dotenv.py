"""The `.env` of a development checkout: what it must hold is added once, what it holds is never changed."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from demo.centre_model import DEMO_MODEL_NAME

_HEADER = "# Written by start_local.sh for this checkout alone. .env.example lists every setting."
_MODEL_NOTE = (
    "# The demo model separates the demo song, and little else well. For real songs: UVR-MDX-NET-Inst_HQ_4.onnx,\n"
    "# which is fetched into MODEL_FILE_DIR at the first start; choose another folder for it than the demo's."
)
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def complete_env_file(path: Path, model_dir: Path) -> None:
    """Add credentials and a model to `path`, unless it or the environment has them; made for the user's eyes only."""
    present = {name for name, value in {**dotenv_values(path), **_not_empty(os.environ)}.items() if value}
    lines = [] if path.exists() else [_HEADER]
    if "BASIC_AUTH_PASSWORD" not in present:
        if "BASIC_AUTH_USERNAME" not in present:
            lines += _assigned({"BASIC_AUTH_USERNAME": "uvr"})
        lines += _assigned({"BASIC_AUTH_PASSWORD": secrets.token_urlsafe(18)})
    if "WEBHOOK_SECRET" not in present:
        lines += _assigned({"WEBHOOK_SECRET": _webhook_secret()})
    if "MODEL_NAME" not in present:
        lines += [_MODEL_NOTE, *_assigned({"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(model_dir)})]
    if lines:
        _append(path, lines)


def _webhook_secret() -> str:
    """In the form of the Standard Webhooks specification."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def _not_empty(values: Mapping[str, str]) -> dict[str, str]:
    """An empty variable does not hide what the file says."""
    return {name: value for name, value in values.items() if value}


def _assigned(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _append(path: Path, lines: list[str]) -> None:
    held = path.read_bytes() if path.exists() else b""
    start = "" if not held or held.endswith(b"\n") else "\n"
    # Closed to others from the first byte on, and before secrets get into a file that was open to them.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_FOR_OTHERS)
        file.write(start + "\n".join(lines) + "\n")
