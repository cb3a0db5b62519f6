"""Every test of this folder runs on every engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.storage import ObjectStore
from tests.conformance.storage.backends import Place, local_place, s3_place

ENGINES = ["local", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture
def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """A new, empty place of the engine that is named."""

    def make(engine: str) -> Place:
        if engine == "local":
            return local_place(tmp_path / f"store-{uuid4().hex[:8]}")
        return s3_place(request.getfixturevalue("s3_server"))

    return make


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, make_place: Callable[[str], Place]) -> Place:
    return make_place(request.param)


@pytest.fixture
def store(place: Place) -> ObjectStore:
    return place.open()


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[bytes], Path]:
    """A file to put."""

    def make(content: bytes) -> Path:
        path = tmp_path / f"file-{uuid4().hex[:8]}"
        path.write_bytes(content)
        return path

    return make
