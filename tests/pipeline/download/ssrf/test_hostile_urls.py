"""The table of hostile URLs: no forbidden address is dialled, and no harmless URL is refused.

Each URL passes the check of the API, a real download over http and over https, and the session that sends webhooks.
Public addresses lead to servers on loopback; any other dialled address is a failure. The environment names a proxy,
which must not receive a request.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from pipeline.cancellation import CancelToken
from pipeline.download import ConnectionOptions, DownloadLimits, UrlGuard, download, guarded_session
from pipeline.download.ssrf.url_parser import parse_url
from pipeline.errors import ErrorCode, PermanentError, TransientError
from tests.pipeline.download.http.proxies import ProxyServer
from tests.pipeline.download.network import PUBLIC, PUBLIC_6, Answers, Detour, Names
from tests.support.source_server import Exchange, SourceServer, content

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("hostile_urls.json").read_text("utf-8"))
LIMITS = DownloadLimits(max_bytes=1000, connect_timeout=5, stall_timeout=5, total_timeout=10)
SONG = b"a song"

REFUSALS = {
    "block": (ErrorCode.URL_FORBIDDEN, ErrorCode.URL_INVALID),
    "refuse": (ErrorCode.SOURCE_REFUSED, ErrorCode.SOURCE_PROTOCOL, ErrorCode.AUDIO_EMPTY),
    "away": (ErrorCode.SOURCE_UNAVAILABLE, ErrorCode.SOURCE_NOT_FOUND),
}


@dataclass(frozen=True)
class Vector:
    """A line of the table. ``names`` extends the table's own DNS answers."""

    id: str
    kind: str
    verdict: str
    """``block``: the guard refuses. ``refuse``: a redirect that is not followed. ``away``: no address. Or ``allow``."""
    url: str
    names: dict[str, Answers] = field(default_factory=dict)
    schemes: tuple[str, ...] = ("http", "https")

    def over(self, scheme: str) -> str:
        """Return the URL, and those in it, with another scheme."""
        return re.sub("http://", f"{scheme}://", self.url, flags=re.IGNORECASE)

    def runs_over(self, scheme: str) -> bool:
        """Return whether the URL differs over ``scheme``."""
        return scheme in self.schemes and (scheme == self.schemes[0] or "http://" in self.url)

    def guard(self) -> UrlGuard:
        return UrlGuard(False, resolver=Names({**TABLE["names"], **self.names}))

    @property
    def public(self) -> set[str]:
        """Addresses that may be dialled."""
        harmless = self.names.values() if self.verdict == "allow" else ()
        return {PUBLIC, PUBLIC_6, *(address.lower() for answers in harmless for address in answers[0])}


VECTORS = [Vector(**line) for line in TABLE["vectors"]]
REDIRECTING = [vector for vector in VECTORS if "/h/" in vector.url]
PLAIN = [vector for vector in VECTORS if "/h/" not in vector.url]


def by_kind(vectors: list[Vector]) -> pytest.MarkDecorator:
    """Run many vectors in one test: a test for each would take longer than its work."""
    kinds = {vector.kind: [other for other in vectors if other.kind == vector.kind] for vector in vectors}
    return pytest.mark.parametrize("vectors", kinds.values(), ids=kinds)


def answer_redirects(exchange: Exchange) -> None:
    query = exchange.request.query
    # The bytes of servers that do not encode the header.
    location = query.get("to", "").encode().decode("latin-1")
    exchange.respond(int(query.get("code", "302")), headers={"Location": location})


def answer_in_circles(exchange: Exchange) -> None:
    exchange.respond(302, headers={"Location": exchange.request.target})


def answer_hops(exchange: Exchange) -> None:
    remaining = int(exchange.request.query["left"])
    exchange.respond(302, headers={"Location": f"/h/hops?left={remaining - 1}" if remaining > 1 else "/a.wav"})


def answer_twice(exchange: Exchange) -> None:
    exchange.respond(302, headers=[("Location", "/a.wav"), ("Location", "http://127.0.0.1/")])


@pytest.fixture(scope="module")
def servers(authority: trustme.CA) -> Iterator[dict[int, SourceServer]]:
    certified = {
        parse_url(vector.url).host for vector in VECTORS if vector.verdict == "allow" and "https" in vector.schemes
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*certified, *TABLE["names"]).configure_cert(context)
    with SourceServer() as plain, SourceServer(tls=context) as secure:
        for running in (plain, secure):
            running.add("/h/redirect", answer_redirects)
            running.add("/h/redirect-loop", answer_in_circles)
            running.add("/h/hops", answer_hops)
            running.add("/h/two-locations", answer_twice)
            running.otherwise(content(SONG))
        yield {80: plain, 443: secure}


