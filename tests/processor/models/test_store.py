"""The store of model files: a file appears whole or not at all, and is what it has to be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.download import UrlGuard
from pipeline.errors import ErrorCode, InfrastructureError, PipelineError, TransientError
from processor.models import ModelDownloads, ModelStore, NotServedError, OfflineError
from processor.models.catalogue import ModelFile
from processor.models.lockfile import LOCK_FILE, record
from tests.processor.models.model_source import served, store_in, visible
from tests.support.source_server import SourceServer, announced, answer, reset_after, sequence

MODEL = bytes(range(256)) * 8192
SHA256 = hashlib.sha256(MODEL).hexdigest()
OTHER = bytes(len(MODEL))


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        server.add("/model.onnx", served(MODEL))
        yield server


def model_at(source: SourceServer) -> ModelFile:
    return ModelFile("model.onnx", (source.url("/model.onnx"),))


# --- for audio-separator ---


def test_a_file_is_fetched_once(tmp_path: Path, source: SourceServer) -> None:
    for _ in range(2):
        store_in(tmp_path).fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"))
    assert (tmp_path / "model.onnx").read_bytes() == MODEL
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", LOCK_FILE]
    assert len(source.requests) == 1


def test_a_file_may_be_read_by_others_as_any_new_file(tmp_path: Path, source: SourceServer) -> None:
    """Model folders are shared between users; drafts often are for their owner alone."""
    (tmp_path / "ordinary").touch()
    store_in(tmp_path).fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"))
    for name in ("model.onnx", LOCK_FILE):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("behaviour", [answer(503), reset_after(MODEL, 5000), announced(MODEL, len(MODEL) + 1)])
def test_after_a_failure_nothing_is_there_and_the_next_try_works(
    tmp_path: Path, source: SourceServer, behaviour: object
) -> None:
    source.add("/model.onnx", behaviour)  # type: ignore[arg-type]
    target = str(tmp_path / "model.onnx")
    with pytest.raises(TransientError, match=r"the model file model\.onnx cannot be had from http://127"):
        store_in(tmp_path).fetch(source.url("/model.onnx"), target)
    assert visible(tmp_path) == []
    source.add("/model.onnx", served(MODEL))
    store_in(tmp_path).fetch(source.url("/model.onnx"), target)
    assert visible(tmp_path) == ["model.onnx", LOCK_FILE]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_without_the_file_lets_the_library_try_another(
    tmp_path: Path, source: SourceServer, status: int
) -> None:
    source.add("/model.onnx", answer(status))
    with pytest.raises(RuntimeError, match=rf"model\.onnx cannot be had from http\S+/model.*{status}") as caught:
        store_in(tmp_path).fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"))
    assert isinstance(caught.value, NotServedError)
    assert os.listdir(tmp_path) == []


def test_lists_of_models_do_not_open_our_network(tmp_path: Path, source: SourceServer) -> None:
    store = ModelStore(tmp_path, ModelDownloads(UrlGuard(allow_private=False)))
    with pytest.raises(NotServedError):
        store.fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"))
    assert source.connections == 0


def test_a_folder_that_is_gone_is_our_own_trouble(tmp_path: Path, source: SourceServer) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(PipelineError) as caught:
        store_in(gone).fetch(source.url("/model.onnx"), str(gone / "model.onnx"))
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert str(tmp_path) not in caught.value.message
    assert not gone.exists()


# --- several addresses, mirrors, no network ---


def test_the_addresses_of_a_file_are_tried_in_turn(tmp_path: Path, source: SourceServer) -> None:
    file = ModelFile("model.onnx", (source.url("/gone"), source.url("/model.onnx")))
    assert store_in(tmp_path).pull(file)
    assert [request.path for request in source.requests] == ["/gone", "/model.onnx"]


def test_a_file_that_is_there_needs_no_network(tmp_path: Path, source: SourceServer) -> None:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    assert not store_in(tmp_path, offline=True).pull(model_at(source))
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]
    assert source.connections == 0


def test_offline_a_file_that_is_missing_is_told_with_its_address(tmp_path: Path, source: SourceServer) -> None:
    with pytest.raises(OfflineError, match=r"model\.onnx is not in MODEL_FILE_DIR.*/model\.onnx: put it there"):
        store_in(tmp_path, offline=True).pull(model_at(source))
    assert source.connections == 0


@pytest.mark.parametrize("elsewhere", [answer(503), answer(404), answer(200, {}, OTHER), None])
def test_a_mirror_is_asked_first_and_believed_only_if_it_has_the_very_file(
    tmp_path: Path, source: SourceServer, elsewhere: object
) -> None:
    store = store_in(tmp_path, mirrors=(source.url("/mirror"),))
    store.lock_file.set("model.onnx", record(SHA256, len(MODEL), "elsewhere"))
    source.add("/mirror/model.onnx", elsewhere or served(MODEL))  # type: ignore[arg-type]

    assert store.pull(model_at(source))

    assert (tmp_path / "model.onnx").read_bytes() == MODEL
    assert "/mirror/model.onnx" in [request.path for request in source.requests]
    delivered = source.url("/model.onnx") if elsewhere else source.url("/mirror/model.onnx")
    assert store.lock_file.records()["model.onnx"].source == delivered


def test_a_mirror_that_is_down_stops_nobody(tmp_path: Path, source: SourceServer) -> None:
    with SourceServer() as closed:
        down = closed.url("/mirror")
    store = store_in(tmp_path, mirrors=(down,))
    store.lock_file.set("model.onnx", record(SHA256, len(MODEL), "elsewhere"))
    assert store.pull(model_at(source))


def test_nobody_asks_a_mirror_for_a_file_that_could_be_anything(tmp_path: Path, source: SourceServer) -> None:
    assert store_in(tmp_path, mirrors=(source.url("/mirror"),)).pull(model_at(source))
    assert [request.path for request in source.requests] == ["/model.onnx"]


# --- trust on first use ---


def test_what_came_first_is_recorded(tmp_path: Path, source: SourceServer) -> None:
    store_in(tmp_path).pull(model_at(source))
    document = json.loads((tmp_path / LOCK_FILE).read_bytes())
    assert document["version"] == 1
    entry = document["files"]["model.onnx"]
    assert (entry["sha256"], entry["bytes"], entry["source"]) == (SHA256, len(MODEL), source.url("/model.onnx"))


def test_a_name_that_has_other_content_than_before_is_refused(tmp_path: Path, source: SourceServer) -> None:
    store_in(tmp_path).pull(model_at(source))
    (tmp_path / "model.onnx").unlink()
    source.add("/model.onnx", served(OTHER))
    with pytest.raises(TransientError, match=r"model\.onnx") as caught:
        store_in(tmp_path).pull(model_at(source))
    assert caught.value.code is ErrorCode.SOURCE_CORRUPT
    assert visible(tmp_path) == [LOCK_FILE]
    assert store_in(tmp_path).expected_sha256("model.onnx") == SHA256


def test_weights_that_are_named_after_their_hash_have_it(tmp_path: Path, source: SourceServer) -> None:
    for name, fits in ((f"abcd1234-{SHA256[:8]}.th", True), ("abcd1234-00000000.th", False)):
        source.add(f"/{name}", served(MODEL))
        file = ModelFile(name, (source.url(f"/{name}"),))
        if fits:
            assert store_in(tmp_path).pull(file)
            continue
        with pytest.raises(TransientError, match="instead of what its name says"):
            store_in(tmp_path).pull(file)
        assert visible(tmp_path) == [f"abcd1234-{SHA256[:8]}.th", LOCK_FILE]


def test_a_damaged_lock_file_is_told_and_kept(tmp_path: Path, source: SourceServer) -> None:
    (tmp_path / LOCK_FILE).write_text('{"version": 1, "files": {"model.onnx": {}}}')
    with pytest.raises(InfrastructureError, match=r"models\.lock\.json in MODEL_FILE_DIR is damaged"):
        store_in(tmp_path).pull(model_at(source))
    assert source.connections == 0
    assert visible(tmp_path) == [LOCK_FILE]


def test_a_file_can_be_fetched_again(tmp_path: Path, source: SourceServer) -> None:
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    source.add("/model.onnx", sequence(served(MODEL)))
    assert store_in(tmp_path).pull(model_at(source), again=True)
    assert (tmp_path / "model.onnx").read_bytes() == MODEL
