"""The store of model files: a file is installed complete and verified, or not at all."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest

from config import ModelSettings
from pipeline.download import UrlGuard
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError, TransientError
from processor.models import ModelDownloads, ModelStore, NotServedError, OfflineError
from processor.models.catalogue import ModelFile
from processor.models.lockfile import LOCK_FILE, Record, record
from tests.processor.models.model_source import SecureSource, record_hashes, served, store_in, visible
from tests.support.durability import recorded_syncs
from tests.support.source_server import SourceServer, announced, answer, redirect, reset_after, sequence

MODEL = bytes(range(256)) * 8192
SHA256 = hashlib.sha256(MODEL).hexdigest()
OTHER = bytes(len(MODEL))


@pytest.fixture(autouse=True)
def _serve(source: SecureSource) -> None:
    source.add("/model.onnx", served(MODEL))


def model_at(source: SourceServer) -> ModelFile:
    return ModelFile("model.onnx", (source.url("/model.onnx"),))


# --- download ---


def test_file_is_downloaded_once(tmp_path: Path, source: SecureSource) -> None:
    for _ in range(2):
        source.store(tmp_path).pull(model_at(source))
    assert (tmp_path / "model.onnx").read_bytes() == MODEL
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", LOCK_FILE]
    assert len(source.requests) == 1


def test_file_and_its_record_are_durable(tmp_path: Path, source: SecureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded_syncs(monkeypatch) as syncs:
        source.store(tmp_path).pull(model_at(source))
        syncs.assert_durable(tmp_path / "model.onnx")
        syncs.assert_durable(tmp_path / LOCK_FILE)


def test_record_is_durable_before_the_file_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded_syncs(monkeypatch) as syncs:
        store_in(tmp_path).lock_file.set("model.onnx", Record(SHA256, len(MODEL), "https://models.test", "2026"))
        syncs.assert_durable(tmp_path / LOCK_FILE)


def test_sealed_file_is_durable_before_the_plain_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_bytes(base64.b64encode(bytes(32)))
    key.chmod(0o600)
    plain = tmp_path / "models" / "model.onnx"
    plain.parent.mkdir()
    plain.write_bytes(MODEL)
    store = store_in(plain.parent, key_file=key)
    unlink = Path.unlink

    def checked(path: Path, *, missing_ok: bool = False) -> None:
        if path == plain:
            syncs.assert_durable(store.sealed_path(plain.name))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", checked)
    with recorded_syncs(monkeypatch) as syncs:
        assert store.seal(plain.name)
        syncs.assert_removal_durable(plain)
    assert not plain.exists()


def test_file_has_the_default_permissions(tmp_path: Path, source: SecureSource) -> None:
    """Model folders are shared between users, while temporary files often are private."""
    (tmp_path / "ordinary").touch()
    source.store(tmp_path).pull(model_at(source))
    for name in ("model.onnx", LOCK_FILE):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("behaviour", [answer(503), reset_after(MODEL, 5000), announced(MODEL, len(MODEL) + 1)])
def test_failed_download_leaves_no_file_and_can_be_retried(
    tmp_path: Path, source: SecureSource, behaviour: object
) -> None:
    source.add("/model.onnx", behaviour)  # type: ignore[arg-type]
    with pytest.raises(TransientError, match=r"the model file model\.onnx cannot be had from https://127"):
        source.store(tmp_path).pull(model_at(source))
    assert visible(tmp_path) == []
    source.add("/model.onnx", served(MODEL))
    source.store(tmp_path).pull(model_at(source))
    assert visible(tmp_path) == ["model.onnx", LOCK_FILE]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusing_address_raises_not_served_error(tmp_path: Path, source: SecureSource, status: int) -> None:
    source.add("/model.onnx", answer(status))
    with pytest.raises(RuntimeError, match=rf"model\.onnx cannot be had from http\S+/model.*{status}") as caught:
        source.store(tmp_path).pull(model_at(source))
    assert isinstance(caught.value, NotServedError)
    assert os.listdir(tmp_path) == []


def test_private_addresses_are_refused(tmp_path: Path, source: SecureSource) -> None:
    store = ModelStore(ModelSettings(model_dir=tmp_path), ModelDownloads(UrlGuard(allow_private=False)))
    with pytest.raises(NotServedError):
        store.pull(model_at(source))
    assert source.connections == 0


def test_missing_folder_is_an_infrastructure_error(tmp_path: Path, source: SecureSource) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(PipelineError) as caught:
        source.store(gone).pull(model_at(source))
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert str(tmp_path) not in caught.value.message
    assert not gone.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_folder_without_locks_is_an_infrastructure_error(
    tmp_path: Path, source: SecureSource, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some network file systems do not support ``flock``. There is no fallback to a lock that outlives its holder."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InfrastructureError, match=os.strerror(number)) as caught:
        source.store(tmp_path).pull(model_at(source))
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert source.connections == 0


# --- several addresses, mirrors, no network ---


def test_addresses_of_a_file_are_tried_in_order(tmp_path: Path, source: SecureSource) -> None:
    file = ModelFile("model.onnx", (source.url("/gone"), source.url("/model.onnx")))
    assert source.store(tmp_path).pull(file)
    assert [request.path for request in source.requests] == ["/gone", "/model.onnx"]


def test_present_file_needs_no_network(tmp_path: Path, source: SecureSource) -> None:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    assert not source.store(tmp_path, offline=True).pull(model_at(source))
    assert sorted(os.listdir(tmp_path)) == ["model.onnx"]
    assert source.connections == 0


def test_missing_file_offline_is_reported_with_its_address(tmp_path: Path, source: SecureSource) -> None:
    with pytest.raises(OfflineError, match=r"model\.onnx is not in MODEL_FILE_DIR.*/model\.onnx: put it there"):
        source.store(tmp_path, offline=True).pull(model_at(source))
    assert source.connections == 0


@pytest.mark.parametrize("mirror_answer", [answer(503), answer(404), answer(200, {}, OTHER), None])
def test_mirror_is_tried_first_and_its_content_verified(
    tmp_path: Path, source: SecureSource, mirror_answer: object
) -> None:
    store = source.store(tmp_path, mirrors=(source.url("/mirror"),))
    store.lock_file.set("model.onnx", record(SHA256, len(MODEL), "elsewhere"))
    source.add("/mirror/model.onnx", mirror_answer or served(MODEL))  # type: ignore[arg-type]

    assert store.pull(model_at(source))

    assert (tmp_path / "model.onnx").read_bytes() == MODEL
    assert "/mirror/model.onnx" in [request.path for request in source.requests]
    expected_source = source.url("/model.onnx") if mirror_answer else source.url("/mirror/model.onnx")
    assert store.lock_file.records()["model.onnx"].source == expected_source


def test_unreachable_mirror_is_skipped(tmp_path: Path, source: SecureSource) -> None:
    with SourceServer() as closed:
        down = closed.url("/mirror")
    store = source.store(tmp_path, mirrors=(down,))
    store.lock_file.set("model.onnx", record(SHA256, len(MODEL), "elsewhere"))
    assert store.pull(model_at(source))


def test_mirror_is_not_used_without_a_known_hash(tmp_path: Path, source: SecureSource) -> None:
    assert source.store(tmp_path, mirrors=(source.url("/mirror"),)).pull(model_at(source))
    assert [request.path for request in source.requests] == ["/model.onnx"]


# --- https ---


def test_plain_http_needs_a_known_hash(tmp_path: Path) -> None:
    with SourceServer() as plain:
        plain.add("/model.onnx", served(MODEL))
        store = store_in(tmp_path)
        with pytest.raises(NotServedError, match=r"model\.onnx is refused from http://127.*only https will do"):
            store.pull(model_at(plain))
        assert plain.connections == 0
        record_hashes(tmp_path, {"model.onnx": MODEL})
        assert store.pull(model_at(plain))
        # An update trusts new content, which only https authenticates.
        with pytest.raises(NotServedError, match="only https will do"):
            store.pull(model_at(plain), update=True)
    assert (tmp_path / "model.onnx").read_bytes() == MODEL


def test_plain_http_with_other_content_than_the_known_one_is_refused(tmp_path: Path) -> None:
    with SourceServer() as plain:
        plain.add("/model.onnx", served(OTHER))
        record_hashes(tmp_path, {"model.onnx": MODEL})
        with pytest.raises(TransientError) as caught:
            store_in(tmp_path).pull(model_at(plain))
    assert caught.value.code is ErrorCode.SOURCE_CORRUPT
    assert visible(tmp_path) == [LOCK_FILE]


@pytest.mark.parametrize("known", [True, False])
def test_redirect_from_https_to_http_is_refused(tmp_path: Path, source: SecureSource, known: bool) -> None:
    if known:
        record_hashes(tmp_path, {"model.onnx": MODEL})
    with SourceServer() as plain:
        plain.add("/model.onnx", served(MODEL))
        source.add("/model.onnx", redirect(plain.url("/model.onnx")))
        with pytest.raises(NotServedError, match="redirects from https to http"):
            source.store(tmp_path).pull(model_at(source))
        assert plain.connections == 0
    assert not (tmp_path / "model.onnx").exists()


# --- trust on first use ---


def test_first_download_is_recorded_and_reported(
    tmp_path: Path, source: SecureSource, capsys: pytest.CaptureFixture[str]
) -> None:
    source.store(tmp_path).pull(model_at(source))
    assert "model_file_trusted" in capsys.readouterr().out
    document = json.loads((tmp_path / LOCK_FILE).read_bytes())
    assert document["version"] == 1
    entry = document["files"]["model.onnx"]
    assert (entry["sha256"], entry["bytes"], entry["source"]) == (SHA256, len(MODEL), source.url("/model.onnx"))


def test_changed_content_is_refused(tmp_path: Path, source: SecureSource, capsys: pytest.CaptureFixture[str]) -> None:
    source.store(tmp_path).pull(model_at(source))
    (tmp_path / "model.onnx").unlink()
    source.add("/model.onnx", served(OTHER))
    with pytest.raises(TransientError, match=r"model\.onnx") as caught:
        source.store(tmp_path).pull(model_at(source))
    assert caught.value.code is ErrorCode.SOURCE_CORRUPT
    assert visible(tmp_path) == [LOCK_FILE]
    assert source.store(tmp_path).expected_sha256("model.onnx") == SHA256
    source.add("/model.onnx", served(MODEL))
    capsys.readouterr()
    assert source.store(tmp_path).pull(model_at(source))
    assert "model_file_trusted" not in capsys.readouterr().out


def test_weights_named_after_their_hash_are_verified(tmp_path: Path, source: SecureSource) -> None:
    for name, fits in ((f"abcd1234-{SHA256[:8]}.th", True), ("abcd1234-00000000.th", False)):
        source.add(f"/{name}", served(MODEL))
        file = ModelFile(name, (source.url(f"/{name}"),))
        if fits:
            assert source.store(tmp_path).pull(file)
            continue
        with pytest.raises(TransientError, match="instead of what its name says"):
            source.store(tmp_path).pull(file)
        assert visible(tmp_path) == [f"abcd1234-{SHA256[:8]}.th", LOCK_FILE]


def test_damaged_lock_file_is_reported_and_kept(tmp_path: Path, source: SecureSource) -> None:
    (tmp_path / LOCK_FILE).write_text('{"version": 1, "files": {"model.onnx": {}}}')
    with pytest.raises(InfrastructureError, match=r"models\.lock\.json in MODEL_FILE_DIR is damaged"):
        source.store(tmp_path).pull(model_at(source))
    assert source.connections == 0
    assert visible(tmp_path) == [LOCK_FILE]


def test_file_can_be_downloaded_again(tmp_path: Path, source: SecureSource) -> None:
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    source.add("/model.onnx", sequence(served(MODEL)))
    assert source.store(tmp_path).pull(model_at(source), again=True)
    assert (tmp_path / "model.onnx").read_bytes() == MODEL


def test_model_that_is_not_allowed_is_refused_for_good(tmp_path: Path) -> None:
    settings = ModelSettings(MODEL_FILE_DIR=tmp_path, MODEL_ALLOW="UVR-MDX-NET-*")
    store = ModelStore(settings, ModelDownloads(UrlGuard(False)))
    store.require_allowed("UVR-MDX-NET-Inst_HQ_4.onnx")
    with pytest.raises(PermanentError, match=r"the model htdemucs\.yaml is not available on this service") as caught:
        store.require_allowed("htdemucs.yaml")
    assert caught.value.code is ErrorCode.MODEL_NOT_ALLOWED
