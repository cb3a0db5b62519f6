"""Basic authentication: valid credentials pass, all others are refused."""

from __future__ import annotations

import base64
import hmac
import http.client
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from api.auth import GUESSES_PER_ADDRESS, GUESSES_PER_USER, BasicAuth, GuessLimit
from api.server.addresses import client_group
from config import ConfigError, Settings
from tests.api.conftest import CREDENTIALS, Service, serve
from tests.api.http_client import DEADLINE, Client

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
    settings = make_settings(BASIC_AUTH_USERNAME="Jürgen", BASIC_AUTH_PASSWORD="длинный пароль: 🔑")

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


def status_from(client: Client, source: str, authorization: str | None) -> tuple[int, int]:
    """Post a job from the address ``source`` of loopback; return the status and ``Retry-After``."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=DEADLINE, source_address=(source, 0))
    with closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request(
            "POST", "/generate", b"{}", headers | ({"Authorization": authorization} if authorization else {})
        )
        response = connection.getresponse()
        return response.status, int(response.headers.get("Retry-After", "0"))


def test_guesses_are_throttled_for_one_address_and_user(own_service: Service) -> None:
    client, wrong, right = own_service.client, basic(USERNAME, "wrong"), basic(USERNAME, PASSWORD)

    guesses = [status_from(client, "127.0.0.9", wrong) for _ in range(GUESSES_PER_USER + 5)]

    assert [status for status, _ in guesses] == [401] * GUESSES_PER_USER + [429] * 5
    assert all(1 <= wait <= 60 for status, wait in guesses if status == 429)
    # A right guess does not show itself either.
    assert status_from(client, "127.0.0.9", right)[0] == 429
    # Other addresses, and requests without credentials, are as before.
    assert status_from(client, "127.0.0.10", right)[0] == 400
    assert status_from(client, "127.0.0.9", None)[0] == 401


def test_guesses_of_many_user_names_are_throttled_as_well(own_service: Service) -> None:
    statuses = [
        status_from(own_service.client, "127.0.0.9", basic(f"user{number}", "wrong"))[0]
        for number in range(GUESSES_PER_ADDRESS + 5)
    ]

    assert statuses == [401] * GUESSES_PER_ADDRESS + [429] * 5


def test_right_credentials_are_never_throttled(own_service: Service, job: dict[str, Any]) -> None:
    statuses = {own_service.client.post(job).status for _ in range(2 * GUESSES_PER_ADDRESS)}

    assert statuses == {202}


def test_a_guess_is_allowed_again_after_a_while() -> None:
    now = 100.0
    limit = GuessLimit(3, 6.0, clock=lambda: now)
    for _ in range(3):
        assert limit.wait("a") == 0
        limit.count("a")
    assert limit.wait("a") == 6
    assert limit.wait("b") == 0
    now += 6
    assert limit.wait("a") == 0
    limit.count("a")
    assert limit.wait("a") == 6
    now += 1000
    for _ in range(3):
        assert limit.wait("a") == 0
        limit.count("a")
    assert limit.wait("a") == 6


def test_the_memory_of_guesses_is_bounded() -> None:
    limit = GuessLimit(1, 6.0, max_keys=10, clock=lambda: 0.0)
    for number in range(1000):
        limit.count(number)
        limit.count("often")

    assert [key for key in (*range(1000), "often") if limit.wait(key)] == [*range(991, 1000), "often"]


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_addresses_that_share_a_limit(host: str, group: str) -> None:
    assert client_group(host) == group


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json"])
def test_health_and_documentation_need_no_credentials(client: Client, path: str) -> None:
    assert client.get(path).status == 200
