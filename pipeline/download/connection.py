"""HTTP connections that go to the very address that was checked.

``requests`` stays what it is, for the host name too: Host header, SNI and certificate are those of the URL. Only the
step from a name to a connected socket is ours. It asks the DNS once, lets the guard check every answer, and connects
to the checked address itself, so that there is no second look-up whose answer could differ.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from pipeline.download.addresses import Address
from pipeline.download.bounded import call_bounded
from pipeline.download.guard import UrlGuard
from pipeline.download.watchdog import Watchdog

#: Opens a TCP connection: address, port, time-out in s.
Dial = Callable[[Address, int, float], socket.socket]

#: Even the last of many addresses gets this long, s; zero would mean a socket that does not block.
_SHORTEST_DIAL = 0.1


def dial_tcp(address: Address, port: int, timeout: float) -> socket.socket:
    """Connect to ``address``. Raises OSError (TimeoutError after ``timeout`` s)."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect((str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Wire:
    """How connections are made, once the guard has said where to."""

    dial: Dial = dial_tcp
    ca_bundle: Path | None = None
    """PEM file of the authorities that are trusted instead of the public ones."""


#: Straight to the other side.
DIRECT: Final = Wire()


def guarded_session(
    guard: UrlGuard,
    *,
    connect_timeout: float,
    read_timeout: float,
    watchdog: Watchdog | None = None,
    wire: Wire = DIRECT,
) -> requests.Session:
    """A session that connects to nothing that ``guard`` refuses, whatever it is asked for.

    Proxies, ``.netrc`` and CA files from the environment are ignored, redirects are not followed, cookies not kept.
    ``connect_timeout`` (s) covers name look-up and TCP, and again TLS; ``read_timeout`` (s) is the longest wait for
    the next bytes. ``watchdog`` guards the sockets. Requests raise the guard's PermanentError beside the exceptions of
    ``requests``, which ``translated`` is for.
    """
    session = _GuardedSession(guard)
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.verify = str(wire.ca_bundle) if wire.ca_bundle else True
    connector = _Connector(guard, wire.dial, connect_timeout, watchdog)
    adapter = _GuardedAdapter(connector, (connect_timeout, read_timeout))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _GuardedSession(requests.Session):
    """A session that takes plain URLs only, as they are before ``requests`` repairs them, and stays where it is."""

    def __init__(self, guard: UrlGuard) -> None:
        super().__init__()
        self._guard = guard

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        text = url.decode("latin-1") if isinstance(url, bytes) else url
        return super().request(method, self._guard.check_syntax(text).url, *args, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: whoever follows redirects has to check them first."""


@dataclass(frozen=True, slots=True)
class _Connector:
    """Turns a name into a connected socket."""

    guard: UrlGuard
    dial: Dial
    timeout: float
    watchdog: Watchdog | None

    def connect(self, host: str, port: int) -> socket.socket:
        """Raises PermanentError (the guard's), socket.gaierror, TimeoutError or another OSError."""
        connection = call_bounded(
            lambda: self._connect(host, port),
            timeout=self.timeout,
            on_start=self.watchdog.guard_call if self.watchdog else lambda _: None,
            discard=socket.socket.close,
        )
        connection.settimeout(self.timeout)
        if self.watchdog:
            self.watchdog.guard_socket(connection)
        return connection

    def _connect(self, host: str, port: int) -> socket.socket:
        deadline = time.monotonic() + self.timeout
        addresses = self.guard.addresses(host, port)
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            # A share of what is left: an address that swallows packets must not use up the time of the next one.
            share = (deadline - time.monotonic()) / (len(addresses) - tried)
            try:
                return self.dial(address, port, max(share, _SHORTEST_DIAL))
            except OSError as error:
                failure = error
        raise failure or TimeoutError("timed out")


def _open(connection: HTTPConnection, connector: _Connector) -> socket.socket:
    """What ``HTTPConnection._new_conn`` does, with the same exceptions."""
    host = connection.host.strip("[]")
    try:
        opened = connector.connect(host, connection.port)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"connection to {host} timed out") from error
    except (OSError, UnicodeError) as error:
        raise NewConnectionError(connection, f"no connection to {host}: {error}") from error
    for option in connection.socket_options or ():
        opened.setsockopt(*option)
    return opened


def _pool_classes(connector: _Connector) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _open(self, connector)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _open(self, connector)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _GuardedAdapter(HTTPAdapter):
    """A transport adapter whose every connection comes from the connector."""

    def __init__(self, connector: _Connector, timeout: tuple[float, float]) -> None:
        self._connector = connector
        self._timeout = timeout
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._connector)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send within the session's time-outs unless others are given, and through no proxy whatever is given."""
        return super().send(request, stream, timeout or self._timeout, verify, cert, proxies=None)
