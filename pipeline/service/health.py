"""``/health``, ``/ready`` and ``/metrics`` of a worker, for probes and for the program that starts it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.log_limit import ChangeLimit
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Interval at which the server checks for its shutdown, and pause after a failed ``accept``, s.
_POLL_INTERVAL = 0.1
#: How long an answer of ``/ready`` is reused, s. Each check uses the broker and the store, and anyone may ask.
READY_FOR, UNAVAILABLE_FOR = 2.0, 0.5
#: Longest wait for checks that another request has begun, s.
_CHECK_TIMEOUT = 2.0
#: Largest number of connections that wait for their client; beyond it, the oldest of them is closed.
MAX_WAITING = 32

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


class _Readiness:
    """The result of the checks, shared by the requests that arrive while they run and for a while after."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._running = threading.Lock()
        self._latest: tuple[HTTPStatus, dict[str, object]] | None = None
        self._expires = 0.0
        self._limit = ChangeLimit()

    def get(self) -> tuple[HTTPStatus, dict[str, object]]:
        """Return the status and the body of the answer."""
        if not self._running.acquire(timeout=_CHECK_TIMEOUT):
            components = {name: {"status": "unavailable", "error": "the check takes too long"} for name in self._checks}
            return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "components": components}
        try:
            if self._latest is None or time.monotonic() >= self._expires:
                self._latest = readiness(self._checks, self._limit)
                reused_for = READY_FOR if self._latest[0] == HTTPStatus.OK else UNAVAILABLE_FOR
                self._expires = time.monotonic() + reused_for
            return self._latest
        finally:
            self._running.release()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], checks: Mapping[str, Check], details: Mapping[str, Detail]) -> None:
        self.readiness = _Readiness(checks)
        self.details = details
        self._waiting: dict[socket.socket, None] = {}  # The oldest first.
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would resolve a host name that is not needed, and block where no name server answers.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Most likely a lack of descriptors. The server would try again at once, in an endless loop.
            time.sleep(_POLL_INTERVAL)
            self._make_room(0)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        self._make_room(MAX_WAITING - 1)
        with self._lock:
            self._waiting[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.stop_waiting(request)
        super().shutdown_request(request)

    def stop_waiting(self, request: Any) -> None:
        """Note that the client of this connection has sent its request, or is gone."""
        with self._lock:
            self._waiting.pop(request, None)

    def _make_room(self, allowed: int) -> None:
        """Close the oldest waiting connections, except ``allowed`` of them."""
        with self._lock:
            while len(self._waiting) > allowed:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RD)  # Its thread reads the end, and closes it.

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("probe_disconnected", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0

    def do_GET(self) -> None:
        self.server.stop_waiting(self.connection)
        path = self.path.partition("?")[0]
        status, media_type = HTTPStatus.OK, "application/json"
        if path == "/metrics":
            content, media_type = metrics.exposition()
        elif path in ("/health", "/ready"):
            body: dict[str, object] = {"status": "healthy", "timestamp": int(time.time())}
            if path == "/ready":
                status, body = self.server.readiness.get()
            details = {name: detail() for name, detail in self.server.details.items()}
            content = json.dumps({**body, **details}).encode()
        else:
            status = HTTPStatus.NOT_FOUND
            content = json.dumps({"error": "Endpoint not found", "details": None}).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes arrive every few seconds."""


def readiness(checks: Mapping[str, Check], limit: ChangeLimit) -> tuple[HTTPStatus, dict[str, object]]:
    """Run the check of each component; return the status (503 if one is not ready) and the body of the answer.

    ``limit``: for the log lines of checks that fail unexpectedly.
    """
    components: dict[str, dict[str, str]] = {}
    for name, check in checks.items():
        try:
            check()
        except PipelineError as error:
            components[name] = {"status": "unavailable", "error": error.message}
        except Exception as error:  # the boundary: a probe gets an answer whatever fails in a component
            if limit.is_news(name, repr(error)):
                log.exception("check_failed", component=name)
            components[name] = {"status": "unavailable", "error": "the check itself has failed"}
        else:
            components[name] = {"status": "ready"}
    ready = all(component["status"] == "ready" for component in components.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return status, {"status": "ready" if ready else "unavailable", "components": components}
