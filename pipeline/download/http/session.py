"""HTTP connections that go to the very address that was checked.

``requests`` stays what it is, for the host name too: Host header, SNI and certificate are those of the URL. Only the
step from a name to a connected socket is ours. It asks the DNS once, lets the guard check every answer, and connects
to the checked address itself, so that there is no second look-up whose answer could differ.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from config import ConfigError
from pipeline.download.http.proxy import Proxy
from pipeline.download.http.tls import TlsVersion, check_pin, client_context, handshake
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.ssrf.ip_ranges import Address
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.download.timeout import call_bounded

if TYPE_CHECKING:
    from config import DownloadSettings

HttpVersion = Literal["1.1", "2", "3"]

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


def require_curl_cffi(version: HttpVersion) -> None:
    """Raise ConfigError unless the optional package curl_cffi is installed and speaks HTTP ``version`` (2 or 3)."""
    try:
        from curl_cffi import Curl

        libraries = Curl().version().decode()
    except ImportError:
        libraries = ""
    if f"nghttp{version}" not in libraries:
        raise ConfigError(
            f"DOWNLOAD_HTTP={version} needs the optional package curl_cffi: install it with "
            "'pip install --no-deps -r requirements/http3.lock', or set DOWNLOAD_HTTP=1.1"
        )


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How connections are made, once the guard has said where to."""

    dial: Dial = dial_tcp
    ca_bundle: Path | None = None
    """PEM file of the authorities that are trusted instead of the public ones."""
    proxy: str | None = field(default=None, repr=False)
    """``http://``, ``https://`` or ``socks5h://``, with user:password@ or without; it dials instead of ``dial``."""
    pins: frozenset[str] = frozenset()
    """Certificates, one of which every https host must present; see ``tls.check_pin``."""
    minimum_tls: TlsVersion = "1.2"
    http: HttpVersion = "1.1"
    """2 and 3 by the program curl, for https; neither ``dial`` nor ``proxy`` nor ``pins`` has a say in it then."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> ConnectionOptions:
        """The operator's way to the sources. Raises ConfigError if this machine cannot speak the HTTP he wants."""
        if settings.http_version != "1.1":
            require_curl_cffi(settings.http_version)
        pins = frozenset(settings.certificate_pins)
        return replace(cls.for_webhooks(settings), pins=pins, http=settings.http_version)

    @classmethod
    def for_webhooks(cls, settings: DownloadSettings) -> ConnectionOptions:
        """His way to receivers, which are the clients' own: pins are for the few hosts that files come from."""
        proxy = settings.proxy.get_secret_value() if settings.proxy else None
        return cls(proxy=proxy, minimum_tls=settings.minimum_tls)

    def context(self) -> ssl.SSLContext:
        """What TLS connections are made with."""
        return client_context(self.ca_bundle, self.minimum_tls)

    def dialler(self) -> Dial:
        """What opens the connections."""
        return Proxy.from_url(self.proxy, self.context()).dial if self.proxy else self.dial


#: Straight to the other side.
DIRECT: Final = ConnectionOptions()


