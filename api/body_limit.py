"""The size limit of request bodies, with and without ``Content-Length``."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError


class BodyLimit:
    """ASGI middleware: reading more than ``limit`` bytes of a body raises ``ApiError`` 413.

    The limit applies when the body is read, so that authentication fails first. A body whose ``Content-Length`` is
    too large is refused before any of it is read. The limit of the framework itself would answer in plain text
    instead of the JSON form of our errors.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The server has already refused a malformed Content-Length.
        content_length = Headers(scope=scope).get("content-length", "")
        declared = int(content_length) if content_length.isdecimal() else 0
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message: Message = {}
            if declared <= self._limit:
                message = await receive()
                received += len(message.get("body", b""))
            if max(declared, received) > self._limit:
                sentence = f"Request body must not be larger than {self._limit} bytes"
                raise ApiError(413, sentence, details={"limit_bytes": self._limit})
            return message

        await self._app(scope, receive_limited, send)
