"""``/health``, ``/ready`` and ``/metrics`` of a worker, for probes and for the program that starts it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Interval at which the server checks for its shutdown, s.
_POLL_INTERVAL = 0.1

Check = Callable[[], None]
"""Raises a PipelineError unless its component is ready."""

Detail = Callable[[], object]
"""Returns a further value for the answers, serialisable as JSON."""


class HealthServer:
    """Serves the endpoints on ``host:port`` inside a ``with`` block; port 0 picks a free one.

    Entering raises InfrastructureError if the port is not available; ``setting`` is the variable that names it.
    ``/health`` and ``/ready`` include the values of ``details`` under their names.
    """

    def __init__(
        self,
        host: str,
        port: int,
        setting: str,
        checks: Mapping[str, Check],
        details: Mapping[str, Detail] | None = None,
    ) -> None:
        self._address = (host, port)
        self._setting = setting
        self._checks = checks
        self._details = details or {}
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        try:
            self._server = _Server(self._address, self._checks, self._details)
        except OSError as error:
            raise InfrastructureError(
                f"{self._setting}={self._address[1]} cannot be listened on ({error.strerror}): "
                "set another port, or 0 for any free one",
                code=ErrorCode.INTERNAL,
            ) from error
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(_POLL_INTERVAL,), name="health", daemon=True).start()
        log.info("listening", host=self._address[0], port=self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int:
        """Return the port on which the server listens."""
        return int(self._server.server_address[1]) if self._server else self._address[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], checks: Mapping[str, Check], details: Mapping[str, Detail]) -> None:
        self.checks = checks
        self.details = details
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would resolve a host name that is not needed, and block where no name server answers.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("probe_disconnected", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, media_type = HTTPStatus.OK, "application/json"
        if path == "/metrics":
            content, media_type = metrics.exposition()
        elif path in ("/health", "/ready"):
            body: dict[str, object] = {"status": "healthy", "timestamp": int(time.time())}
            if path == "/ready":
                status, body = readiness(self.server.checks)
            details = {name: detail() for name, detail in self.server.details.items()}
            content = json.dumps({**body, **details}).encode()
        else:
            status = HTTPStatus.NOT_FOUND
            content = json.dumps({"error": "Endpoint not found", "details": None}).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes arrive every few seconds."""


def readiness(checks: Mapping[str, Check]) -> tuple[HTTPStatus, dict[str, object]]:
    """Run the check of each component; return the status (503 if one is not ready) and the body of the answer."""
    components: dict[str, dict[str, str]] = {}
    for name, check in checks.items():
        try:
            check()
        except PipelineError as error:
            components[name] = {"status": "unavailable", "error": error.message}
        except Exception:  # the boundary: a probe gets an answer whatever fails in a component
            log.exception("check_failed", component=name)
            components[name] = {"status": "unavailable", "error": "the check itself has failed"}
        else:
            components[name] = {"status": "ready"}
    ready = all(component["status"] == "ready" for component in components.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return status, {"status": "ready" if ready else "unavailable", "components": components}
