"""Refuses requests whose end is ambiguous, so that no proxy in front of the API reads them differently."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from pipeline.service.log_limit import LogLimit
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_ambiguous = LogLimit()


class UnambiguousLength:
    """ASGI middleware: answers 400 and closes the connection if ``Transfer-Encoding`` makes the length ambiguous.

    That is beside ``Content-Length``, and in HTTP/1.0, which does not know it: the two ways to smuggle a second request
    past a proxy (RFC 9112, sections 6.1 and 11.2). The parser refuses every other ambiguity.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        is_old = scope.get("http_version") == "1.0"
        if b"transfer-encoding" not in names or not (is_old or b"content-length" in names):
            await self._app(scope, receive, send)
            return
        _ambiguous.write(log.info, "request_ambiguous", peer=(scope.get("client") or ("",))[0])
        sentence = "A request must not have both Content-Length and Transfer-Encoding"
        if is_old:
            sentence = "A request in HTTP/1.0 must not have Transfer-Encoding"
        response = error_response(400, sentence, headers={"Connection": "close"})
        await response(scope, receive, send)
