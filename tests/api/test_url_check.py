"""The bound on name resolution at the door."""

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
    """Never gets an answer about ``cdn.example.com``."""
    ended = threading.Event()

    def hang_for_cdn(host: str, port: int, **hints: object) -> list[tuple[Any, ...]]:
        if host == "cdn.example.com":
            ended.wait()
        return resolve(host, port, **hints)

    yield UrlGuard(False, resolver=hang_for_cdn, resolve_timeout=10 * DEADLINE)
    ended.set()


async def admit(check: UrlCheck, **urls: str) -> None:
    async with asyncio.timeout(DEADLINE):
        await check.admit(urls)


def test_a_name_that_is_looked_up_too_long_passes(guard: UrlGuard) -> None:
    check = UrlCheck(guard, patience=0.05)

    asyncio.run(admit(check, audio="https://cdn.example.com/", hook_url="https://app.example.com/"))


def test_the_other_url_is_judged_all_the_same(guard: UrlGuard) -> None:
    check = UrlCheck(guard, patience=1.0)

    with pytest.raises(ApiError) as refusal:
        asyncio.run(admit(check, audio="https://cdn.example.com/", hook_url="https://private.example.com/"))
    assert (refusal.value.status, refusal.value.details) == (403, {"field": "hook_url", "code": "url_forbidden"})


def test_a_defect_of_the_guard_lets_nothing_pass() -> None:
    def defective(host: str, port: int, **hints: object) -> list[tuple[Any, ...]]:
        raise RuntimeError("a bug")

    check = UrlCheck(UrlGuard(False, resolver=defective))

    with pytest.raises(RuntimeError):
        asyncio.run(check.admit({"audio": "https://cdn.example.com/"}))