def guarded_session(
    guard: UrlGuard,
    *,
    connect_timeout: float,
    read_timeout: float,
    watchdog: Watchdog | None = None,
    connection_options: ConnectionOptions = DIRECT,
) -> GuardedSession:
    """A session that connects to nothing that ``guard`` refuses, whatever it is asked for.

    Proxies, ``.netrc`` and CA files from the environment are ignored, redirects are not followed, cookies not kept.
    ``connect_timeout`` (s) covers name look-up and TCP, and again TLS; ``read_timeout`` (s) is the longest wait for
    the next bytes. ``watchdog`` guards the sockets. Requests raise the guard's PermanentError beside the exceptions of
    ``requests``, which ``translated`` is for.
    """
    connector = _Connector(guard, connection_options.dialler(), connect_timeout, watchdog)
    session = GuardedSession(guard, connector if connection_options.http == "1.1" else None)
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    adapter: HTTPAdapter = _GuardedAdapter(connector, connection_options, (connect_timeout, read_timeout))
    if connection_options.http != "1.1":
        from pipeline.download.http.curl_adapter import CurlAdapter, CurlOptions

        options = CurlOptions(
            connection_options.http,
            connection_options.minimum_tls,
            connection_options.ca_bundle,
            connect_timeout,
            read_timeout,
        )
        adapter = CurlAdapter(guard, options, watchdog)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class GuardedSession(requests.Session):
    """A session that takes plain URLs only, as they are before ``requests`` repairs them, and stays where it is."""

    def __init__(self, guard: UrlGuard, connector: _Connector | None) -> None:
        super().__init__()
        self._guard = guard
        self._connector = connector

    def connect_ahead(self, host: str, port: int) -> None:
        """Open the connection that the first request to that place will use, up to where TLS begins.

        Does nothing where connections are not ours to make. Raises what ``connect`` of the connector raises.
        """
        if self._connector:
            self._connector.connect_ahead(host, port)

    def close(self) -> None:
        """Close every connection, the unused one too."""
        super().close()
        if self._connector:
            self._connector.close()

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        text = url.decode("latin-1") if isinstance(url, bytes) else url
        return super().request(method, self._guard.check_syntax(text).url, *args, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: whoever follows redirects has to check them first."""


@dataclass(slots=True)
class _Connector:
    """Turns a name into a connected socket."""

    guard: UrlGuard
    dial: Dial
    timeout: float
    watchdog: Watchdog | None
    _ahead: tuple[str, int, socket.socket] | None = None

    def connect_ahead(self, host: str, port: int) -> None:
        """Have the connection ready that ``connect`` will be asked for."""
        self._ahead = (host, port, self._connected(host, port))
        if self.watchdog:
            self.watchdog.rest()

    def connect(self, host: str, port: int) -> socket.socket:
        """Raises PermanentError (the guard's), socket.gaierror, TimeoutError or another OSError."""
        ahead = self._ahead
        if ahead is None or ahead[:2] != (host, port):
            return self._connected(host, port)
        self._ahead = None
        if self.watchdog:
            self.watchdog.expect()
        return ahead[2]

    def close(self) -> None:
        """Close the connection that nobody asked for."""
        ahead, self._ahead = self._ahead, None
        if ahead:
            ahead[2].close()

    def _connected(self, host: str, port: int) -> socket.socket:
        connection = call_bounded(
            lambda: self._connect(host, port),
            timeout=self.timeout,
            on_start=self.watchdog.guard_call if self.watchdog else lambda _: None,
            discard=socket.socket.close,
        )
        connection.settimeout(self.timeout)
        if self.watchdog:
            # By its descriptor: what leads through a proxy may be encrypted already, and such sockets do not dup.
            with socket.fromfd(connection.fileno(), connection.family, connection.type) as plain:
                self.watchdog.guard_socket(plain)
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


def _pool_classes(connector: _Connector, connection_options: ConnectionOptions) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _open(self, connector)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _open(self, connector)

        def connect(self) -> None:
            host = self.host.strip("[]")
            with handshake(host, connection_options.minimum_tls):
                super().connect()
            # Before the first byte of the request. Whoever raises here is closed by the pool.
            check_pin(cast(ssl.SSLSocket, self.sock).getpeercert(binary_form=True), host, connection_options.pins)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _GuardedAdapter(HTTPAdapter):
    """A transport adapter whose every connection comes from the connector."""

    def __init__(
        self, connector: _Connector, connection_options: ConnectionOptions, timeout: tuple[float, float]
    ) -> None:
        self._connector = connector
        self._connection_options = connection_options
        self._timeout = timeout
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._connector, self._connection_options)

    def cert_verify(self, *_: Any) -> None:
        """Nothing to do: the context verifies, and knows by whom."""

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None, *_: Any, **__: Any
    ) -> requests.Response:
        """Send within the session's time-outs unless others are given; verified, and not where ``proxies`` says."""
        if str(request.url).startswith("https:"):
            # Not before: reading the authorities takes time, which plain HTTP can do without.
            self.poolmanager.connection_pool_kw["ssl_context"] = self._connection_options.context()
        return super().send(request, stream, timeout or self._timeout)
