"""The timeout of name resolution in the API."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from api.errors import ApiError
from api.url_check import UrlCheck
from pipeline.download.ssrf.url_guard import UrlGuard
from tests.api.conftest import resolve
from tests.api.http_client import DEADLINE


@pytest.fixture
def guard() -> Iterator[UrlGuard]:
    """A resolver that never answers for ``cdn.example.com``."""
    ended = threading.Event()

    def hang_for_cdn(host: str, port: int, **hints: object) -> list[tuple[Any, ...]]:
        if host == "cdn.example.com":
            ended.wait()
        return resolve(host, port, **hints)

    yield UrlGuard(False, resolver=hang_for_cdn, resolve_timeout=10 * DEADLINE)
    ended.set()


async def admit(check: UrlCheck, **urls: str) -> None:
    async with asyncio.timeout(DEADLINE):
        await check.require_allowed(urls)


def test_a_name_that_resolves_too_slowly_is_accepted(guard: UrlGuard) -> None:
    check = UrlCheck(guard, timeout=0.05)

    asyncio.run(admit(check, audio="https://cdn.example.com/", hook_url="https://app.example.com/"))


def test_the_other_url_is_still_checked(guard: UrlGuard) -> None:
    check = UrlCheck(guard, timeout=1.0)

    with pytest.raises(ApiError) as refusal:
        asyncio.run(admit(check, audio="https://cdn.example.com/", hook_url="https://private.example.com/"))
    assert (refusal.value.status, refusal.value.details) == (403, {"field": "hook_url", "code": "url_forbidden"})


def test_an_unexpected_error_of_the_guard_is_raised() -> None:
    def defective(host: str, port: int, **hints: object) -> list[tuple[Any, ...]]:
        raise RuntimeError("a bug")

    check = UrlCheck(UrlGuard(False, resolver=defective))

    with pytest.raises(RuntimeError):
        asyncio.run(check.require_allowed({"audio": "https://cdn.example.com/"}))
