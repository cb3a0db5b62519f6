"""Signed, expiring links to objects of the local store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors, sync_directory

KEY_BYTES = 32


class LinkSigner:
    """Signs and verifies links with HMAC-SHA256; whoever holds the same ``key`` agrees."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, key: str, expires: int) -> str:
        """The query of a link to the object ``key`` that is valid before ``expires`` (s since the epoch)."""
        return urlencode({"expires": expires, "signature": self._signature(key, expires)})

    def verify(self, key: str, expires: int, signature: str, now: float) -> bool:
        """Whether ``signature`` was made for this key and this end, and the end has not come. Constant time."""
        expected = self._signature(key, expires).encode("ascii")
        # Encoded first: compare_digest raises on text that is not ASCII, and the signature comes from outside.
        genuine = hmac.compare_digest(expected, signature.encode("utf-8", "surrogatepass"))
        return genuine and now < expires

    def _signature(self, key: str, expires: int) -> str:
        # The purpose comes first, so that the key can never be made to sign for anything else; a newline cannot
        # be part of an object key.
        signed = f"stem link\n{key}\n{expires}".encode()
        digest = hmac.digest(self._key, signed, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def load_or_create_key(path: Path) -> bytes:
    """The 32 bytes of the file, which is made with random ones (mode 0600) if it is not there.

    Processes that come at the same time agree: a complete file gets its name in one step, and only the first does.
    Raises InfrastructureError if the file cannot be read or made, or has another length.
    """
    with local_errors():
        if not path.exists():
            _create_key(path)
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InfrastructureError(
            f"{path.name} in DATA_DIR is damaged: remove it and a new one is made (old links end)",
            code=ErrorCode.STORAGE_REFUSED,
        )
    return key


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid4().hex}.key")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # A link never replaces, as a rename would: another process was faster then, and its key is complete.
        with suppress(FileExistsError):
            os.link(draft, path)
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
