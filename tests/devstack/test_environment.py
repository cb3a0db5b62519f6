"""What services are started with: the user's settings, or none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.environment import apart, connections, everyday


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text("LOG_FORMAT=json\nDATA_DIR=\nS3_ENDPOINT_URL=http://store.test\nS3_BUCKET_NAME=songs\n")
    return path


def test_defaults_give_way_to_the_file_and_the_environment(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_HOST", "127.0.0.2")
    monkeypatch.setenv("API_PORT", "")  # empty: not set
    defaults = {"LOG_FORMAT": "console", "DATA_DIR": "here", "API_HOST": "127.0.0.1", "API_PORT": "8000"}
    environment = everyday(env_file, defaults)
    assert "LOG_FORMAT" not in environment  # the service reads the file itself
    assert {name: environment[name] for name in ("DATA_DIR", "API_HOST", "API_PORT")} == {
        "DATA_DIR": "here",
        "API_HOST": "127.0.0.2",
        "API_PORT": "8000",
    }


def test_apart_from_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "production:9092")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = apart({"API_PORT": "1"})
    assert "KAFKA_BOOTSTRAP_SERVERS" not in environment
    assert (environment["LANG"], environment["API_PORT"]) == ("C.UTF-8", "1")


def test_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet.test")
    environment = apart({})
    assert environment["no_proxy"] == environment["NO_PROXY"] == "intranet.test,127.0.0.1,::1,localhost"


def test_only_servers_that_are_named_come_with_their_settings(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("KAFKA_PARTITIONS", "3")
    monkeypatch.setenv("STORAGE", "s3")
    found = connections(env_file)
    assert found["S3_BUCKET_NAME"] == "songs"
    assert found["STORAGE"] == "s3"
    assert "KAFKA_PARTITIONS" not in found
