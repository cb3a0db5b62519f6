"""A gateway to a real S3 server that replaces some responses, as other servers or a faulty network would.

It can be the endpoint of a client or its proxy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from devstack.s3 import S3Server


@dataclass(frozen=True)
class Request:
    """A request; header names are in lower case."""

    method: str
    path: str
    """With the query, and in a request to a proxy with scheme and host."""
    headers: Mapping[str, str]
    body: bytes
    status: int | None
    """The status of the server's response; None before the request is forwarded."""

    @property
    def is_conditional(self) -> bool:
        return self.method == "PUT" and "if-none-match" in self.headers

    @property
    def is_copy(self) -> bool:
        return "x-amz-copy-source" in self.headers


@dataclass(frozen=True)
class Refusal:
    """A response that replaces the server's."""

    status: int
    code: str = ""
    content: bytes | None = None
    """Replaces the description of the error."""
    withheld: int = 0
    """Bytes that are announced in Content-Length and never sent."""

    @property
    def body(self) -> bytes:
        if self.content is not None:
            return self.content
        return f"<Error><Code>{self.code}</Code><Message>refused by a test</Message></Error>".encode()


#: Called before the request is forwarded, and again with the status of the response; None forwards it.
Rule = Callable[[Request], Refusal | None]


@contextmanager
def gateway(server: S3Server, rule: Rule) -> Iterator[str]:
    """Yield the URL of a gateway to ``server``."""
    listener = _Gateway(server, rule)
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), name="s3-gateway")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Gateway(ThreadingHTTPServer):
    daemon_threads = True  # clients keep their connections open

    def __init__(self, server: S3Server, rule: Rule) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(server.endpoint_url).netloc
        self.rule = rule


class _Handler(BaseHTTPRequestHandler):
    server: _Gateway
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        request = Request(self.command, self.path, headers, body, None)
        refusal = self.server.rule(request)
        if refusal is not None:
            self._refuse(refusal)
            return
        with closing(HTTPConnection(self.server.target, timeout=20)) as connection:
            # The Host header is forwarded unchanged, because the client has signed it.
            connection.request(self.command, self.path.removeprefix(f"http://{headers['host']}"), body, headers)
            answer = connection.getresponse()
            content, described = answer.read(), dict(answer.getheaders())
        refusal = self.server.rule(replace(request, status=answer.status))
        if refusal is not None:
            self._refuse(refusal)
        else:
            self._answer(answer.status, described, content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the base class looks for them

    def _refuse(self, refusal: Refusal) -> None:
        self.close_connection = bool(refusal.withheld)
        self._answer(refusal.status, {}, refusal.body, refusal.withheld)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, withheld: int = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + withheld))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Suppress the log; the tests check the client's behaviour."""
