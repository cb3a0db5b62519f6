"""Error responses: ``{"error": "one clear sentence", "details": ...}``, without internals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api import metrics
from api.models import ErrorBody
from pipeline.errors import InfrastructureError
from pipeline.service.log_limit import LogLimit
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: ``Retry-After`` of a 503, s: most restarts of a broker or a store take about as long.
RETRY_AFTER = 5

_DESCRIPTIONS: dict[int, str] = {
    400: "The request is malformed, or a required field is missing.",
    401: "The credentials are missing or wrong.",
    403: "A URL is refused, or a link is wrong or has expired.",
    404: "Not found.",
    413: "The body is too large.",
    416: "The range lies outside the file.",
    422: "A value is out of range, or a field is unknown.",
    429: "Too many wrong credentials were sent from this address. Try again after `Retry-After`.",
    500: "An unexpected error of the service.",
    503: f"A part of the service does not answer. Try again after {RETRY_AFTER} s.",
}

_REASONS: dict[int, str] = {
    400: "malformed",
    401: "credentials",
    403: "forbidden",
    404: "not_found",
    413: "too_large",
    422: "out_of_range",
    429: "throttled",
    503: "unavailable",
}


class ApiError(Exception):
    """An error response. ``error`` is one clear sentence for the client; ``log_details`` are for the log only."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        details: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        log_details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.details = details
        self.headers = dict(headers or {})
        self.log_details = dict(log_details or {})

    @property
    def reason(self) -> str:
        """The value of the metrics' ``reason`` label: the error code among the details, else a name of the status."""
        code = (self.details or {}).get("code")
        return str(code or _REASONS.get(self.status, self.status))


def unavailable(error: str, *, details: dict[str, Any] | None = None) -> ApiError:
    """Return a 503 with ``Retry-After``."""
    return ApiError(503, error, details=details, headers={"Retry-After": str(RETRY_AFTER)})


def error_response(
    status: int, error: str, *, details: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error response in the form that all errors share."""
    body = ErrorBody(error=error, details=details).model_dump(mode="json")
    return JSONResponse(body, status_code=status, headers=headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route with these error statuses, for the OpenAPI document."""
    return {status: {"model": ErrorBody, "description": _DESCRIPTIONS[status]} for status in statuses}


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of ``app`` the form of ``ErrorBody``."""
    refusals: defaultdict[int, LogLimit] = defaultdict(LogLimit)
    outages = LogLimit()

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        # The raw path is percent-encoded, so it cannot inject another log line.
        path = request.scope.get("raw_path", b"").decode("ascii", "replace")
        peer = request.client.host if request.client else None
        refusals[error.status].write(
            log.info,
            "request_refused",
            method=request.method,
            path=path,
            status=error.status,
            error=error.error,
            peer=peer,
            client=request.headers.get("x-client-id"),
            **error.log_details,
        )
        metrics.refused.labels(metrics.route_of(request.scope), error.reason).inc()
        return error_response(error.status, error.error, details=error.details, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def framework(_request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return JSONResponse({"error": "Endpoint not found"}, status_code=404)
        sentence = HTTPStatus(error.status_code).phrase.capitalize()
        return error_response(error.status_code, sentence, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [{"field": ".".join(map(str, item["loc"])), "problem": item["msg"]} for item in error.errors()]
        return error_response(422, "A value is out of range", details={"problems": problems})

    @app.exception_handler(InfrastructureError)
    async def broken(request: Request, error: InfrastructureError) -> JSONResponse:
        outages.write(log.warning, "service_unavailable", code=error.code, error=error.message)
        return await refused(
            request, unavailable("A part of the service does not answer", details={"code": error.code})
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> JSONResponse:
        return error_response(400, "The request was cut short")  # The client is gone.

    @app.exception_handler(Exception)
    async def defect(_request: Request, _error: Exception) -> JSONResponse:
        # The server logs the traceback; the response does not contain it.
        return error_response(500, "Internal server error")
