"""HTTP/2 and HTTP/3 through the program curl, as a transport adapter of ``requests``.

Libraries that speak them replace urllib3 under everything else in the process, so they are left to a program beside
it: one curl per request, which is told the addresses that were checked and looks up none itself. URL and headers go in
through its standard input: other users of the machine can see a program's arguments.
"""

from __future__ import annotations

import http.client
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPHeaderDict, HTTPResponse

from config import ConfigError
from pipeline.download.http.curl_process import CurlProcess
from pipeline.download.http.tls import TlsVersion
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.download.timeout import call_bounded

HttpVersion = Literal["1.1", "2", "3"]

_OPTIONS: Final[Mapping[HttpVersion, str]] = {"1.1": "--http1.1", "2": "--http2", "3": "--http3"}
_FEATURES: Final[Mapping[HttpVersion, str]] = {"2": "HTTP2", "3": "HTTP3"}
_STATUS = re.compile(rb"HTTP/[0-9.]+ ([1-5][0-9]{2})\b")
_QUOTING = str.maketrans({"\\": "\\\\", '"': '\\"'})


def require_curl(version: HttpVersion) -> None:
    """Raise ConfigError unless this machine's curl speaks ``version``."""
    program = shutil.which("curl")
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False) if program else None
    if shown is None or _FEATURES[version] not in shown.stdout.split():
        raise ConfigError(f"DOWNLOAD_HTTP={version} needs the program curl with {_FEATURES[version]}: set it to 1.1")


@dataclass(frozen=True, slots=True)
class CurlOptions:
    """How every request is made."""

    version: HttpVersion
    minimum_tls: TlsVersion
    ca_bundle: Path | None
    connect_timeout: float
    """For the name look-up, and again for TCP and TLS, s."""
    total_timeout: float
    """For a request, if nobody ends it earlier, s."""


class CurlAdapter(HTTPAdapter):
    """Sends GET requests by curl. Raises what ``http.client``, ``ssl`` and ``socket`` do; see ``translated``."""

    def __init__(self, guard: UrlGuard, options: CurlOptions, watchdog: Watchdog | None) -> None:
        self._guard = guard
        self._options = options
        self._watchdog = watchdog
        super().__init__()

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """The answer to a GET, its body unread. Time-outs, proxies and trust are the session's, whatever is given."""
        url = request.url or ""
        running = CurlProcess(self._arguments(url), _config(url, request.headers), self._watchdog)
        try:
            status, headers = _parse_head(running.read_head())
        except BaseException:
            running.close()
            raise
        body = io.BufferedReader(cast(Any, running))
        answer = HTTPResponse(body, headers, status, preload_content=False, decode_content=False, request_method="GET")
        return self.build_response(request, answer)

    def _arguments(self, url: str) -> list[str]:
        parts, options = urlsplit(url), self._options
        host, port = parts.hostname or "", parts.port or http_port(parts.scheme)
        addresses = call_bounded(
            lambda: self._guard.addresses(host, port),
            timeout=options.connect_timeout,
            on_start=self._watchdog.guard_call if self._watchdog else lambda _: None,
        )
        # For whatever name: curl asks the DNS about none.
        known = f"*:{port}:{','.join(f'[{it}]' if it.version == 6 else str(it) for it in addresses)}"
        return [
            _OPTIONS[options.version if parts.scheme == "https" else "1.1"],
            f"--tlsv{options.minimum_tls}",
            *("--cacert", str(options.ca_bundle or DEFAULT_CA_BUNDLE_PATH)),
            *("--connect-timeout", str(options.connect_timeout)),
            *("--max-time", str(options.total_timeout)),
            *("--resolve", known),
        ]


def http_port(scheme: str) -> int:
    """The port of a URL without one."""
    return 443 if scheme == "https" else 80


def _config(url: str, headers: Mapping[str, str | bytes]) -> str:
    """Lines for ``--config``, in its quoting. HTTP/2 knows no Connection header."""
    told = [f"{name}: {value!s}" for name, value in headers.items() if name != "Connection"]
    lines = [("url", url), *(("header", header) for header in told)]
    return "".join(f'{name} = "{value.translate(_QUOTING)}"\n' for name, value in lines)


def _parse_head(head: bytes) -> tuple[int, HTTPHeaderDict]:
    lines = io.BytesIO(head)
    status = _STATUS.match(line := lines.readline())
    if status is None:
        raise http.client.BadStatusLine(repr(line[:64]))
    headers = http.client.parse_headers(lines)
    # Chunks have been put together by curl.
    del headers["Transfer-Encoding"]
    return int(status[1]), HTTPHeaderDict(headers.items())
