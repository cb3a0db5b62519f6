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
    """A dependency that lets a request pass or raises ``ApiError`` 401.

    Digests are compared, so that neither the time nor the length tells how much of a guess was right; the user name
    and the password are always both compared.
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
        right_username = hmac.compare_digest(_digest(username), self._username)
        right_password = hmac.compare_digest(_digest(password), self._password)
        if not (right_username & right_password):
            raise ApiError(401, "Valid credentials are required", headers=self._challenge)

    @property
    def _challenge(self) -> dict[str, str]:
        return {"WWW-Authenticate": f'Basic realm="{self.realm}", charset="UTF-8"'}


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _credentials(header: str) -> tuple[bytes, bytes]:
    """User name and password of an ``Authorization`` header; empty ones, which never fit, if it is malformed."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return b"", b""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b"", b""
    username, _, password = decoded.partition(b":")
    return username, password
