"""Provide the folder of fetched tools. It is in the checkout, so that a second run of the suite fetches nothing."""

from pathlib import Path

import pytest

from devstack.tools.cache import tools_folder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tools_dir() -> Path:
    return tools_folder(REPOSITORY / ".local" / "tools")
