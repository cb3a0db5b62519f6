"""Every test of this folder runs on every engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.storage import ObjectStore
from tests.conformance.storage.backends import StoreLocation, local_location, s3_location

ENGINES = ["local", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture
def make_location(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], StoreLocation]:
    """Return a function that creates an empty store of an engine."""

    def make(engine: str) -> StoreLocation:
        if engine == "local":
            return local_location(tmp_path / f"store-{uuid4().hex[:8]}")
        return s3_location(request.getfixturevalue("s3_server"))

    return make


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, make_location: Callable[[str], StoreLocation]) -> StoreLocation:
    return make_location(request.param)


@pytest.fixture
def store(location: StoreLocation) -> ObjectStore:
    return location.open()


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that creates a file."""

    def make(content: bytes) -> Path:
        path = tmp_path / f"file-{uuid4().hex[:8]}"
        path.write_bytes(content)
        return path

    return make
