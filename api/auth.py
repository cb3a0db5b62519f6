"""HTTP basic authentication (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections.abc import Callable, Hashable

from fastapi import Request
from fastapi.security import HTTPBasic

from api.errors import ApiError
from api.server.addresses import client_group

#: Wrong passwords that one address may send at once for one user name, and the time until one more is allowed, s.
GUESSES_PER_USER, USER_INTERVAL = 10, 6.0
#: The same for all user names together.
GUESSES_PER_ADDRESS, ADDRESS_INTERVAL = 50, 3.0
#: Addresses, or their user names, that are remembered; some MB.
MAX_REMEMBERED = 10_000


class GuessLimit:
    """Token buckets of failed attempts: ``burst`` at once, and one more every ``interval`` s for each key.

    Beyond ``max_keys`` keys, those whose last failure is the oldest are forgotten. ``clock``: monotonic, s.
    """

    def __init__(
        self,
        burst: int,
        interval: float,
        *,
        max_keys: int = MAX_REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spare = (burst - 1) * interval
        self._interval = interval
        self._max_keys = max_keys
        self._clock = clock
        self._full_at: dict[Hashable, float] = {}  # In the order of the last failures.

    def wait(self, key: Hashable) -> float:
        """Return the time until the next attempt is allowed, s; 0 if it is allowed now."""
        return max(self._full_at.get(key, 0.0) - self._spare - self._clock(), 0.0)

    def count(self, key: Hashable) -> None:
        """Count a failed attempt."""
        now = self._clock()
        self._full_at[key] = max(self._full_at.pop(key, now), now) + self._interval
        if len(self._full_at) > self._max_keys:
            del self._full_at[next(iter(self._full_at))]


class BasicAuth(HTTPBasic):
    """A FastAPI dependency that checks the credentials of a request and raises ``ApiError`` 401 if they are wrong.

    It compares digests in constant time, so that neither timing nor length reveals part of a secret. It always
    compares both the user name and the password. An address that has sent too many wrong ones is answered 429 without a
    comparison, so that it learns nothing; the right ones still pass from every other address.
    """

    def __init__(self, username: str, password: str) -> None:
        super().__init__(
            scheme_name="Basic",
            realm="UVR-API",
            description="BASIC_AUTH_USERNAME and BASIC_AUTH_PASSWORD of the service.",
        )
        self._username = _digest(username.encode())
        self._password = _digest(password.encode())
        self._of_address = GuessLimit(GUESSES_PER_ADDRESS, ADDRESS_INTERVAL)
        self._of_user = GuessLimit(GUESSES_PER_USER, USER_INTERVAL)

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        header = request.headers.get("authorization")
        username, password = _credentials(header or "")
        address = client_group(request.client.host if request.client else "")
        user = (address, _digest(username))
        wait = max(self._of_address.wait(address), self._of_user.wait(user))
        if header is not None and wait:
            raise ApiError(
                429,
                "Too many wrong credentials were sent from this address: try again later",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        username_matches = hmac.compare_digest(_digest(username), self._username)
        password_matches = hmac.compare_digest(_digest(password), self._password)
        if not (username_matches & password_matches):
            if header is not None:  # Browsers send their first request without credentials.
                self._of_address.count(address)
                self._of_user.count(user)
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
