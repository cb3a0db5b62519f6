"""The client's side of the demo: a server that hands out the song and receives the webhook."""

from __future__ import annotations

import json
import queue
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass(frozen=True)
class Received:
    """A webhook as it came in."""

    body: dict[str, Any]
    verified: bool
    """Whether its signature is right."""


class Listener:
    """Listens on a free loopback port while it is entered."""

    def __init__(self, song: Path, secret: str | None) -> None:
        self._song = song
        self._verifier = Webhook(secret) if secret else None
        self.received: queue.Queue[Received] = queue.Queue()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.listener = self
        threading.Thread(target=self._server.serve_forever, name="demo-listener", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def song_url(self) -> str:
        return f"{self._address}/{self._song.name}"

    @property
    def hook_url(self) -> str:
        return f"{self._address}/hook"

    @property
    def _address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def song(self, path: str) -> bytes | None:
        """What is under `path`."""
        return self._song.read_bytes() if path == f"/{self._song.name}" else None

    def accept(self, body: bytes, headers: dict[str, str]) -> None:
        """Take a webhook in."""
        self.received.put(Received(json.loads(body), self._verified(body, headers)))

    def _verified(self, body: bytes, headers: dict[str, str]) -> bool:
        if self._verifier is None:
            return False
        try:
            self._verifier.verify(body, headers)
        except WebhookVerificationError:
            return False
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    listener: Listener


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        content = self.server.listener.song(self.path)
        self.send_response(HTTPStatus.OK if content else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Type", "audio/flac")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()
        self.server.listener.accept(body, {name.lower(): value for name, value in self.headers.items()})

    def log_message(self, format: str, *args: object) -> None:
        """The demo tells what happens in its own words."""
