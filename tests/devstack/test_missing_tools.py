"""Test that a missing tool causes one sentence that names what to install."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.errors import ToolUnavailableError
from devstack.kafka.broker import fetch_kafka
from devstack.s3 import fetch_s3_server
from devstack.tools.java import find_java, parse_java_version
from tests.support.servers import require


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Remove all commands from PATH, Java, and every source of Python packages; return the folder that PATH names."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(commands))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    return commands


def sentence(fetch: Callable[[], object]) -> str:
    with pytest.raises(ToolUnavailableError) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fake_java(folder: Path, output: str, code: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "java"
    command.write_text(f"#!/bin/sh\necho '{output}' >&2\nexit {code}\n")
    command.chmod(0o755)


def require_command(command: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not on this machine")


def test_kafka_without_maven(bare_machine: Path, tmp_path: Path) -> None:
    assert "install Maven" in sentence(lambda: fetch_kafka(tmp_path / "tools"))


def test_kafka_without_any_java(bare_machine: Path, tmp_path: Path) -> None:
    (bare_machine / "mvn").symlink_to("/bin/false")
    assert "no Java 17+ was found" in sentence(lambda: fetch_kafka(tmp_path / "tools"))


def test_s3_without_go_and_maven(bare_machine: Path, tmp_path: Path) -> None:
    assert "install Go 1.25+ or Apache Maven" in sentence(lambda: fetch_s3_server(tmp_path / "tools"))


def test_engine_that_is_named_is_not_replaced(bare_machine: Path, tmp_path: Path) -> None:
    message = sentence(lambda: fetch_s3_server(tmp_path / "tools", "versitygw"))
    assert "install Go" in message
    assert "Maven" not in message


def test_go_without_a_module_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_command("go")
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOFLAGS", "-modcacherw")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    assert "Go could not build VersityGW" in sentence(lambda: fetch_s3_server(tmp_path / "tools", "versitygw"))


def test_maven_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_command("mvn")
    unreachable = "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=9 -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=9"
    monkeypatch.setenv("MAVEN_OPTS", f"-Dmaven.repo.local={tmp_path / 'repository'} {unreachable}")
    message = sentence(lambda: fetch_kafka(tmp_path / "tools"))
    assert message.startswith("Maven could not fetch kafka-")
    assert "://" not in message


@pytest.mark.parametrize(
    ("output", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "26-ea" 2026-03-17', 26),
        ('Picked up JAVA_TOOL_OPTIONS: -Dversion=9\nopenjdk version "21.0.2"', 21),
        ("The operation could not be completed. Unable to locate a Java Runtime.", None),
        ("", None),
    ],
)
def test_java_version(output: str, major: int | None) -> None:
    assert parse_java_version(output) == major


def test_java_home_overrides_path(bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(bare_machine, 'openjdk version "21.0.2"')
    fake_java(tmp_path / "home" / "bin", 'openjdk version "25.0.2"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    java = find_java(tmp_path / "tools")
    assert (java.major, java.home) == (25, tmp_path / "home")


def test_java_that_is_too_old_or_broken_is_skipped(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(bare_machine, 'openjdk version "11.0.2"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "empty"))
    assert "no Java 17+ was found" in sentence(lambda: find_java(tmp_path / "tools"))
    fake_java(bare_machine, 'openjdk version "17.0.1"', code=1)
    assert "no Java 17+ was found" in sentence(lambda: find_java(tmp_path / "tools"))
    fake_java(bare_machine, 'openjdk version "17.0.1"')
    assert find_java(tmp_path / "tools").executable == bare_machine / "java"


def unavailable() -> None:
    raise ToolUnavailableError("install Go")


def test_missing_tool_skips_a_test_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUIRE_KAFKA", raising=False)
    assert require(lambda: 7) == 7
    with pytest.raises(pytest.skip.Exception, match="install Go"):
        require(unavailable)


def test_missing_tool_fails_a_test_if_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_KAFKA", "1")
    with pytest.raises(pytest.fail.Exception, match="install Go"):
        require(unavailable)
