"""Tests specific to the local engine; the conformance suite covers the guarantees of every store."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import local_errors
from pipeline.storage.local.store import LocalStore
from pipeline.storage.signed_links import LinkSigner

SIGNER = LinkSigner(b"k" * 32)
KEY = "handoff/task/vocals.wav"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"stem")
    return path


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_root_is_created_by_the_first_put(root: Path, store: LocalStore, tmp_path: Path) -> None:
    assert store.stat(KEY) is None
    store.delete(KEY)
    for call in (lambda: store.get(KEY, tmp_path / "target"), lambda: store.read(KEY)):
        with pytest.raises(PermanentError):
            call()
    assert not root.exists()


def test_no_drafts_remain(root: Path, store: LocalStore, file: Path, tmp_path: Path) -> None:
    store.put(KEY, file, content_type="audio/wav")
    store.put(KEY, file, content_type="audio/wav")
    store.copy_from(store, KEY, "copy.wav", content_type="audio/wav")
    store.copy_from(store, KEY, "copy.wav", content_type="audio/wav")
    for content in (b"first", b"second"):
        store.put_new("outcome.json", content, content_type="application/json")
    store.check()
    with pytest.raises(InfrastructureError):
        store.put("other.wav", tmp_path / "missing", content_type="audio/wav")
    assert tree(root) == {KEY, "copy.wav", "outcome.json"}


def test_copy_within_a_file_system_is_a_hard_link(root: Path, store: LocalStore, file: Path) -> None:
    store.put(KEY, file, content_type="audio/wav")
    LocalStore(root.parent / "other").copy_from(store, KEY, "copy.wav", content_type="audio/wav")
    assert (root / KEY).samefile(root.parent / "other" / "copy.wav")


def test_deleting_prunes_empty_folders_but_not_the_root(root: Path, store: LocalStore, file: Path) -> None:
    store.put(KEY, file, content_type="audio/wav")
    store.put("handoff/other/vocals.wav", file, content_type="audio/wav")
    store.delete(KEY)
    assert not (root / "handoff" / "task").exists()
    store.delete("handoff/other/vocals.wav")
    assert not (root / "handoff").exists()
    assert root.is_dir()


def test_only_stale_drafts_are_removed(root: Path, store: LocalStore, file: Path) -> None:
    drafts = root / "drafts~"
    drafts.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86400
    (drafts / "stale").write_bytes(b"half")
    os.utime(drafts / "stale", (two_days_ago, two_days_ago))
    (drafts / "being-written").write_bytes(b"half")
    store.put(KEY, file, content_type="audio/wav")
    assert tree(root) == {KEY, "drafts~/being-written"}


def test_key_that_is_a_folder_is_refused(store: LocalStore, file: Path) -> None:
    store.put("a/b", file, content_type="audio/wav")
    for key in ("a", "a/b/c"):
        for call in (
            lambda key=key: store.put(key, file, content_type="audio/wav"),
            lambda key=key: store.put_new(key, b"stem", content_type="audio/wav"),
        ):
            with pytest.raises(PermanentError) as caught:
                call()
            assert caught.value.code is ErrorCode.STORAGE_REFUSED
        assert store.stat(key) is None


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP])
def test_put_new_keeps_the_first_content_without_hard_links(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def no_link(source: Path, target: Path) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", no_link)
    for content in (b"first", b"second"):
        assert store.put_new("outcome.json", content, content_type="application/json") == b"first"
    assert tree(root) == {"outcome.json"}


def test_other_hard_link_errors_are_infrastructure_errors(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(InfrastructureError) as caught:
        store.put_new("outcome.json", b"first", content_type="application/json")
    assert caught.value.code is ErrorCode.DISK_FULL
    assert store.stat("outcome.json") is None


def test_unusable_root_is_an_infrastructure_error(tmp_path: Path, file: Path) -> None:
    store = LocalStore(file / "below-a-file")
    for call in (
        store.check,
        lambda: store.put(KEY, file, content_type="audio/wav"),
        lambda: store.put_new(KEY, b"stem", content_type="audio/wav"),
    ):
        with pytest.raises(InfrastructureError) as caught:
            call()
        assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
        assert str(tmp_path) not in caught.value.message


def test_full_disk_has_its_own_code() -> None:
    with pytest.raises(InfrastructureError) as caught, local_errors(), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"stem")
    assert caught.value.code is ErrorCode.DISK_FULL


def test_link_is_signed_and_expires(root: Path) -> None:
    before = int(time.time())
    url = LocalStore(root, "https://stems.example.com/", SIGNER, ttl=3600).url("task_vocals.wav")
    parts = urlsplit(url)
    query = parse_qs(parts.query, strict_parsing=True)
    expires = int(query["expires"][0])
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "stems.example.com", "/files/task_vocals.wav")
    assert before + 3600 <= expires <= time.time() + 3600
    assert SIGNER.verify("task_vocals.wav", expires, query["signature"][0], now=expires - 1)


def test_store_without_a_signer_has_no_links(store: LocalStore) -> None:
    with pytest.raises(PermanentError, match="serves no links"):
        store.url("task_vocals.wav")
