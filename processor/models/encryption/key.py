"""The key of sealed models: 32 bytes, from a file or from the command of a key management service."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

from pipeline.files import system_reason
from processor.models.errors import DecryptionError
from processor.models.options import StoreOptions

KEY_BYTES = 32
#: A service that has not answered by then will not, s.
_COMMAND_TIMEOUT = 30.0
#: No key is longer, in whatever spelling.
_MOST = 4096
#: Others than the owner may not read the key; its group may, as secrets mounted for a group of users want it.
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


def read_key(options: StoreOptions) -> bytes:
    """The key. Raises SealError if there is none, or none that can be used; the key is in no message."""
    if options.key_command:
        return _decoded(_asked(options.key_command), "MODEL_KEY_COMMAND")
    if options.key_file:
        return _decoded(_read(options.key_file), "MODEL_KEY_FILE")
    raise DecryptionError("a sealed model needs its key: set MODEL_KEY_FILE or MODEL_KEY_COMMAND")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _TOO_OPEN:
                raise DecryptionError(
                    f"MODEL_KEY_FILE may be read or changed by others (mode {mode:04o}): chmod 600 it"
                )
            return file.read(_MOST)
    except OSError as error:
        raise DecryptionError(f"MODEL_KEY_FILE cannot be read: {system_reason(error)}") from error


def _asked(command: str) -> bytes:
    """What the command prints. No shell: what is not meant as syntax cannot be taken for it."""
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = system_reason(error) if isinstance(error, OSError) else type(error).__name__
        raise DecryptionError(f"MODEL_KEY_COMMAND cannot be run: {why}") from None
    if done.returncode:
        # What it has written to its standard error may be about the key.
        raise DecryptionError(f"MODEL_KEY_COMMAND ended with status {done.returncode}")
    return done.stdout[:_MOST]


def _decoded(text: bytes, name: str) -> bytes:
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
