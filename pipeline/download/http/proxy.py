"""Connections through the operator's proxy, to an address that was checked here instead of a name.

A proxy that gets a name resolves it itself, possibly to another address than the guard checked. So the proxy is asked
for a tunnel to the checked address, for http and https alike; Host header, SNI and certificate stay those of the name.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from pipeline.download.ssrf.ip_ranges import Address
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError

#: The schemes of proxies, with their default ports.
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

#: Longest head of a response to CONNECT, bytes.
_MAX_HEAD = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b")

# RFC 1928 and, for user name and password, RFC 1929.
_SOCKS, _AUTHENTICATION = 5, 1
_NO_METHOD, _PASSWORD = 0xFF, 2
_CONNECT, _IPV4, _NAME, _IPV6 = 1, 1, 3, 4
_ADDRESS_LENGTHS = {_IPV4: 4, _IPV6: 16}
_GRANTED, _NOT_ALLOWED, _EXPIRED = 0, 2, 6

_NOT_HTTP, _NOT_SOCKS = "does not answer as an HTTP proxy does", "does not answer as a SOCKS5 proxy does"
_UNAUTHORISED = "does not accept the user name and password"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP, HTTPS or SOCKS5 proxy. Its ``repr`` has no credentials."""

    scheme: str
    host: str
    port: int
    credentials: tuple[str, str] | None = field(repr=False)
    context: ssl.SSLContext = field(repr=False)
    """For TLS to the proxy itself."""

    @classmethod
    def from_url(cls, url: str, context: ssl.SSLContext) -> Proxy:
        """Parse ``http://``, ``https://``, ``socks5://`` or ``socks5h://`` (the same here). Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError("a proxy must be http://, https://, socks5:// or socks5h:// and a host")
        credentials = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        return cls(parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme], credentials, context)

    def dial(self, address: Address, port: int, timeout: float) -> socket.socket:
        """Open a connection through the proxy within ``timeout`` s.

        Raises InfrastructureError if the proxy cannot be used at all, PermanentError (``source_refused``) if it does
        not allow this connection, OSError if it cannot make it.
        """
        deadline = time.monotonic() + timeout
        try:
            connection = socket.create_connection((self.host, self.port), _remaining(deadline))
        except OSError:
            raise _unusable("cannot be reached") from None
        try:
            if self.scheme == "https":
                connection = self._wrap(connection, deadline)
            stream = _ProxyStream(connection, deadline)
            if self.scheme.startswith("socks"):
                self._open_socks(stream, address, port)
            else:
                self._open_tunnel(stream, address, port)
        except BaseException:
            connection.close()
            raise
        return connection

    def _wrap(self, connection: socket.socket, deadline: float) -> ssl.SSLSocket:
        try:
            connection.settimeout(_remaining(deadline))
            return self.context.wrap_socket(connection, server_hostname=self.host)
        except OSError:
            raise _unusable("cannot be reached") from None

    def _open_tunnel(self, stream: _ProxyStream, address: Address, port: int) -> None:
        """Send CONNECT (RFC 9110 section 9.3.6) and check the response."""
        authority = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", "User-Agent: uvr-api"]
        if self.credentials:
            secret = base64.b64encode(":".join(self.credentials).encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {secret}")
        stream.send("\r\n".join([*lines, "", ""]).encode())
        match = _STATUS.match(stream.receive_head())
        if match is None:
            raise _unusable(_NOT_HTTP)
        status = int(match[1])
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise _unusable(_UNAUTHORISED)
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT):
            raise TimeoutError("the proxy could not connect in time")
        if 400 <= status <= 499 and status != HTTPStatus.TOO_MANY_REQUESTS:
            raise _not_allowed()
        if not 200 <= status <= 299:
            raise ConnectionRefusedError(f"the proxy answered {status}")

    def _open_socks(self, stream: _ProxyStream, address: Address, port: int) -> None:
        methods = [0, _PASSWORD] if self.credentials else [0]
        stream.send(bytes([_SOCKS, len(methods), *methods]))
        version, method = stream.receive(2)
        if version != _SOCKS or method not in (*methods, _NO_METHOD):
            raise _unusable(_NOT_SOCKS)
        if method == _NO_METHOD:
            raise _unusable(_UNAUTHORISED)
        if method == _PASSWORD:
            user, password = ((part.encode()[:255]) for part in self.credentials or ("", ""))
            stream.send(bytes([_AUTHENTICATION, len(user)]) + user + bytes([len(password)]) + password)
            if stream.receive(2)[1] != 0:
                raise _unusable(_UNAUTHORISED)
        family = _IPV4 if address.version == 4 else _IPV6
        stream.send(bytes([_SOCKS, _CONNECT, 0, family]) + address.packed + port.to_bytes(2, "big"))
        _, reply, _, bound = stream.receive(4)
        if reply == _NOT_ALLOWED:
            raise _not_allowed()
        if reply == _EXPIRED:
            raise TimeoutError("the proxy could not connect in time")
        if reply != _GRANTED:
            raise ConnectionRefusedError(f"the proxy answered {reply}")
        # The rest of the reply is the bound address, which is not needed.
        length = stream.receive(1)[0] if bound == _NAME else _ADDRESS_LENGTHS.get(bound)
        if length is None:
            raise _unusable(_NOT_SOCKS)
        stream.receive(length + 2)


@dataclass(frozen=True, slots=True)
class _ProxyStream:
    """The connection to the proxy. Reads no byte beyond the proxy's own: the rest belongs to the tunnel."""

    connection: socket.socket
    deadline: float

    def send(self, data: bytes) -> None:
        self.connection.settimeout(_remaining(self.deadline))
        self.connection.sendall(data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            self.connection.settimeout(_remaining(self.deadline))
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise ConnectionResetError("the proxy closed the connection")
            data += piece
        return data

    def receive_head(self) -> bytes:
        """Read byte by byte up to the empty line."""
        head = bytearray()
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            if len(head) >= _MAX_HEAD:
                raise _unusable(_NOT_HTTP)
            head += self.receive(1)
        return bytes(head)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    return remaining


def _unusable(reason: str) -> InfrastructureError:
    """Return an error that keeps the job: without its proxy the service can do none."""
    return InfrastructureError(f"the proxy {reason}: see DOWNLOAD_PROXY", code=ErrorCode.SOURCE_UNAVAILABLE)


def _not_allowed() -> PermanentError:
    return PermanentError("the proxy does not allow this connection", code=ErrorCode.SOURCE_REFUSED)
