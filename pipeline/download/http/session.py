"""HTTP sessions whose connections go to the addresses that the guard has checked.

Only the step from a name to a connected socket differs from plain ``requests``: one name resolution, a check of every
address, and a connection to a checked address. No second resolution can give another answer. Host header, SNI and
certificate stay those of the URL.
"""

from __future__ import annotations

import http.client
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
from pipeline.download.http.tls import TlsVersion, check_pin, client_context, tls_handshake
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.ssrf.ip_ranges import Address
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.download.timeout import call_bounded

if TYPE_CHECKING:
    from config import DownloadSettings

HttpVersion = Literal["1.1", "2", "3"]

#: Opens a TCP connection: address, port, timeout in s.
Dial = Callable[[Address, int, float], socket.socket]

#: Sources and receivers behind several proxies send more than http.client's limit of 100 header lines.
http.client._MAXHEADERS = 1000  # type: ignore[attr-defined]

#: Connect timeout and read timeout, s.
Timeouts = tuple[float, float | None]

#: Connect timeout of the last of many addresses, at least, s; zero would make the socket non-blocking.
_MIN_CONNECT_TIMEOUT = 0.1


def dial_tcp(address: Address, port: int, timeout: float) -> socket.socket:
    """Connect to ``address``, without name resolution. Raises OSError (TimeoutError after ``timeout`` s)."""
    return socket.create_connection((str(address), port), timeout)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The options of all connections; the guard decides about their addresses."""

    dial: Dial = dial_tcp
    ca_bundle: Path | None = None
    """PEM file of the trusted authorities, instead of the public ones."""
    proxy: str | None = field(default=None, repr=False)
    """``http://``, ``https://`` or ``socks5h://``, with user:password@ or without; replaces ``dial``."""
    pins: frozenset[str] = frozenset()
    """Pinned certificates of https hosts; see ``tls.check_pin``."""
    minimum_tls: TlsVersion = "1.2"
    http: HttpVersion = "1.1"
    """2 and 3 need curl_cffi, hold for https, and ignore ``dial``, ``proxy`` and ``pins``."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> ConnectionOptions:
        """Return the options for downloads. Raises ConfigError if the HTTP version needs a missing package."""
        if settings.http_version != "1.1":
            require_curl_cffi(settings.http_version)
        pins = frozenset(settings.certificate_pins)
        return replace(cls.for_webhooks(settings), pins=pins, http=settings.http_version)

    @classmethod
    def for_webhooks(cls, settings: DownloadSettings) -> ConnectionOptions:
        """Return the options for webhooks: HTTP/1.1 without pins, which name hosts of downloads."""
        proxy = settings.proxy.get_secret_value() if settings.proxy else None
        return cls(ca_bundle=settings.ca_bundle, proxy=proxy, minimum_tls=settings.minimum_tls)

    def ssl_context(self) -> ssl.SSLContext:
        """Return the context of TLS connections."""
        return client_context(self.ca_bundle, self.minimum_tls)


def require_curl_cffi(version: HttpVersion) -> None:
    """Raise ConfigError unless the optional package curl_cffi is installed and supports HTTP ``version`` (2 or 3)."""
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


#: Connections without a proxy.
DIRECT: Final = ConnectionOptions()


def guarded_session(
    guard: UrlGuard,
    *,
    connect_timeout: float,
    read_timeout: float | None,
    watchdog: Watchdog | None = None,
    connection_options: ConnectionOptions = DIRECT,
) -> GuardedSession:
    """Return a session that connects to no address that ``guard`` refuses.

    It ignores proxies, ``.netrc`` and CA files of the environment, follows no redirects and keeps no cookies.
    ``connect_timeout`` (s) limits name resolution with TCP, and again TLS; ``read_timeout`` (s; None: no limit)
    limits each wait for data. ``watchdog`` guards the sockets. Requests raise the guard's PermanentError beside the
    exceptions of ``requests``, which ``http_errors`` translates.
    """
    connector = None
    timeouts: Timeouts = (connect_timeout, read_timeout)
    if connection_options.http == "1.1":
        proxy = connection_options.proxy
        dial = Proxy.from_url(proxy, connection_options.ssl_context()).dial if proxy else connection_options.dial
        connector = _Connector(guard, dial, connect_timeout, watchdog)
        adapter: HTTPAdapter = _GuardedAdapter(connector, connection_options, timeouts)
    else:
        from pipeline.download.http.curl_adapter import CurlAdapter  # needs an optional package

        adapter = CurlAdapter(guard, connection_options, timeouts, watchdog)
    session = GuardedSession(guard, connector)
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class GuardedSession(requests.Session):
    """A session that rejects unusual URLs before ``requests`` can repair them, and follows no redirects."""

    def __init__(self, guard: UrlGuard, connector: _Connector | None) -> None:
        super().__init__()
        self._guard = guard
        self._connector = connector

    def connect_ahead(self, host: str, port: int) -> None:
        """Open the TCP connection of the first request to ``host`` in advance. Over HTTP/2 and HTTP/3: do nothing.

        Raises PermanentError (the guard's), socket.gaierror, TimeoutError or another OSError.
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
        """Return None: a redirect needs a check by the caller."""


@dataclass(slots=True)
class _Connector:
    """Opens connections by name to checked addresses."""

    guard: UrlGuard
    dial: Dial
    timeout: float
    watchdog: Watchdog | None
    _ahead: tuple[str, int, socket.socket] | None = None

    def connect_ahead(self, host: str, port: int) -> None:
        self._ahead = (host, port, self._connect(host, port))
        if self.watchdog:
            self.watchdog.rest()

    def open_socket(self, connection: HTTPConnection) -> socket.socket:
        """Replace ``HTTPConnection._new_conn``, with the same exceptions, and the guard's PermanentError."""
        host = connection.host.strip("[]")
        try:
            if self._ahead and self._ahead[:2] == (host, connection.port):
                opened = self._ahead[2]
                self._ahead = None
                if self.watchdog:
                    self.watchdog.expect()
            else:
                opened = self._connect(host, connection.port)
        except socket.gaierror as error:
            raise NameResolutionError(host, connection, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, f"connection to {host} timed out") from error
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(connection, f"no connection to {host}: {error}") from error
        for option in connection.socket_options or ():
            opened.setsockopt(*option)
        return opened

    def close(self) -> None:
        """Close the unused connection."""
        if self._ahead:
            self._ahead[2].close()
            self._ahead = None

    def _connect(self, host: str, port: int) -> socket.socket:
        connection = call_bounded(
            lambda: self._dial_checked(host, port),
            timeout=self.timeout,
            on_start=self.watchdog.guard_call if self.watchdog else lambda _: None,
            discard=socket.socket.close,
        )
        connection.settimeout(self.timeout)
        if self.watchdog:
            # By its descriptor: a connection to a TLS proxy is an SSLSocket already, which does not support dup.
            with socket.fromfd(connection.fileno(), connection.family, connection.type) as plain:
                self.watchdog.guard_socket(plain)
        return connection

    def _dial_checked(self, host: str, port: int) -> socket.socket:
        deadline = time.monotonic() + self.timeout
        addresses = self.guard.addresses(host, port)
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            # A share of the remaining time: an address that drops packets must leave time for the next one.
            share = (deadline - time.monotonic()) / (len(addresses) - tried)
            try:
                return self.dial(address, port, max(share, _MIN_CONNECT_TIMEOUT))
            except OSError as error:
                failure = error
        raise failure or TimeoutError("timed out")


class _Response(http.client.HTTPResponse):
    """A response that skips every interim response (RFC 9110 section 15.2), where http.client knows 100 alone."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 102 <= status <= 199:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _GuardedAdapter(HTTPAdapter):
    """A transport adapter that gets every connection from the connector."""

    def __init__(self, connector: _Connector, connection_options: ConnectionOptions, timeout: Timeouts) -> None:
        self._connector = connector
        self._connection_options = connection_options
        self._timeout = timeout
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        connector, options = self._connector, self._connection_options

        class Plain(HTTPConnection):
            response_class = _Response

            def _new_conn(self) -> socket.socket:
                return connector.open_socket(self)

        class Secure(HTTPSConnection):
            response_class = _Response

            def _new_conn(self) -> socket.socket:
                return connector.open_socket(self)

            def connect(self) -> None:
                host = self.host.strip("[]")
                with tls_handshake(host, options.minimum_tls):
                    super().connect()
                # Before the first byte of the request. The pool closes the connection if this raises.
                check_pin(cast(ssl.SSLSocket, self.sock).getpeercert(binary_form=True), host, options.pins)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def cert_verify(self, *_: Any) -> None:
        """Do nothing: the SSL context verifies certificates."""

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None, *_: Any, **__: Any
    ) -> requests.Response:
        """Send with the session's timeouts unless others are given; ignore ``verify``, ``cert`` and ``proxies``."""
        if str(request.url).startswith("https:"):
            # Only now: loading the authorities takes time, which plain http can save.
            self.poolmanager.connection_pool_kw["ssl_context"] = self._connection_options.ssl_context()
        return super().send(request, stream, timeout or cast(Any, self._timeout))
