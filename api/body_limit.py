"""The largest body that a request may have, whether it announces its length or not."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError


class BodyLimit:
    """ASGI middleware: reading more than ``limit`` bytes of a body raises ``ApiError`` 413.

    The limit bites when the body is read, so that whoever may not ask at all is told that first. A body whose
    announced length is too large is refused before any of it is read. (The framework's own limit answers in plain
    text, which would break the form of our errors.)
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _announced_length(scope)
        seen = 0

        async def receive_some() -> Message:
            nonlocal seen
            if announced > self._limit:
                raise self._too_large()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise self._too_large()
            return message

        await self._app(scope, receive_some, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"Request body must not be larger than {self._limit} bytes",
            details={"limit_bytes": self._limit},
        )


def _announced_length(scope: Scope) -> int:
    """``Content-Length``, or 0; the server has already refused one that is no number."""
    value = Headers(scope=scope).get("content-length", "")
    return int(value) if value.isdecimal() else 0
