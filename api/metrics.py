"""The counters of the API, and ``GET /metrics`` with all metrics of this process."""

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

#: Label of every other method and path: the number of label values must be bounded.
_OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def route_of(scope: Scope) -> str:
    """Return the template of the matched route, such as ``/files/{key}``; never the path of the request."""
    return str(getattr(scope.get("route"), "path_format", _OTHER))


class RequestCount:
    """ASGI middleware: counts each request when its response starts."""

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
                _count(scope, 500)  # An unexpected error: the outer middleware answers it.


def _count(scope: Scope, status: int) -> None:
    method = scope["method"] if scope["method"] in _METHODS else _OTHER
    requests.labels(method, route_of(scope), status).inc()


def metrics_router() -> APIRouter:
    """Return the route ``GET /metrics``, which needs no credentials."""
    router = APIRouter(tags=["health"])

    @router.head("/metrics", include_in_schema=False)
    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
    )
    async def metrics() -> Response:
        content, media_type = exposition()
        return Response(content, media_type=media_type)

    return router
