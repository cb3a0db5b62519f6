"""Read the files under test once."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import SECTIONS
from tests.deploy.compose import ComposeFile
from tests.deploy.dockerfile import Dockerfile

ROOT = Path(__file__).resolve().parents[2]

#: Variables without a default in docker-compose.yml.
REQUIRED = {
    "BASIC_AUTH_USERNAME": "listener",
    "BASIC_AUTH_PASSWORD": "not-a-real-password",
    "AWS_ACCESS_KEY_ID": "uvr",
    "AWS_SECRET_ACCESS_KEY": "not-a-real-secret-either",
}
SETTINGS = {str(field.alias): field for section in SECTIONS for field in section.model_fields.values()}


@pytest.fixture(scope="session")
def dockerfile() -> Dockerfile:
    return Dockerfile.read(ROOT / "Dockerfile")


@pytest.fixture(scope="session")
def compose() -> ComposeFile:
    return ComposeFile(ROOT / "docker-compose.yml")
