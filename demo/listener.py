"""Serve the song and receive the webhook, as the client of the demo."""

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
    """A webhook that has arrived."""

    body: dict[str, Any]
    verified: bool
    """True if the signature is valid."""


class Listener:
    """A context manager that listens on a free loopback port."""

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
        """The URL of the song."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self._song.name}"

    @property
    def hook_url(self) -> str:
        """The URL for the webhook."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def song(self, path: str) -> bytes | None:
        """Return the song if `path` names it."""
        return self._song.read_bytes() if path == f"/{self._song.name}" else None

    def accept(self, body: bytes, headers: dict[str, str]) -> None:
        """Verify a webhook and add it to `received`."""
        verified = self._verifier is not None
        try:
            if self._verifier is not None:
                self._verifier.verify(body, headers)
        except WebhookVerificationError:
            verified = False
        self.received.put(Received(json.loads(body), verified))


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
        """Suppress the log of requests: the demo prints its own messages."""
