"""The way through an operator's proxy: to an address that was checked here, never to a name.

A proxy that is given a name looks it up itself, and may get another answer than the guard got. So it is asked for a
tunnel to the checked address, for http as for https; everything else (Host, SNI, certificate) stays that of the name.
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

#: The kinds of proxies, with the port of each where its URL names none.
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

#: Longest answer to CONNECT that is read, bytes.
_MAX_HEAD = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b")

# RFC 1928 and, for the user name and password, RFC 1929.
_SOCKS, _AUTHENTICATION = 5, 1
_NO_METHOD, _PASSWORD = 0xFF, 2
_CONNECT, _IPV4, _NAME, _IPV6 = 1, 1, 3, 4
_LENGTHS = {_IPV4: 4, _IPV6: 16}
_GRANTED, _NOT_ALLOWED, _EXPIRED = 0, 2, 6


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP, HTTPS or SOCKS5 proxy. Its credentials show nowhere."""

    scheme: str
    host: str
    port: int
    credentials: tuple[str, str] | None = field(repr=False)
    context: ssl.SSLContext = field(repr=False)
    """How to speak to a proxy by TLS."""

    @classmethod
    def from_url(cls, url: str, context: ssl.SSLContext) -> Proxy:
        """``http://``, ``https://``, ``socks5://`` or ``socks5h://`` (the same here); ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError("a proxy must be http://, https://, socks5:// or socks5h:// and a host")
        credentials = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        return cls(parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme], credentials, context)

    def dial(self, address: Address, port: int, timeout: float) -> socket.socket:
        """A connection through the proxy, within ``timeout`` s.

        Raises InfrastructureError if the proxy cannot be used at all, PermanentError (``source_refused``) if it does
        not allow this connection, OSError if it cannot make it.
        """
        deadline = time.monotonic() + timeout
        line = _Line(self._reach(deadline), deadline)
        try:
            connect = self._socks if self.scheme.startswith("socks") else self._tunnel
            connect(line, address, port)
        except BaseException:
            line.connection.close()
            raise
        return line.connection

    def _reach(self, deadline: float) -> socket.socket:
        """A connection to the proxy itself."""
        try:
            connection = socket.create_connection((self.host, self.port), _left(deadline))
            if self.scheme != "https":
                return connection
            try:
                connection.settimeout(_left(deadline))
                return self.context.wrap_socket(connection, server_hostname=self.host)
            except BaseException:
                connection.close()
                raise
        except OSError:
            raise _unusable("cannot be reached") from None

    def _tunnel(self, line: _Line, address: Address, port: int) -> None:
        """RFC 9110 section 9.3.6."""
        authority = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", "User-Agent: uvr-api"]
        if self.credentials:
            secret = base64.b64encode(":".join(self.credentials).encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {secret}")
        line.send("\r\n".join([*lines, "", ""]).encode())
        status = _STATUS.match(line.receive_head())
        if status is None:
            raise _unusable("does not answer as an HTTP proxy does")
        _check_status(int(status[1]))

    def _socks(self, line: _Line, address: Address, port: int) -> None:
        methods = [0, _PASSWORD] if self.credentials else [0]
        line.send(bytes([_SOCKS, len(methods), *methods]))
        version, method = line.receive(2)
        if version != _SOCKS or method not in (*methods, _NO_METHOD):
            raise _unusable("does not answer as a SOCKS5 proxy does")
        if method == _NO_METHOD:
            raise _unauthorised()
        if method == _PASSWORD:
            self._authenticate(line)
        family = _IPV4 if address.version == 4 else _IPV6
        line.send(bytes([_SOCKS, _CONNECT, 0, family]) + address.packed + port.to_bytes(2, "big"))
        _, reply, _, bound = line.receive(4)
        _check_reply(reply)
        _skip_bound_address(line, bound)

    def _authenticate(self, line: _Line) -> None:
        user, password = ((part.encode()[:255]) for part in self.credentials or ("", ""))
        line.send(bytes([_AUTHENTICATION, len(user)]) + user + bytes([len(password)]) + password)
        if line.receive(2)[1] != 0:
            raise _unauthorised()


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection to the proxy, of which nothing is read that belongs to the other side of it."""

    connection: socket.socket
    deadline: float

    def send(self, data: bytes) -> None:
        self.connection.settimeout(_left(self.deadline))
        self.connection.sendall(data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            self.connection.settimeout(_left(self.deadline))
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise ConnectionResetError("the proxy hung up")
            data += piece
        return data

    def receive_head(self) -> bytes:
        """Up to the empty line, byte by byte: what follows is the other side's."""
        head = bytearray()
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            if len(head) >= _MAX_HEAD:
                raise _unusable("does not answer as an HTTP proxy does")
            head += self.receive(1)
        return bytes(head)


def _skip_bound_address(line: _Line, kind: int) -> None:
    """The end of a SOCKS reply, which nobody needs."""
    length = line.receive(1)[0] if kind == _NAME else _LENGTHS.get(kind)
    if length is None:
        raise _unusable("does not answer as a SOCKS5 proxy does")
    line.receive(length + 2)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _check_status(status: int) -> None:
    if 200 <= status <= 299:
        return
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise _unauthorised()
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT):
        raise TimeoutError("the proxy could not connect in time")
    if 400 <= status <= 499 and status != HTTPStatus.TOO_MANY_REQUESTS:
        raise _not_allowed()
    raise ConnectionRefusedError(f"the proxy answered {status}")


def _check_reply(reply: int) -> None:
    if reply == _NOT_ALLOWED:
        raise _not_allowed()
    if reply == _EXPIRED:
        raise TimeoutError("the proxy could not connect in time")
    if reply != _GRANTED:
        raise ConnectionRefusedError(f"the proxy answered {reply}")


def _unusable(what: str) -> InfrastructureError:
    """Nothing is wrong with the job: without the proxy none of them can be done."""
    return InfrastructureError(f"the proxy {what}: see DOWNLOAD_PROXY", code=ErrorCode.SOURCE_UNAVAILABLE)


def _unauthorised() -> InfrastructureError:
    return _unusable("does not accept the user name and password")


def _not_allowed() -> PermanentError:
    return PermanentError("the proxy does not allow this connection", code=ErrorCode.SOURCE_REFUSED)
