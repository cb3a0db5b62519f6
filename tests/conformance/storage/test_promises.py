"""Tests of the guarantees of every object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.storage import ObjectStore, StoredObject
from tests.conformance.storage.backends import StoreLocation

MakeFile = Callable[[bytes], Path]
KEY = "handoff/6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11/vocals.wav"

#: Larger than one part of a multipart upload.
LARGE = bytes(range(256)) * (40 * 4096)

INVALID_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "../secrets",
    "a/../b",
    "a/..",
    "..",
    ".",
    "a/./b",
    "a//b",
    "a/",
    "a..b",
    "a\\b",
    "a b",
    "a\nb",
    "a\0b",
    "a%2e%2e",
    "~root",
    "C:x",
    "gesang_ä.wav",
    "歌声.wav",
    "\ud800",
    "a?b",
    "a#b",
    "drafts~/x",
    "x" * 201,
    "/".join(["x" * 200] * 6),
]


def put(store: ObjectStore, make_file: MakeFile, content: bytes, key: str = KEY) -> StoredObject:
    return store.put(key, make_file(content), content_type="audio/wav")


def read(store: ObjectStore, target: Path, key: str = KEY) -> bytes:
    store.get(key, target)
    return target.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\0", b"RIFF" * 1000, LARGE], ids=["empty", "byte", "small", "large"])
def test_put_and_get(location: StoreLocation, make_file: MakeFile, tmp_path: Path, content: bytes) -> None:
    stored = put(location.open(), make_file, content)

    other = location.open()
    assert stored == StoredObject(KEY, len(content))
    assert other.stat(KEY) == stored
    assert read(other, tmp_path / "got") == content


@pytest.mark.parametrize("key", ["a", "a.b-c_D.9", "a/b", "x" * 200, "-/_/.x"])
def test_valid_keys_are_accepted(store: ObjectStore, make_file: MakeFile, tmp_path: Path, key: str) -> None:
    put(store, make_file, b"stem", key)
    assert read(store, tmp_path / "got", key) == b"stem"


@pytest.mark.parametrize("key", INVALID_KEYS, ids=ascii)
def test_invalid_keys_are_refused_by_every_method(
    store: ObjectStore, make_file: MakeFile, tmp_path: Path, key: str
) -> None:
    target = tmp_path / "target"
    calls: list[Callable[[], object]] = [
        lambda: put(store, make_file, b"stem", key),
        lambda: store.get(key, target),
        lambda: store.put_new(key, b"stem", content_type="audio/wav"),
        lambda: store.read(key),
        lambda: store.stat(key),
        lambda: store.copy_from(store, KEY, key, content_type="audio/wav"),
        lambda: store.copy_from(store, key, KEY, content_type="audio/wav"),
        lambda: store.url(key),
        lambda: store.delete(key),
    ]
    put(store, make_file, b"stem")
    for call in calls:
        with pytest.raises(PermanentError) as caught:
            call()
        assert caught.value.code is ErrorCode.STORAGE_REFUSED
    assert not target.exists()


@pytest.mark.parametrize("content", [b"shorter", b"much longer than the previous content"])
def test_object_is_replaced(store: ObjectStore, make_file: MakeFile, tmp_path: Path, content: bytes) -> None:
    put(store, make_file, b"previous content")
    put(store, make_file, content)
    assert store.stat(KEY) == StoredObject(KEY, len(content))
    assert read(store, tmp_path / "got") == content


def test_source_file_is_kept_and_not_shared(store: ObjectStore, make_file: MakeFile, tmp_path: Path) -> None:
    source = make_file(b"stem")
    store.put(KEY, source, content_type="audio/wav")
    source.write_bytes(b"something else")
    assert read(store, tmp_path / "got") == b"stem"


def test_downloaded_file_is_not_shared(store: ObjectStore, make_file: MakeFile, tmp_path: Path) -> None:
    put(store, make_file, b"stem")
    store.get(KEY, tmp_path / "first")
    (tmp_path / "first").write_bytes(b"changed")
    assert read(store, tmp_path / "second") == b"stem"


def test_missing_object_is_an_error(store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"previous content")
    with pytest.raises(PermanentError) as caught:
        store.get(KEY, target)
    assert caught.value.code is ErrorCode.OBJECT_MISSING
    assert target.read_bytes() == b"previous content"
    assert store.stat(KEY) is None
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_unusable_local_files_are_infrastructure_errors(
    store: ObjectStore, make_file: MakeFile, tmp_path: Path
) -> None:
    put(store, make_file, b"stem")
    with pytest.raises(InfrastructureError):
        store.get(KEY, tmp_path / "no-such-folder" / "target")
    with pytest.raises(InfrastructureError):
        store.put(KEY, tmp_path / "no-such-file", content_type="audio/wav")
    assert read(store, tmp_path / "got") == b"stem"


def test_parent_of_an_object_is_not_an_object(store: ObjectStore, make_file: MakeFile) -> None:
    put(store, make_file, b"stem")
    assert store.stat("handoff") is None


def test_delete_removes_one_object(store: ObjectStore, make_file: MakeFile, tmp_path: Path) -> None:
    neighbour = KEY.replace("vocals", "instrumental")
    put(store, make_file, b"vocals")
    put(store, make_file, b"instrumental", neighbour)
    store.delete(KEY)
    assert store.stat(KEY) is None
    assert read(store, tmp_path / "got", neighbour) == b"instrumental"


def test_deleting_a_missing_object_is_not_an_error(store: ObjectStore, make_file: MakeFile) -> None:
    store.delete(KEY)
    put(store, make_file, b"stem")
    store.delete(KEY)
    store.delete(KEY)
    store.delete("handoff")
    put(store, make_file, b"stem")
    assert store.stat(KEY) == StoredObject(KEY, 4)


def test_check_leaves_nothing_behind(store: ObjectStore) -> None:
    store.check()
    store.check()
