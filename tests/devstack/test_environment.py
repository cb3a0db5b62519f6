"""Test the environment of the services: with the user's settings, or without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.environment import development_settings, isolated_environment, server_settings, user_environment


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text("LOG_FORMAT=json\nDATA_DIR=\nS3_ENDPOINT_URL=http://store.test\nS3_BUCKET_NAME=songs\n")
    return path


def test_file_and_environment_override_defaults(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_HOST", "127.0.0.2")
    monkeypatch.setenv("API_PORT", "")  # empty: not set
    defaults = {"LOG_FORMAT": "console", "DATA_DIR": "here", "API_HOST": "127.0.0.1", "API_PORT": "8000"}
    environment = user_environment(env_file, defaults)
    assert "LOG_FORMAT" not in environment  # the service reads the file itself
    assert {name: environment[name] for name in ("DATA_DIR", "API_HOST", "API_PORT")} == {
        "DATA_DIR": "here",
        "API_HOST": "127.0.0.2",
        "API_PORT": "8000",
    }


def test_isolated_environment_has_none_of_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "production:9092")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("BASIC_AUTH_PASSWORD_FILE", "password")
    environment = isolated_environment({"API_PORT": "1"})
    assert environment.keys().isdisjoint({"KAFKA_BOOTSTRAP_SERVERS", "BASIC_AUTH_PASSWORD_FILE"})
    assert (environment["LANG"], environment["API_PORT"]) == ("C.UTF-8", "1")


def test_loopback_bypasses_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet.test")
    environment = isolated_environment({})
    assert environment["no_proxy"] == environment["NO_PROXY"] == "intranet.test,127.0.0.1,::1,localhost"


def test_only_named_servers_contribute_their_settings(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("KAFKA_PARTITIONS", "3")
    monkeypatch.setenv("STORAGE", "s3")
    found = server_settings(env_file)
    assert found["S3_BUCKET_NAME"] == "songs"
    assert found["STORAGE"] == "s3"
    assert "KAFKA_PARTITIONS" not in found


@pytest.mark.parametrize(("host", "private"), [("", "true"), ("::1", "true"), ("localhost", "true"), ("0.0.0.0", None)])
def test_private_networks_are_open_only_behind_loopback(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, host: str, private: str | None
) -> None:
    monkeypatch.setenv("API_HOST", host)
    assert development_settings(env_file).get("ALLOW_PRIVATE_NETWORKS") == private
