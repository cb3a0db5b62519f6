"""Test that the `.env` of a checkout is completed once, and that its content is kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from config import env_example, load, read_env_file
from devstack.dotenv import complete_env_file

NAMES = ("BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD", "WEBHOOK_SECRET")


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".env"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_file_is_private_and_valid(env_file: Path) -> None:
    complete_env_file(env_file)
    assert mode(env_file) == 0o600
    assert tuple(read_env_file(env_file, {})) == NAMES
    assert load(env_file, {}).webhook.secret is not None


def test_every_file_has_different_secrets(env_file: Path, tmp_path: Path) -> None:
    complete_env_file(env_file)
    complete_env_file(tmp_path / "other")
    for name in ("BASIC_AUTH_PASSWORD", "WEBHOOK_SECRET"):
        assert read_env_file(env_file, {})[name] != read_env_file(tmp_path / "other", {})[name]


def test_second_run_changes_nothing(env_file: Path) -> None:
    complete_env_file(env_file)
    before = env_file.read_bytes()
    complete_env_file(env_file)
    assert env_file.read_bytes() == before


def test_existing_content_is_kept(env_file: Path) -> None:
    own = "# mine\nBASIC_AUTH_USERNAME=me\nMODEL_NAME=other.onnx"  # and no line break at the end
    env_file.write_text(own)
    env_file.chmod(0o644)
    complete_env_file(env_file)
    values = read_env_file(env_file, {})
    assert env_file.read_text().startswith(f"{own}\n")
    assert (values["BASIC_AUTH_USERNAME"], values["MODEL_NAME"], "MODEL_FILE_DIR" in values) == (
        "me",
        "other.onnx",
        False,
    )
    assert values["BASIC_AUTH_PASSWORD"]
    assert mode(env_file) == 0o600


def test_variables_of_the_environment_are_not_written(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIC_AUTH_PASSWORD", "from outside")
    monkeypatch.setenv("WEBHOOK_SECRET", "")  # empty: not set
    complete_env_file(env_file)
    assert "BASIC_AUTH_PASSWORD" not in read_env_file(env_file, {})
    assert read_env_file(env_file, {})["WEBHOOK_SECRET"]


def test_secrets_that_are_read_from_files_are_not_written(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text("BASIC_AUTH_USERNAME=me\nBASIC_AUTH_PASSWORD_FILE=password\n")
    monkeypatch.setenv("WEBHOOK_SECRET_FILE", "secret")
    complete_env_file(env_file)
    assert read_env_file(env_file, {}).keys() & {"BASIC_AUTH_PASSWORD", "WEBHOOK_SECRET"} == set()


def test_a_copy_of_the_example_is_completed(env_file: Path) -> None:
    env_file.write_text(env_example(), encoding="utf-8")
    complete_env_file(env_file)
    settings = load(env_file, {})
    assert settings.api.require_credentials()[0] == "uvr"
    assert settings.webhook.secret is not None
