"""The two others that the service talks to: where songs come from, and who is told of the stems."""

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

from devstack.process import free_port
from tests.chaos.ledger import Ledger, Told

WEBHOOK_SECRET = "whsec_" + "Y2hhb3Mgb25seSwgbm90IGEgc2VjcmV0IGF0IGFsbA=="
#: Where the files of the poisonous model would be. Asking for one is the last thing that a child process does.
POISON_PATH = "/poison/"

_LONGEST_WAIT = 15.0
"""For a client that has connected and says nothing, s."""


class Counterpart:
    """A HTTP server on loopback in threads of this process. ``unwell``: it answers everything with 503."""

    def __init__(self) -> None:
        self.port = free_port()
        self.unwell = threading.Event()
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
        """The file that is asked for, if there is one. ``peer_port``: of whoever asks."""
        raise NotImplementedError

    def post(self, headers: Mapping[str, str], body: bytes) -> int:
        """The status to answer with. Names of ``headers`` are in lower case."""
        raise NotImplementedError


class Source(Counterpart):
    """Serves songs by their names, and tells who asks for poison: ``on_poison`` takes the port that he asks from."""

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
    """Takes webhooks and writes them down before it answers."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._webhook = Webhook(WEBHOOK_SECRET)

    def post(self, headers: Mapping[str, str], body: bytes) -> int:
        status = 503 if self.unwell.is_set() else 200
        self._ledger.add(
            Told(
                task_uuid=str(json.loads(body)["task_uuid"]),
                webhook_id=headers.get("webhook-id", ""),
                body=body.decode(),
                answered=status,
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
        """Connections that are cut are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _LONGEST_WAIT

    def do_GET(self) -> None:
        counterpart = self.server.counterpart
        if counterpart.unwell.is_set():
            self._answer(503)
            return
        content = counterpart.get(self.path.partition("?")[0], self.client_address[1])
        self._answer(404 if content is None else 200, content or b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        if len(body) == length:  # else it was cut off
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
        """The ledger tells more."""
