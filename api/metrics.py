"""What the front door counts, and ``GET /metrics``, where every number of this process is read."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service.metrics import REGISTRY, exposition

requests = Counter(
    "uvr_http_requests", "Requests that were answered.", ["method", "route", "status"], registry=REGISTRY
)
refused = Counter("uvr_http_refused", "Requests that were refused, by why.", ["route", "reason"], registry=REGISTRY)
accepted = Counter(
    "uvr_jobs_accepted", "Jobs that were queued: with their priority, or behind, in bulk.", ["queue"], registry=REGISTRY
)

#: A label has few values, whatever is asked for: every other method and path counts as this.
_OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def route_of(scope: Scope) -> str:
    """The template of the route that took the request, such as ``/files/{key}``, never its path."""
    return str(getattr(scope.get("route"), "path_format", _OTHER))


class RequestCount:
    """ASGI middleware: counts every request when its answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = False

        async def count_and_send(message: Message) -> None:
            nonlocal counted
            if message["type"] == "http.response.start":
                counted = True
                _count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, count_and_send)
        finally:
            if not counted:
                _count(scope, 500)  # a defect, which is answered farther out


def _count(scope: Scope, status: int) -> None:
    method = scope["method"] if scope["method"] in _METHODS else _OTHER
    requests.labels(method, route_of(scope), status).inc()


def metrics_router() -> APIRouter:
    """``GET /metrics``, open to everybody."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        summary="Numbers for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
    )
    async def metrics() -> Response:
        content, media_type = exposition()
        return Response(content, media_type=media_type)

    return router
