"""Encrypted models with the real loaders: usable with the key, an error without it."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo import tiny_models
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.models.lockfile import LOCK_FILE
from processor.models.model_lists import LISTS
from tests.processor.models.model_source import record_hashes, served, store_in, visible
from tests.processor.models.models_in_memory import memory_folder
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.upstream_calls import Refusal
from tests.processor.source_files import decoded, noise, write_pcm
from tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow


@pytest.fixture
def memory() -> Iterator[Path]:
    yield from memory_folder()


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture
def encryption(tmp_path: Path, memory: Path) -> dict[str, Any]:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(base64.b64encode(os.urandom(32)))
    return {"key_file": key, "plain_dir": memory}


@dataclass
class Harness:
    upstream_process: ProcessPoolExecutor
    folder: Path
    mixture: Mixture

    def call(self, function: Any, *args: Any, **options: Any) -> Any:
        return self.upstream_process.submit(function, *args, **options).result(90)

    def separate(self, model_dir: Path, model: str, **options: Any) -> list[str]:
        """Separate the song twice and return the hashes of the stems."""
        hashes = []
        for _ in range(2):
            stems, _ = self.call(
                calls.run, model_dir, self.folder, self.mixture, self.folder, model=model, options=options
            )
            assert not isinstance(stems, Refusal), stems
            hashes.append(",".join(stem.sha256 for stem in stems))
        return hashes


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, tmp_path: Path) -> Harness:
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(1.0), subtype="FLOAT")).mixture
    return Harness(upstream_process, tmp_path, mixture)


def decrypted(memory: Path) -> list[str]:
    return [path.name for path in memory.rglob("*") if not path.is_dir()]


def test_downloaded_model_is_encrypted_and_works(
    harness: Harness, tmp_path: Path, source: SourceServer, encryption: dict[str, Any], memory: Path
) -> None:
    """Demucs: audio-separator reads its files for every song, the engine once."""
    origin, plain_dir, sealed_dir = (tmp_path / name for name in ("origin", "plain", "sealed"))
    origin.mkdir()
    name, weights = harness.call(tiny_models.write_demucs, origin)
    contents = {file: (origin / file).read_bytes() for file in (name, weights)}
    for file, content in contents.items():
        source.add(f"/{file}", served(content))
    for folder in (plain_dir, sealed_dir):
        tiny_models.list_demucs(folder, name, weights, source.url(""))
        record_hashes(folder, contents)

    expected = harness.separate(plain_dir, name)
    assert harness.separate(sealed_dir, name, **encryption) == expected

    assert visible(sealed_dir) == sorted([f"{name}.sealed", f"{weights}.sealed", LOCK_FILE, *LISTS])
    assert decrypted(memory) == []


def test_manually_encrypted_model_works(
    harness: Harness, tmp_path: Path, encryption: dict[str, Any], memory: Path
) -> None:
    """MDX23C: in memory once it is loaded."""
    model_dir = tmp_path / "models"
    name = harness.call(tiny_models.write_mdxc, model_dir, ["Vocals", "Instrumental"])
    expected = harness.separate(model_dir, name)
    store = store_in(model_dir, **encryption)
    assert store.seal(name)
    assert store.seal("tiny.yaml")
    assert harness.separate(model_dir, name, **encryption) == expected
    assert decrypted(memory) == []

    refusal = harness.call(calls.load, model_dir, tmp_path, name, plain_dir=memory)
    assert refusal == Refusal(
        ErrorKind.TRANSIENT,
        ErrorCode.MODEL_UNAVAILABLE,
        f"the model {name} is encrypted and cannot be opened here: the log says why",
    )


def test_encrypted_vr_model_is_decrypted_only_for_loading(
    harness: Harness, tmp_path: Path, encryption: dict[str, Any], memory: Path
) -> None:
    model_dir, name = tmp_path / "models", "1band_sr44100_hl1024.pth"
    harness.call(tiny_models.write_vr, model_dir, "1band_sr44100_hl1024")
    expected = harness.separate(model_dir, name)
    store = store_in(model_dir, **encryption)
    assert store.seal(name)
    assert harness.separate(model_dir, name, **encryption) == expected
    store.sealed_path(name).unlink()
    assert harness.separate(model_dir, name, **encryption) == expected
    assert decrypted(memory) == []


def test_missing_model_offline_has_a_clear_error(harness: Harness, tmp_path: Path, source: SourceServer) -> None:
    model_dir = tmp_path / "models"
    tiny_models.list_demucs(model_dir, "tiny.yaml", "tiny.th", source.url(""))
    refusal = harness.call(calls.load, model_dir, tmp_path, "tiny.yaml", offline=True)
    assert refusal == Refusal(
        ErrorKind.TRANSIENT,
        ErrorCode.MODEL_UNAVAILABLE,
        "the model tiny.yaml is not complete in MODEL_FILE_DIR and cannot be downloaded (MODEL_OFFLINE is set): put "
        "its files there, let MODEL_NAME name a model that is there, or allow the download",
    )
    assert source.connections == 0
