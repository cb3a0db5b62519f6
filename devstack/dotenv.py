"""Complete the `.env` of a development checkout: add what is missing, change nothing that is there."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path

from config import read_env_file

_HEADER = (
    "# Written by start_local.sh for this checkout only. .env.example lists every setting.\n"
    "# Without MODEL_NAME, start_local.sh uses its demo model, which is made for the demo song. For real songs:\n"
    "# MODEL_NAME=UVR-MDX-NET-Inst_HQ_4.onnx"
)
_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def complete_env_file(path: Path) -> None:
    """Add credentials and a webhook secret to `path`, unless it or the environment sets them.

    A secret that is read from a file (`NAME_FILE`) counts as set. Only the owner can read the file.
    """
    present = {
        name.removesuffix("_FILE")
        for source in (read_env_file(path, os.environ), os.environ)
        for name in source
        if source[name]
    }
    added: dict[str, str] = {}
    if "BASIC_AUTH_PASSWORD" not in present:
        if "BASIC_AUTH_USERNAME" not in present:
            added["BASIC_AUTH_USERNAME"] = "uvr"
        added["BASIC_AUTH_PASSWORD"] = secrets.token_urlsafe(18)
    if "WEBHOOK_SECRET" not in present:
        # The form of the Standard Webhooks specification.
        added["WEBHOOK_SECRET"] = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    lines = [] if path.exists() else [_HEADER]
    lines += [f"{name}={value}" for name, value in added.items()]
    if lines:
        _append(path, lines)


def _append(path: Path, lines: list[str]) -> None:
    content = path.read_bytes() if path.exists() else b""
    start = "" if not content or content.endswith(b"\n") else "\n"
    # A new file is private from its first byte on; an existing one becomes private before secrets are added to it.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_GROUP_AND_OTHERS)
        file.write(start + "\n".join(lines) + "\n")
