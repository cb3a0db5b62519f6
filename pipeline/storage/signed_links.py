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
from pipeline.files import local_errors, make_folders, sync_directory

KEY_BYTES = 32


class LinkSigner:
    """Signs and verifies links with HMAC-SHA256. Signers with the same ``key`` accept each other's links."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, key: str, expires: int) -> str:
        """Return the query string of a link to the object ``key`` that is valid before ``expires`` (s since the epoch).

        The query string contains the fields ``expires`` and ``signature``.
        """
        return urlencode({"expires": expires, "signature": self._signature(key, expires)})

    def verify(self, key: str, expires: int, signature: str, now: float) -> bool:
        """Return True if ``signature`` belongs to this key and expiry, and ``now`` is before it. Constant time."""
        expected = self._signature(key, expires).encode("ascii")
        # Encoded first: compare_digest raises for text that is not ASCII, and the signature is untrusted input.
        valid = hmac.compare_digest(expected, signature.encode("utf-8", "surrogatepass"))
        return valid and now < expires

    def _signature(self, key: str, expires: int) -> str:
        # The prefix binds the signature to its purpose, so that the key cannot be used to sign anything else. A newline
        # cannot be part of an object key.
        signed = f"stem link\n{key}\n{expires}".encode()
        digest = hmac.digest(self._key, signed, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def load_or_create_key(path: Path) -> bytes:
    """Return the 32-byte key of the file; create the file with a random key (mode 0600) if it is missing.

    Concurrent processes agree on one key: the complete file gets its name in one step, and only the first succeeds.
    Raises InfrastructureError if the file cannot be read or created, or has another length.
    """
    with local_errors():
        if not path.exists():
            make_folders(path.parent)
            draft = path.with_name(f".{uuid4().hex}.key")
            try:
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                # A hard link, unlike a rename, never replaces a file: another process's key may exist by now.
                with suppress(FileExistsError):
                    os.link(draft, path)
                sync_directory(path.parent)
            finally:
                draft.unlink(missing_ok=True)
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InfrastructureError(
            f"{path.name} in DATA_DIR is damaged: remove it, and a new one is created (old links become invalid)",
            code=ErrorCode.STORAGE_REFUSED,
        )
    return key