@pytest.fixture(autouse=True)
def proxies_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with SourceServer() as canary:
        for name in ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "ftp_proxy"):
            monkeypatch.setenv(name, canary.url(""))
            monkeypatch.setenv(name.upper(), canary.url(""))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "localhost")
        yield
        # Requests, not connections: a client of another test may still try a server that had this port before.
        assert canary.requests == []


Fetch = Callable[[Vector, str, ConnectionOptions], bytes]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    def fetch(vector: Vector, scheme: str, connection_options: ConnectionOptions) -> bytes:
        got = download(
            vector.over(scheme),
            tmp_path / "audio",
            guard=vector.guard(),
            limits=LIMITS,
            cancel=CancelToken(),
            connection_options=connection_options,
        )
        return got.path.read_bytes()

    return fetch


def mistakes(vectors: list[Vector], attempt: Callable[[Vector], bytes], dialled: list[str]) -> list[str]:
    """Describe each attempt that ends differently from the table, or dials a forbidden address."""
    wrong = []
    for vector in vectors:
        dialled.clear()
        ending = _ending(vector, attempt)
        if ending != vector.verdict or not set(dialled) <= vector.public:
            wrong.append(f"{vector.id} {vector.url!r} ended in {ending}, dialled {dialled}")
    return wrong


def _ending(vector: Vector, attempt: Callable[[Vector], bytes]) -> str:
    try:
        return "allow" if attempt(vector) == SONG else "something else"
    except (PermanentError, TransientError) as error:
        return vector.verdict if error.code in REFUSALS.get(vector.verdict, ()) else str(error.code)


@pytest.mark.parametrize("scheme", ["http", "https"])
@by_kind(VECTORS)
def test_downloads(
    vectors: list[Vector],
    scheme: str,
    servers: dict[int, SourceServer],
    ca_bundle: Path,
    fetch: Fetch,
    tmp_path: Path,
) -> None:
    detour = Detour(servers)
    connection_options = ConnectionOptions(detour, ca_bundle)
    chosen = [vector for vector in vectors if vector.runs_over(scheme)]
    assert mistakes(chosen, lambda vector: fetch(vector, scheme, connection_options), detour.dialled) == []


@by_kind([vector for vector in VECTORS if vector.kind in ("dns", "answer", "mixed", "rebinding", "location")])
def test_downloads_through_a_proxy(vectors: list[Vector], servers: dict[int, SourceServer], fetch: Fetch) -> None:
    with ProxyServer(servers) as proxy:
        connection_options = ConnectionOptions(proxy=f"http://127.0.0.1:{proxy.port}")
        assert mistakes(vectors, lambda vector: fetch(vector, "http", connection_options), proxy.dialled) == []


@by_kind(PLAIN)
def test_check_of_the_api(vectors: list[Vector]) -> None:
    def enter(vector: Vector) -> bytes:
        vector.guard().check(vector.url)
        return SONG

    assert mistakes(vectors, enter, []) == []


@by_kind([vector for vector in PLAIN if vector.verdict != "away"])
def test_webhooks(vectors: list[Vector], servers: dict[int, SourceServer], ca_bundle: Path) -> None:
    detour = Detour(servers)
    assert (
        mistakes(vectors, lambda vector: _post(vector, ConnectionOptions(detour, ca_bundle)).content, detour.dialled)
        == []
    )


def test_webhooks_follow_no_redirect(servers: dict[int, SourceServer]) -> None:
    detour = Detour(servers)
    reachable = (v for v in REDIRECTING if "\\" not in v.url and v.names.get("name.test", [[PUBLIC]])[0] == [PUBLIC])
    for vector in reachable:
        answered = _post(vector, ConnectionOptions(detour))
        assert (answered.status_code, answered.history) == (int(vector.url.partition("code=")[2][:3] or 302), [])
    assert set(detour.dialled) == {PUBLIC}


def _post(vector: Vector, connection_options: ConnectionOptions) -> requests.Response:
    with guarded_session(
        vector.guard(), connect_timeout=5, read_timeout=5, connection_options=connection_options
    ) as session:
        return session.post(vector.url, data=b"{}")
