"""Read the key of encrypted models: 32 bytes, from a file or from the command of a key management service."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

from pydantic import SecretStr

from config import ModelSettings
from pipeline.errors import InfrastructureError
from pipeline.files import system_reason
from processor.models.errors import DecryptionError

KEY_BYTES = 32
#: The time limit for the command, s.
_COMMAND_TIMEOUT = 30.0
#: The part of the file or output that is read, bytes; no encoding of a key is longer.
_MAX_BYTES = 4096
#: The modes that are refused: only the owner may change the key; the group may read it, as mounted secrets require.
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


def read_key(settings: ModelSettings) -> bytes:
    """Return the key. Raises DecryptionError if there is none or it is invalid; no message contains the key."""
    if settings.key_command:
        return _decode(_run(settings.key_command), "MODEL_KEY_COMMAND")
    if settings.key_file:
        return _decode(_read(settings.key_file), "MODEL_KEY_FILE")
    raise DecryptionError("a sealed model needs its key: set MODEL_KEY_FILE or MODEL_KEY_COMMAND")


def key_for_child(settings: ModelSettings) -> SecretStr | None:
    """Return the key for a process that cannot read it, in base64; None if no key is set.

    Raises InfrastructureError if it cannot be read.
    """
    if not settings.encrypts:
        return None
    try:
        return SecretStr(base64.b64encode(read_key(settings)).decode())
    except DecryptionError as error:
        raise InfrastructureError(error.message, code=error.code) from error


def received_key(key: SecretStr | None) -> bytes | None:
    """Return the key that ``key_for_child`` has encoded."""
    return base64.b64decode(key.get_secret_value()) if key else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _TOO_OPEN:
                raise DecryptionError(
                    f"MODEL_KEY_FILE may be read or changed by others (mode {mode:04o}): chmod 600 it"
                )
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise DecryptionError(f"MODEL_KEY_FILE cannot be read: {system_reason(error)}") from error


def _run(command: str) -> bytes:
    """Return the output of the command. It runs without a shell, so that nothing is taken for shell syntax."""
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        reason = system_reason(error) if isinstance(error, OSError) else type(error).__name__
        raise DecryptionError(f"MODEL_KEY_COMMAND cannot be run: {reason}") from None
    if done.returncode:
        # Its standard error may contain the key, and is not shown.
        raise DecryptionError(f"MODEL_KEY_COMMAND ended with status {done.returncode}")
    return done.stdout[:_MAX_BYTES]


def _decode(text: bytes, name: str) -> bytes:
    compact = b"".join(text.split())
    try:
        if re.fullmatch(rb"[0-9A-Fa-f]{64}", compact):
            return bytes.fromhex(compact.decode())
        key = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise DecryptionError(f"{name} does not give {KEY_BYTES} bytes in base64 or hexadecimal")
    return key
