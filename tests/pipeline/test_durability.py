"""What must survive a power failure is synced, in the right order: files before their names, folders after them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.download.part_file import PartFile
from pipeline.storage.local.store import LocalStore
from pipeline.storage.signed_links import load_or_create_key
from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Message
from tests.support.durability import SyncLog, recorded_syncs


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncLog]:
    with recorded_syncs(monkeypatch) as log:
        yield log


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that does not exist yet, in one that does not exist yet either."""
    return tmp_path / "new" / "data"


def put(store: LocalStore, key: str, folder: Path) -> None:
    (folder / "source").write_bytes(b"stem")
    store.put(key, folder / "source", content_type="audio/flac")


def test_stored_object_is_durable(root: Path, tmp_path: Path, syncs: SyncLog) -> None:
    put(LocalStore(root), "task/song/vocals.flac", tmp_path)
    syncs.assert_durable(root / "task" / "song" / "vocals.flac")


def test_first_outcome_is_durable(root: Path, syncs: SyncLog) -> None:
    LocalStore(root).put_new("task/outcome.json", b"{}", content_type="application/json")
    syncs.assert_durable(root / "task" / "outcome.json")


def test_first_outcome_is_durable_without_hard_links(
    root: Path, syncs: SyncLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", link)
    LocalStore(root).put_new("task/outcome.json", b"{}", content_type="application/json")
    syncs.assert_durable(root / "task" / "outcome.json")


def test_outcome_of_a_writer_that_died_is_durable_once_it_is_read(root: Path, syncs: SyncLog) -> None:
    store = LocalStore(root)
    store.put_new("task/outcome.json", b"{}", content_type="application/json")
    outcome = root / "task" / "outcome.json"
    outcome.rename(root / "task" / "draft")
    os.replace(root / "task" / "draft", outcome)  # its folder was not synced any more
    store.read("task/outcome.json")
    syncs.assert_durable(outcome)


def test_copied_object_is_durable(root: Path, tmp_path: Path, syncs: SyncLog) -> None:
    source = LocalStore(tmp_path / "handoff")
    put(source, "task/vocals.flac", tmp_path)
    LocalStore(root).copy_from(source, "task/vocals.flac", "stems/task/vocals.flac", content_type="audio/flac")
    syncs.assert_durable(root / "stems" / "task" / "vocals.flac")


def test_key_of_the_links_is_durable(root: Path, syncs: SyncLog) -> None:
    load_or_create_key(root / "links.key")
    syncs.assert_durable(root / "links.key")


def test_download_is_durable_if_asked(tmp_path: Path, syncs: SyncLog) -> None:
    target = tmp_path / "model.onnx"
    part = PartFile(target, 4)
    part.write(0, memoryview(b"data"))
    part.commit(durable=True)
    syncs.assert_durable(target)


def test_folder_of_the_embedded_broker_is_durable(root: Path, syncs: SyncLog) -> None:
    """SQLite syncs the file and its folder, but not the folder's parents."""
    with closing(EmbeddedTransport(root / "broker.sqlite")) as transport:
        transport.publish(Message("jobs", "k", b""))
        syncs.assert_folder_durable(root)


def test_new_folder_of_the_embedded_broker_is_durable(root: Path, syncs: SyncLog) -> None:
    with closing(EmbeddedTransport(root / "broker.sqlite")) as transport:
        shutil.rmtree(root.parent)
        syncs.forget()
        transport.publish(Message("jobs", "k", b""))
        syncs.assert_folder_durable(root)
