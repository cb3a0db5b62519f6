"""The `.env` of a development checkout: what it must hold is added once, what it holds is never changed."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from demo.centre_model import DEMO_MODEL_NAME

_HEADER = "# Written by start_local.sh for this checkout alone. .env.example lists every setting."
_MODEL_NOTE = (
    "# The demo model separates the demo song, and little else well. For real songs: UVR-MDX-NET-Inst_HQ_4.onnx,\n"
    "# which is fetched into MODEL_FILE_DIR at the first start; choose another folder for it than the demo's."
)


def complete_env_file(path: Path, model_dir: Path) -> None:
    """Add credentials and a model to `path`, unless it or the environment has them; made for the user's eyes only."""
    present = {**dotenv_values(path), **os.environ} if path.exists() else dict(os.environ)
    lines = [] if path.exists() else [_HEADER]
    if not present.get("BASIC_AUTH_PASSWORD"):
        lines += _assigned({"BASIC_AUTH_USERNAME": "uvr", "BASIC_AUTH_PASSWORD": secrets.token_urlsafe(18)})
    if not present.get("WEBHOOK_SECRET"):
        lines += _assigned({"WEBHOOK_SECRET": _webhook_secret()})
    if not present.get("MODEL_NAME"):
        lines += [_MODEL_NOTE, *_assigned({"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(model_dir)})]
    if lines:
        _append(path, lines)


def _webhook_secret() -> str:
    """In the form of the Standard Webhooks specification."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def _assigned(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _append(path: Path, lines: list[str]) -> None:
    # 0600 from the first byte on: it holds secrets.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
