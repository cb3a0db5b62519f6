"""HTTP/2 and HTTP/3 by libcurl (the optional package curl_cffi), as a transport adapter of ``requests``.

libcurl connects to the addresses that the guard has checked and resolves no name. It runs only while the calling thread
waits for a response head or for more of a body, so that a slow reader slows the sender down (backpressure), and so that
the watchdog's verdict is checked while it waits.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import requests
from curl_cffi import Curl, CurlECode, CurlHttpVersion, CurlOpt, CurlSslVersion, ffi, lib
from curl_cffi.aio import CURLMSG_DONE
from curl_cffi.curl import CURL_WRITEFUNC_ERROR, CURL_WRITEFUNC_PAUSE, CURLPAUSE_CONT
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPHeaderDict, HTTPResponse

from pipeline.download.http.watchdog import Watchdog
from pipeline.download.ssrf.ip_ranges import Address
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.download.timeout import call_bounded

if TYPE_CHECKING:
    from pipeline.download.http.session import ConnectionOptions

#: Longest time between two checks of the watchdog's verdict, ms.
_POLL_INTERVAL = 50
#: Connect timeout of the last of many addresses, at least, s.
_MIN_CONNECT_TIMEOUT = 0.1
_MAX_HEAD_BYTES = 256 * 1024
#: Size at which an unread body pauses the transfer, bytes. libcurl delivers at most 16 KiB beyond it.
_MAX_UNREAD_BYTES = 1024 * 1024

_STATUS = re.compile(rb"HTTP/[0-9.]+ ([1-5][0-9]{2})\b")

_HTTP_VERSIONS: Final = {"1.1": CurlHttpVersion.V1_1, "2": CurlHttpVersion.V2TLS, "3": CurlHttpVersion.V3}
_TLS_VERSIONS: Final = {"1.2": CurlSslVersion.TLSv1_2, "1.3": CurlSslVersion.TLSv1_3}

#: libcurl's error codes, and the exceptions that HTTP/1.1 raises for the same errors. Every other code: not valid HTTP.
_ERRORS: Final[Mapping[int, Callable[[], BaseException]]] = {
    CurlECode.COULDNT_RESOLVE_HOST: socket.gaierror,
    CurlECode.COULDNT_CONNECT: ConnectionRefusedError,
    CurlECode.QUIC_CONNECT_ERROR: ConnectionRefusedError,
    CurlECode.PARTIAL_FILE: lambda: http.client.IncompleteRead(b""),
    CurlECode.OPERATION_TIMEDOUT: TimeoutError,
    CurlECode.SSL_CONNECT_ERROR: ssl.SSLError,
    CurlECode.PEER_FAILED_VERIFICATION: ssl.SSLCertVerificationError,
    CurlECode.GOT_NOTHING: lambda: http.client.RemoteDisconnected(""),
    CurlECode.SEND_ERROR: ConnectionResetError,
    CurlECode.RECV_ERROR: ConnectionResetError,
    CurlECode.HTTP2_STREAM: lambda: http.client.IncompleteRead(b""),
    CurlECode.HTTP3: lambda: http.client.IncompleteRead(b""),
}


class CurlAdapter(HTTPAdapter):
    """Sends GET requests, one at a time, and reuses their connections.

    Plain http stays at HTTP/1.1. A host that does not offer the version is read with an older one. ``timeout`` (s): for
    TCP or QUIC with TLS, and for a whole request (None: no limit).
    """

    def __init__(
        self,
        guard: UrlGuard,
        connection_options: ConnectionOptions,
        timeout: tuple[float, float | None],
        watchdog: Watchdog | None,
    ) -> None:
        super().__init__()
        self._guard = guard
        self._connection_options = connection_options
        self._connect_timeout, self._total_timeout = timeout
        self._watchdog = watchdog
        self._multi = ffi.gc(lib.curl_multi_init(), lib.curl_multi_cleanup)
        self._transfer: _Transfer | None = None

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Return the response with its body unread. Ends the transfer before, if it is still running.

        Timeouts, proxies and trust are those of the adapter, whatever the arguments are. Raises the guard's
        PermanentError, and what ``http.client``, ``ssl`` and ``socket`` raise; see ``errors.http_errors``.
        """
        parts = urlsplit(request.url or "")
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        deadline = time.monotonic() + self._connect_timeout
        addresses = call_bounded(
            lambda: self._guard.addresses(host, port),
            timeout=self._connect_timeout,
            on_start=self._watchdog.guard_call if self._watchdog else lambda _: None,
        )
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            share = max((deadline - time.monotonic()) / (len(addresses) - tried), _MIN_CONNECT_TIMEOUT)
            self._close_transfer()
            options = self._curl_options(request, address, port, share)
            transfer = self._transfer = _Transfer(self._multi, options, self._watchdog)
            try:
                status, headers = transfer.read_head()
            except (ConnectionRefusedError, TimeoutError) as error:
                failure = error
                continue
            # preload_content and decode_content are off: the caller reads the bytes as they are.
            body = io.BufferedReader(cast(Any, transfer))
            response = HTTPResponse(
                body, headers, status, preload_content=False, decode_content=False, request_method="GET"
            )
            return self.build_response(request, response)
        raise failure or TimeoutError("timed out")

    def close(self) -> None:
        """End the running transfer and close all connections."""
        super().close()
        self._close_transfer()
        ffi.release(self._multi)

    def _close_transfer(self) -> None:
        if self._transfer:
            self._transfer.close()

    def _curl_options(
        self, request: requests.PreparedRequest, address: Address, port: int, connect_timeout: float
    ) -> dict[CurlOpt, object]:
        # An address instead of the name: libcurl would resolve a name given by CURLOPT_RESOLVE again, for its HTTPS
        # record. Host header, SNI and certificate stay those of the URL.
        place = f"[{address}]" if address.version == 6 else str(address)
        connect_to = lib.curl_slist_append(ffi.NULL, f"::{place}:{port}".encode())
        # HTTP/2 and HTTP/3 have no Connection header.
        headers = [f"{name}: {value!s}" for name, value in request.headers.items() if name != "Connection"]
        options = self._connection_options
        is_https = str(request.url).startswith("https:")
        return {
            CurlOpt.URL: request.url,
            CurlOpt.HTTPHEADER: [header.encode("latin-1") for header in headers],
            CurlOpt.HTTP_VERSION: _HTTP_VERSIONS[options.http if is_https else "1.1"],
            CurlOpt.CONNECT_TO: ffi.gc(connect_to, lib.curl_slist_free_all),
            CurlOpt.CONNECTTIMEOUT_MS: round(connect_timeout * 1000),
            CurlOpt.TIMEOUT_MS: round((self._total_timeout or 0) * 1000),
            CurlOpt.NOSIGNAL: 1,
            CurlOpt.BUFFERSIZE: 128 * 1024,
            CurlOpt.PROTOCOLS_STR: "http,https",
            CurlOpt.REDIR_PROTOCOLS_STR: "http,https",
            CurlOpt.FOLLOWLOCATION: 0,
            CurlOpt.PATH_AS_IS: 1,
            CurlOpt.HTTP_CONTENT_DECODING: 0,
            CurlOpt.PROXY: "",  # disables the proxies of the environment
            CurlOpt.NOPROXY: "*",
            CurlOpt.NETRC: 0,
            CurlOpt.SSL_VERIFYPEER: 1,
            CurlOpt.SSL_VERIFYHOST: 2,
            CurlOpt.SSLVERSION: _TLS_VERSIONS[options.minimum_tls],
            CurlOpt.CAINFO: str(options.ca_bundle or DEFAULT_CA_BUNDLE_PATH),
            CurlOpt.CAPATH: ffi.NULL,
        }


