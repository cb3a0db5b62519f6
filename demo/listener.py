"""Serve songs and receive webhooks, as a client of the services on this machine."""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from standardwebhooks import Webhook, WebhookVerificationError

from config import Settings

#: Larger bodies are no webhooks of ours, bytes.
_MAX_BODY = 1 << 20


@dataclass(frozen=True)
class Received:
    """A webhook that has arrived."""

    body: dict[str, Any]
    verified: bool
    """True if the signature is valid."""


class Listener:
    """A context manager that listens on a free loopback port.

    `files`: the files to serve, by the path of their URL, such as "song.flac". `secret`: the webhook secret of the
    services; None if they do not sign.
    """

    def __init__(self, files: Mapping[str, Path], secret: str | None) -> None:
        self._files = dict(files)
        self._verifier = Webhook(secret) if secret else None
        self.received: queue.Queue[Received] = queue.Queue()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.listener = self
        threading.Thread(target=self._server.serve_forever, name="listener", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        """Return the URL of a file, or of another path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{quote(path)}"

    @property
    def hook_url(self) -> str:
        """The URL for the webhook."""
        return self.url("hook")

    def file(self, target: str) -> Path | None:
        """Return the file that the target of a request names."""
        return self._files.get(unquote(urlsplit(target).path).removeprefix("/"))

    def accept(self, body: bytes, headers: dict[str, str]) -> None:
        """Verify a webhook and add it to `received`. Raises ValueError if the body is no JSON object."""
        verified = self._verifier is not None
        try:
            if self._verifier is not None:
                self._verifier.verify(body, headers)
        except WebhookVerificationError:
            verified = False
        content = json.loads(body)
        if not isinstance(content, dict):
            raise ValueError("the body is no JSON object")  # noqa: TRY004  a wrong value, not a wrong type of the caller
        self.received.put(Received(content, verified))


def signing_secret(settings: Settings) -> str | None:
    """Return the secret with which the services sign webhooks; None if they do not."""
    secret = settings.webhook.secret
    return secret.get_secret_value().split()[0] if secret else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    listener: Listener


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 60.0

    def do_GET(self) -> None:
        path = self.server.listener.file(self.path)
        if path is None:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        try:
            with path.open("rb") as file:
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(path.stat().st_size))
                self.end_headers()
                if self.command == "GET":
                    shutil.copyfileobj(file, self.wfile)
        except OSError:  # the file is gone or the client has hung up
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        body = self.rfile.read(int(length))
        try:
            self.server.listener.accept(body, {name.lower(): value for name, value in self.headers.items()})
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST)
        else:
            self._answer(HTTPStatus.NO_CONTENT)

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log of requests: the program prints its own messages."""
