"""HTTP basic authentication (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from fastapi import Request
from fastapi.security import HTTPBasic

from api.errors import ApiError


class BasicAuth(HTTPBasic):
    """A FastAPI dependency that checks the credentials of a request and raises ``ApiError`` 401 if they are wrong.

    It compares digests in constant time, so that neither timing nor length reveals part of a secret. It always
    compares both the user name and the password.
    """

    def __init__(self, username: str, password: str) -> None:
        super().__init__(
            scheme_name="Basic",
            realm="UVR-API",
            description="BASIC_AUTH_USERNAME and BASIC_AUTH_PASSWORD of the service.",
        )
        self._username = _digest(username.encode())
        self._password = _digest(password.encode())

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        username, password = _credentials(request.headers.get("authorization", ""))
        username_matches = hmac.compare_digest(_digest(username), self._username)
        password_matches = hmac.compare_digest(_digest(password), self._password)
        if not (username_matches & password_matches):
            challenge = {"WWW-Authenticate": f'Basic realm="{self.realm}", charset="UTF-8"'}
            raise ApiError(401, "Valid credentials are required", headers=challenge)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _credentials(header: str) -> tuple[bytes, bytes]:
    """Parse the user name and the password of an ``Authorization`` header; both are empty if it is malformed."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return b"", b""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b"", b""
    username, _, password = decoded.partition(b":")
    return username, password
