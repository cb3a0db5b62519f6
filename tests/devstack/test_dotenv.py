"""The `.env` of a checkout gets what it lacks, once, and keeps what it has."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from config import WebhookSettings
from devstack.dotenv import complete_env_file

MODELS = Path("demo-models")
NAMES = ("BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD", "WEBHOOK_SECRET", "MODEL_NAME", "MODEL_FILE_DIR")


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".env"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_for_its_owner_alone(env_file: Path) -> None:
    complete_env_file(env_file, MODELS)
    assert mode(env_file) == 0o600
    assert tuple(dotenv_values(env_file)) == NAMES
    assert WebhookSettings(_env_file=env_file).secret is not None


def test_every_file_has_secrets_of_its_own(env_file: Path, tmp_path: Path) -> None:
    complete_env_file(env_file, MODELS)
    complete_env_file(tmp_path / "other", MODELS)
    for name in ("BASIC_AUTH_PASSWORD", "WEBHOOK_SECRET"):
        assert dotenv_values(env_file)[name] != dotenv_values(tmp_path / "other")[name]


def test_a_second_time_changes_nothing(env_file: Path) -> None:
    complete_env_file(env_file, MODELS)
    before = env_file.read_bytes()
    complete_env_file(env_file, MODELS)
    assert env_file.read_bytes() == before


def test_what_is_there_stays(env_file: Path) -> None:
    own = "# mine\nBASIC_AUTH_USERNAME=me\nMODEL_NAME=other.onnx"  # and no line break at the end
    env_file.write_text(own)
    env_file.chmod(0o644)
    complete_env_file(env_file, MODELS)
    held = dotenv_values(env_file)
    assert env_file.read_text().startswith(f"{own}\n")
    assert (held["BASIC_AUTH_USERNAME"], held["MODEL_NAME"], "MODEL_FILE_DIR" in held) == ("me", "other.onnx", False)
    assert held["BASIC_AUTH_PASSWORD"]
    assert mode(env_file) == 0o600


def test_what_the_environment_has_is_not_written(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIC_AUTH_PASSWORD", "from outside")
    monkeypatch.setenv("WEBHOOK_SECRET", "")  # empty: not set
    complete_env_file(env_file, MODELS)
    assert "BASIC_AUTH_PASSWORD" not in dotenv_values(env_file)
    assert dotenv_values(env_file)["WEBHOOK_SECRET"]
