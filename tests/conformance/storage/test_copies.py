"""Tests of copies between stores, in all four directions and within one store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, PermanentError
from pipeline.storage import ObjectStore, StoredObject
from tests.conformance.storage.backends import StoreLocation
from tests.conformance.storage.test_promises import KEY, LARGE, MakeFile, put, read

COPY = "6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11_vocals.wav"
MakeLocation = Callable[[str], StoreLocation]

DIRECTIONS = [
    ("local", "local"),
    pytest.param(("local", "s3"), marks=pytest.mark.s3),
    pytest.param(("s3", "local"), marks=pytest.mark.s3),
    pytest.param(("s3", "s3"), marks=pytest.mark.s3),
]


@pytest.fixture(params=DIRECTIONS, ids=lambda pair: "-to-".join(pair))
def pair(request: pytest.FixtureRequest, make_location: MakeLocation) -> tuple[ObjectStore, ObjectStore]:
    source, target = request.param
    return make_location(source).open(), make_location(target).open()


@pytest.mark.parametrize("content", [b"", b"stem", LARGE], ids=["empty", "small", "large"])
def test_object_is_copied_between_stores(
    pair: tuple[ObjectStore, ObjectStore], make_file: MakeFile, tmp_path: Path, content: bytes
) -> None:
    source, target = pair
    put(source, make_file, content)

    stored = target.copy_from(source, KEY, COPY, content_type="audio/wav")

    assert stored == StoredObject(COPY, len(content))
    assert read(target, tmp_path / "copy", COPY) == content
    assert read(source, tmp_path / "original") == content


def test_copy_outlives_its_original(pair: tuple[ObjectStore, ObjectStore], make_file: MakeFile, tmp_path: Path) -> None:
    source, target = pair
    put(source, make_file, b"the first")
    target.copy_from(source, KEY, COPY, content_type="audio/wav")
    put(source, make_file, b"its successor")
    assert read(target, tmp_path / "copy", COPY) == b"the first"
    source.delete(KEY)
    assert read(target, tmp_path / "copy", COPY) == b"the first"


def test_copying_again_replaces_the_object(
    pair: tuple[ObjectStore, ObjectStore], make_file: MakeFile, tmp_path: Path
) -> None:
    source, target = pair
    put(target, make_file, b"previous content", COPY)
    put(source, make_file, b"stem")
    for _ in range(2):
        target.copy_from(source, KEY, COPY, content_type="audio/wav")
        assert read(target, tmp_path / "copy", COPY) == b"stem"


def test_missing_original_is_an_error_and_changes_nothing(
    pair: tuple[ObjectStore, ObjectStore], make_file: MakeFile, tmp_path: Path
) -> None:
    source, target = pair
    put(target, make_file, b"previous content", COPY)
    with pytest.raises(PermanentError) as caught:
        target.copy_from(source, KEY, COPY, content_type="audio/wav")
    assert caught.value.code is ErrorCode.OBJECT_MISSING
    assert read(target, tmp_path / "copy", COPY) == b"previous content"


def test_copy_within_one_store(store: ObjectStore, make_file: MakeFile, tmp_path: Path) -> None:
    put(store, make_file, b"stem")
    store.copy_from(store, KEY, COPY, content_type="audio/wav")
    store.copy_from(store, KEY, KEY, content_type="audio/wav")
    assert read(store, tmp_path / "copy", COPY) == read(store, tmp_path / "same") == b"stem"
