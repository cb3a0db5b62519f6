"""Basic authentication: valid credentials pass, all others are refused."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from api.auth import BasicAuth
from config import ConfigError, Settings
from tests.api.conftest import CREDENTIALS, Service, serve
from tests.api.http_client import Client

USERNAME, PASSWORD = CREDENTIALS


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_valid_credentials_pass(client: Client, job: dict[str, Any], scheme: str) -> None:
    encoded = basic(USERNAME, PASSWORD).removeprefix("Basic ")

    assert client.post(job, {"Authorization": f"{scheme} {encoded}"}).status == 202


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic dXNlcg",
        "Basic " + base64.b64encode(USERNAME.encode()).decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\x00").decode(),
        basic("", ""),
        basic(USERNAME, ""),
        basic("", PASSWORD),
        basic(USERNAME, PASSWORD + "x"),
        basic(USERNAME, PASSWORD[:-1]),
        basic(USERNAME.upper(), PASSWORD),
        basic("somebody", PASSWORD),
        basic("somebody", "else"),
        basic(USERNAME, PASSWORD).replace("Basic", "Bearer"),
        f"Basic {USERNAME}:{PASSWORD}",
        "Digest username=operator",
    ],
)
def test_invalid_credentials_are_refused(service: Service, job: dict[str, Any], header: str | None) -> None:
    answer = service.client.post(job, {"Authorization": header})

    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert answer.json == {"error": "Valid credentials are required", "details": None}
    assert service.queued() == []


def test_credentials_may_be_any_text(make_settings: Callable[..., Settings], job: dict[str, Any]) -> None:
    settings = make_settings(BASIC_AUTH_USERNAME="Jürgen", BASIC_AUTH_PASSWORD="пароль: 🔑")

    with serve(settings) as service:
        assert service.client.post(job).status == 202
        assert service.client.post(job, {"Authorization": basic("Jürgen", "пароль")}).status == 401


@pytest.mark.parametrize("guess", [(USERNAME, PASSWORD), ("x", PASSWORD), (USERNAME, "x"), ("x", "x")])
def test_user_name_and_password_are_both_compared_in_constant_time(
    service: Service, job: dict[str, Any], guess: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, compared = hmac.compare_digest, []

    def watched(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    service.client.post(job, {"Authorization": basic(*guess)})

    # Two comparisons of digests of equal length, so that the length of a secret does not leak.
    assert compared == [(32, 32), (32, 32)]


def test_the_password_is_not_kept_in_plain_text() -> None:
    auth = BasicAuth("operator", "s3cret")

    assert "s3cret" not in repr(vars(auth))


def test_the_api_requires_credentials_to_start(make_settings: Callable[..., Settings], service: Service) -> None:
    settings = make_settings(BASIC_AUTH_PASSWORD="")

    def create() -> FastAPI:
        return create_app(settings, service.transport, service.store, service.guard)

    with pytest.raises(ConfigError, match="BASIC_AUTH_PASSWORD"):
        create()


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json"])
def test_health_and_documentation_need_no_credentials(client: Client, path: str) -> None:
    assert client.get(path).status == 200