class _Transfer(io.RawIOBase):
    """A running request: its head is read first, then its body as a file. Reads raise as those of ``http.client``."""

    def __init__(self, multi: Any, options: Mapping[CurlOpt, object], watchdog: Watchdog | None) -> None:
        self._multi = multi
        self._curl = Curl()
        self._options = options  # libcurl keeps pointers to some of them
        self._watchdog = watchdog
        self._head = bytearray()
        self._has_head = False
        self._body = bytearray()
        self._paused = False
        self._result: int | None = None
        self._count = ffi.new("int *")
        for option, value in options.items():
            self._curl.setopt(option, value)
        self._curl.setopt(CurlOpt.HEADERFUNCTION, self._on_header)
        self._curl.setopt(CurlOpt.WRITEFUNCTION, self._on_body)
        if watchdog:
            watchdog.expect()
        lib.curl_multi_add_handle(multi, self._curl._curl)

    def read_head(self) -> tuple[int, HTTPHeaderDict]:
        """Return status and headers of the final response."""
        self._run_until(lambda: self._has_head)
        if not self._has_head:
            self._raise_on_error()
            raise http.client.RemoteDisconnected("no response")
        lines = io.BytesIO(self._head)
        status = _STATUS.match(line := lines.readline())
        if status is None:
            raise http.client.BadStatusLine(repr(line[:64]))
        headers = http.client.parse_headers(lines)
        if headers.get("Transfer-Encoding", "").strip().lower() == "chunked":
            # libcurl has joined the chunks. They override a length (RFC 9112 section 6.3).
            del headers["Transfer-Encoding"], headers["Content-Length"]
        return int(status[1]), HTTPHeaderDict(headers.items())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._run_until(lambda: bool(self._body))
        count = min(len(buffer), len(self._body))
        buffer[:count] = self._body[:count]
        del self._body[:count]
        if count == 0:
            self._raise_on_error()
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            lib.curl_multi_remove_handle(self._multi, self._curl._curl)
            self._curl.close()

    def _run_until(self, arrived: Callable[[], bool]) -> None:
        """Run the transfer until ``arrived()`` or its end. Raises the watchdog's verdict."""
        while not arrived() and self._result is None:
            if self._watchdog:
                self._watchdog.raise_if_fired()
            if self._paused:
                self._paused = False
                lib.curl_easy_pause(self._curl._curl, CURLPAUSE_CONT)
            lib.curl_multi_perform(self._multi, self._count)
            message = lib.curl_multi_info_read(self._multi, self._count)
            if message != ffi.NULL and message.msg == CURLMSG_DONE:
                self._result = message.data.result
            elif not arrived():
                lib.curl_multi_poll(self._multi, ffi.NULL, 0, _POLL_INTERVAL, self._count)

    def _on_header(self, line: bytes) -> int:
        if not self._has_head:  # trailers have their own lines after the body
            self._head += line
            if len(self._head) > _MAX_HEAD_BYTES:
                return CURL_WRITEFUNC_ERROR
            if line in (b"\r\n", b"\n"):
                status = _STATUS.match(self._head)
                self._has_head = status is None or not status[1].startswith(b"1")
                if not self._has_head:
                    self._head.clear()
        return len(line)

    def _on_body(self, data: bytes) -> int:
        if len(self._body) >= _MAX_UNREAD_BYTES:
            self._paused = True
            return CURL_WRITEFUNC_PAUSE
        self._body += data
        return len(data)

    def _raise_on_error(self) -> None:
        if self._result:
            raise _ERRORS.get(self._result, http.client.HTTPException)()
