"""Test that a committed secret is found, in the tree and in the history, and that the report does not show it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.secret_scan import scan

#: In two parts, so that the search of this repository does not find it.
KEY, SECRET = "AKIA" + "QYLPMN5HHHFPZAM2", "1tUm636uS1yOEcfP5pvf" + "qJ/ml36mF7AkyHsEU0IU"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "README.md").write_text("curl -u '{username}:{password}' http://127.0.0.1/\n", encoding="utf-8")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.test"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, timeout=60)


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "change")


def test_secret_is_found_and_not_shown(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert scan(checkout, history=False) == 0
    (checkout / "settings.txt").write_text(f"aws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    assert scan(checkout, history=False) == 1
    report = capfd.readouterr().out
    assert "settings.txt" in report
    assert SECRET not in report


def test_removed_secret_is_found_in_the_history(checkout: Path) -> None:
    secret = checkout / "settings.txt"
    secret.write_text(f"aws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    commit(checkout)
    secret.unlink()
    commit(checkout)
    assert scan(checkout, history=False) == 0
    assert scan(checkout, history=True) == 1
