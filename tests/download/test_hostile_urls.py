"""The table of hostile URLs: nothing forbidden is ever dialled, and nothing harmless is refused.

Each URL goes through the front door and through a real download, over http and https. Public addresses lead to a
server on loopback; whatever else would be dialled is a failure.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cancel import CancelToken
from pipeline.download import DownloadLimits, UrlGuard, Wire, download
from pipeline.errors import ErrorCode, PermanentError
from tests.download.network import PUBLIC, PUBLIC_6, Detour, Names
from tests.support.source_server import Exchange, SourceServer, content

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("hostile_urls.json").read_text("utf-8"))
BLOCKED = [vector for vector in VECTORS if vector["verdict"] == "block"]
ALLOWED = [vector for vector in VECTORS if vector["verdict"] == "allow"]
LIMITS = DownloadLimits(max_bytes=1000, connect_timeout=5, stall_timeout=5, total_timeout=10)


def answer_redirects(exchange: Exchange) -> None:
    query = exchange.request.query
    exchange.respond(int(query.get("code", "302")), headers={"Location": query["to"]})


def answer_in_circles(exchange: Exchange) -> None:
    exchange.respond(302, headers={"Location": exchange.request.target})


@dataclass
class Web:
    """The public web of these tests."""

    detour: Detour
    ca_bundle: Path

    def fetch(self, vector: dict[str, Any], scheme: str, folder: Path) -> bytes:
        guard = UrlGuard(False, resolver=Names(vector["names"]))
        url = vector["url"].replace("http://", f"{scheme}://")
        wire = Wire(self.detour, self.ca_bundle)
        got = download(url, folder / "audio", guard=guard, limits=LIMITS, cancel=CancelToken(), wire=wire)
        return got.path.read_bytes()


@pytest.fixture(scope="module")
def servers(server_context: ssl.SSLContext) -> Iterator[dict[int, SourceServer]]:
    with SourceServer() as plain, SourceServer(tls=server_context) as secure:
        for running in (plain, secure):
            running.add("/h/redirect", answer_redirects)
            running.add("/h/redirect-loop", answer_in_circles)
            running.otherwise(content(b"a song"))
        yield {80: plain, 443: secure}


@pytest.fixture
def web(servers: dict[int, SourceServer], ca_bundle: Path) -> Web:
    return Web(Detour(servers), ca_bundle)


def by_id(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[f"{item['id']}-{item['kind']}" for item in vectors])


@pytest.mark.parametrize("scheme", ["http", "https"])
@by_id(BLOCKED)
def test_hostile_urls_are_refused_and_nothing_forbidden_is_dialled(
    vector: dict[str, Any], scheme: str, web: Web, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError) as caught:
        web.fetch(vector, scheme, tmp_path)
    too_many = ErrorCode.SOURCE_REFUSED if vector["url"].endswith("redirect-loop") else None
    assert caught.value.code in (too_many or ErrorCode.URL_FORBIDDEN, ErrorCode.URL_INVALID)
    assert set(web.detour.dialled) <= {PUBLIC}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@by_id(ALLOWED)
def test_harmless_urls_pass(vector: dict[str, Any], scheme: str, web: Web, tmp_path: Path) -> None:
    assert web.fetch(vector, scheme, tmp_path) == b"a song"
    assert web.detour.dialled
    assert set(web.detour.dialled) <= {PUBLIC, PUBLIC_6}


@by_id([vector for vector in VECTORS if vector["kind"] != "redirect"])
def test_the_front_door_agrees(vector: dict[str, Any]) -> None:
    guard = UrlGuard(False, resolver=Names(vector["names"]))
    if vector["verdict"] == "allow":
        guard.check(vector["url"])
        return
    with pytest.raises(PermanentError) as caught:
        guard.check(vector["url"])
    assert caught.value.code in (ErrorCode.URL_INVALID, ErrorCode.URL_FORBIDDEN)
