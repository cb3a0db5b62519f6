"""``/health``, ``/ready`` and ``/metrics`` of a worker, for probes and for whoever starts it.

Readiness is asked, never slept for.
"""

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

#: How often the server looks whether it is to stop, s.
_STOP_LOOKS = 0.1

Check = Callable[[], None]
"""Raises a PipelineError unless its component is in order."""

Detail = Callable[[], object]
"""What else is to be shown, as JSON has it."""


class HealthServer:
    """Answers on ``host:port`` from the moment it is entered until it is left; port 0 picks a free one.

    Entering raises InfrastructureError if the port cannot be had; ``setting`` is the variable that names it.
    ``details`` are shown by ``/health`` and ``/ready`` under their names.
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
        threading.Thread(target=serve, args=(_STOP_LOOKS,), name="health", daemon=True).start()
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
        """The port that is listened on."""
        return int(self._server.server_address[1]) if self._server else self._address[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], checks: Mapping[str, Check], details: Mapping[str, Detail]) -> None:
        self.checks = checks
        self.details = details
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The base class would ask the name server for a name that nobody needs, and wait for it where there is none.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("probe_left_early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            self._answer_in_detail(HTTPStatus.OK, {"status": "healthy", "timestamp": int(time.time())})
        elif path == "/ready":
            self._answer_in_detail(*readiness(self.server.checks))
        elif path == "/metrics":
            self._send(HTTPStatus.OK, *metrics.exposition())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "Endpoint not found", "details": None})

    def _answer_in_detail(self, status: HTTPStatus, body: Mapping[str, object]) -> None:
        details = {name: detail() for name, detail in self.server.details.items()}
        self._answer(status, {**body, **details})

    def _answer(self, status: HTTPStatus, body: object) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds and are not worth a line each."""


def readiness(checks: Mapping[str, Check]) -> tuple[HTTPStatus, dict[str, object]]:
    """Ask each component; 503 if one is not in order."""
    components = {name: _component(name, check) for name, check in checks.items()}
    ready = all(component["status"] == "ready" for component in components.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return status, {"status": "ready" if ready else "unavailable", "components": components}


def _component(name: str, check: Check) -> dict[str, str]:
    try:
        check()
    except PipelineError as error:
        return {"status": "unavailable", "error": error.message}
    except Exception:  # the boundary: a probe is answered, whatever is wrong with a component
        log.exception("check_failed", component=name)
        return {"status": "unavailable", "error": "the check itself has failed"}
    return {"status": "ready"}
