"""The external services: the source of the songs and the receiver of the webhooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from devstack.processes.process import free_port
from tests.chaos.audit.ledger import Ledger, WebhookReceived

WEBHOOK_SECRET = "whsec_" + "Y2hhb3Mgb25seSwgbm90IGEgc2VjcmV0IGF0IGFsbA=="
#: Path of the files of the poison model. A child process that requests one is killed.
POISON_PATH = "/poison/"

_CLIENT_TIMEOUT = 15.0
"""Maximum wait for the request of a connected client, s."""


class Counterpart:
    """An HTTP server on loopback in threads of this process. While ``unavailable`` is set, it responds with 503."""

    def __init__(self) -> None:
        self.port = free_port()
        self.unavailable = threading.Event()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name=type(self).__name__, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def get(self, path: str, peer_port: int) -> bytes | None:
        """Return the requested file, if there is one. ``peer_port``: the port of the client."""
        raise NotImplementedError

    def post(self, headers: Mapping[str, str], body: bytes) -> int:
        """Return the status of the response. Names of ``headers`` are in lower case."""
        raise NotImplementedError


class Source(Counterpart):
    """Serves songs by name, and calls ``on_poison`` with the port of a client that requests the poison model."""

    def __init__(self, songs: Mapping[str, bytes]) -> None:
        super().__init__()
        self._songs = songs
        self.on_poison: Callable[[int], None] = lambda _port: None

    def get(self, path: str, peer_port: int) -> bytes | None:
        if path.startswith(POISON_PATH):
            self.on_poison(peer_port)
            return None
        return self._songs.get(path.strip("/"))


class Receiver(Counterpart):
    """Records each webhook in the ledger before it responds."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._webhook = Webhook(WEBHOOK_SECRET)

    def post(self, headers: Mapping[str, str], body: bytes) -> int:
        status = 503 if self.unavailable.is_set() else 200
        self._ledger.add(
            WebhookReceived(
                task_uuid=str(json.loads(body)["task_uuid"]),
                webhook_id=headers.get("webhook-id", ""),
                body=body.decode(),
                status=status,
                signed=self._is_signed(headers, body),
            )
        )
        return status

    def _is_signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            self._webhook.verify(body, dict(headers))
        except WebhookVerificationError:
            return False
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, counterpart: Counterpart) -> None:
        self.counterpart = counterpart
        super().__init__(("127.0.0.1", counterpart.port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: interrupted connections are expected in these tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_TIMEOUT

    def do_GET(self) -> None:
        counterpart = self.server.counterpart
        if counterpart.unavailable.is_set():
            self._answer(503)
            return
        content = counterpart.get(self.path.partition("?")[0], self.client_address[1])
        self._answer(404 if content is None else 200, content or b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        if len(body) == length:  # otherwise the request was truncated
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(self.server.counterpart.post(headers, body))

    def _answer(self, status: int, content: bytes = b"") -> None:
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log; the ledger has more details."""
