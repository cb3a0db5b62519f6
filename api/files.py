"""Finished stems of the local store, behind signed links that expire. An S3 server serves its own links."""

from __future__ import annotations

import os
import time
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from api.errors import ApiError, documented, error_response
from api.models import ErrorBody
from pipeline.errors import PermanentError
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import is_private
from pipeline.storage.signed_links import LinkSigner

_CONTENT_TYPES = {".wav": "audio/wav", ".flac": "audio/flac"}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in _CONTENT_TYPES.values()}, "description": "The stem."},
    206: {"description": "The requested ranges of the stem."},
    **documented(403, 404, 416, 500),
    "default": {"model": ErrorBody, "description": "Any other error."},
}


class StemResponse(FileResponse):
    """A file or a range of it. A refused ``Range`` header is answered in the JSON form of our errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Message | None = None

        async def hold_back_refusal(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                refusal = message
            if refusal is None:
                await send(message)

        await super().__call__(scope, receive, hold_back_refusal)
        if refusal is not None:
            response = error_response(refusal["status"], "The Range header is malformed")
            if refusal["status"] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                kept = {name.decode(): value.decode() for name, value in refusal["headers"] if name == b"content-range"}
                response = error_response(416, "The range lies outside the file", headers=kept)
            await response(scope, receive, send)


def files_router(store: LocalStore, links: LinkSigner) -> APIRouter:
    """Return the route ``GET /files/{key}``, which requires a link that ``links`` has signed."""
    router = APIRouter(tags=["files"])

    @router.head("/files/{key:path}", include_in_schema=False)
    @router.get("/files/{key:path}", summary="Fetch a finished stem", response_class=StemResponse, responses=_RESPONSES)
    def fetch(
        key: str,
        expires: Annotated[str, Query(description="End of the link, Unix time in s.")] = "",
        signature: Annotated[str, Query(description="Signature of the link.")] = "",
    ) -> Response:
        """Use the links of the webhook as they are. `Range` is supported."""
        # 20 digits are enough for every date and bound the cost of the conversion.
        is_number = expires.isascii() and expires.isdecimal() and len(expires) <= 20
        if not (is_number and links.verify(key, int(expires), signature, time.time())):
            raise ApiError(403, "The link is not valid or has expired")
        found = _find(store, key)
        if found is None:
            raise ApiError(404, "The file is not there any more")
        path, status = found
        return StemResponse(
            path,
            media_type=_CONTENT_TYPES.get(path.suffix),
            filename=path.name,
            stat_result=status,
            headers={"Cache-Control": "private", "X-Content-Type-Options": "nosniff"},
        )

    return router


def _find(store: LocalStore, key: str) -> tuple[Path, os.stat_result] | None:
    if is_private(key):
        return None  # Even if it is signed.
    try:
        path = store.path_of(key)
        return None if path is None else (path, path.stat())
    except (PermanentError, FileNotFoundError):
        return None  # An invalid key, or a file that was removed in this moment.
