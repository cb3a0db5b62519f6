"""A plain HTTP client and a server in a thread, for the tests of the HTTP API."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

DEADLINE = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """A client of one address. It sends ``credentials`` with every request unless its headers replace them."""

    port: int
    credentials: tuple[str, str]

    @property
    def authorization(self) -> str:
        return "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """Send a request. A header that is None is left out; an iterable body is sent in chunks without a length."""
        wanted = {"Authorization": self.authorization, **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {name: value for name, value in wanted.items() if value is not None})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={"Authorization": None, **headers})

    def post(self, body: object, headers: Mapping[str, str | None] | None = None) -> Answer:
        """Send ``POST /generate`` with ``body`` as JSON; bytes are sent unchanged."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", "/generate", content, {"Content-Type": "application/json", **(headers or {})})


@contextmanager
def serving(app: FastAPI, credentials: tuple[str, str]) -> Iterator[Client]:
    """Run ``app`` behind a real server on a free port of loopback."""
    # The socket listens before the server runs, so the first request waits in its backlog.
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api-under-test")
    thread.start()
    try:
        yield Client(listener.getsockname()[1], credentials)
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive()
