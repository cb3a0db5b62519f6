"""Sealed models through the real loaders: with the key as if they were plain, without it not at all."""

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
from tests.processor.models.model_source import served, store_in, visible
from tests.processor.models.models_in_memory import memory_folder
from tests.processor.separation import upstream as experiments
from tests.processor.separation.upstream import Refusal
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
def sealing(tmp_path: Path, memory: Path) -> dict[str, Any]:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(base64.b64encode(os.urandom(32)))
    return {"key_file": key, "plain_dir": memory}


@dataclass
class Laboratory:
    library: ProcessPoolExecutor
    folder: Path
    mixture: Mixture

    def call(self, experiment: Any, *args: Any, **options: Any) -> Any:
        return self.library.submit(experiment, *args, **options).result(90)

    def separate(self, model_dir: Path, model: str, **options: Any) -> list[str]:
        """The hashes of the stems of two songs, one after the other."""
        hashes = []
        for _ in range(2):
            stems, _ = self.call(
                experiments.run, model_dir, self.folder, self.mixture, self.folder, model=model, options=options
            )
            assert not isinstance(stems, Refusal), stems
            hashes.append(",".join(stem.sha256 for stem in stems))
        return hashes


@pytest.fixture
def laboratory(library: ProcessPoolExecutor, tmp_path: Path) -> Laboratory:
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(1.0), subtype="FLOAT")).mixture
    return Laboratory(library, tmp_path, mixture)


def decrypted(memory: Path) -> list[str]:
    return [path.name for path in memory.rglob("*") if not path.is_dir()]


def test_a_model_that_comes_is_sealed_and_works(
    laboratory: Laboratory, tmp_path: Path, source: SourceServer, sealing: dict[str, Any], memory: Path
) -> None:
    """Demucs, whose files the library reads at every song, and we once."""
    origin, plain_dir, sealed_dir = (tmp_path / name for name in ("origin", "plain", "sealed"))
    origin.mkdir()
    name, weights = laboratory.call(tiny_models.write_demucs, origin)
    for file in (name, weights):
        source.add(f"/{file}", served((origin / file).read_bytes()))
    for folder in (plain_dir, sealed_dir):
        tiny_models.list_demucs(folder, name, weights, source.url(""))

    expected = laboratory.separate(plain_dir, name)
    assert laboratory.separate(sealed_dir, name, **sealing) == expected

    assert visible(sealed_dir) == sorted([f"{name}.sealed", f"{weights}.sealed", LOCK_FILE, *LISTS])
    assert decrypted(memory) == []


def test_a_model_that_was_sealed_by_hand_works(
    laboratory: Laboratory, tmp_path: Path, sealing: dict[str, Any], memory: Path
) -> None:
    """MDX23C, which is in memory once it is loaded."""
    model_dir = tmp_path / "models"
    name = laboratory.call(tiny_models.write_mdxc, model_dir, ["Vocals", "Instrumental"])
    expected = laboratory.separate(model_dir, name)
    store = store_in(model_dir, **sealing)
    assert store.seal(name)
    assert store.seal("tiny.yaml")
    assert laboratory.separate(model_dir, name, **sealing) == expected
    assert decrypted(memory) == []

    refusal = laboratory.call(experiments.load, model_dir, tmp_path, name, plain_dir=memory)
    assert refusal == Refusal(
        ErrorKind.TRANSIENT,
        ErrorCode.MODEL_UNAVAILABLE,
        f"the model {name} is encrypted and cannot be opened here: the log says why",
    )


def test_a_sealed_model_of_vr_is_opened_only_when_it_is_loaded(
    laboratory: Laboratory, tmp_path: Path, sealing: dict[str, Any], memory: Path
) -> None:
    model_dir, name = tmp_path / "models", "1band_sr44100_hl1024.pth"
    laboratory.call(tiny_models.write_vr, model_dir, "1band_sr44100_hl1024")
    expected = laboratory.separate(model_dir, name)
    store = store_in(model_dir, **sealing)
    assert store.seal(name)
    assert laboratory.separate(model_dir, name, **sealing) == expected
    store.sealed_path(name).unlink()
    assert laboratory.separate(model_dir, name, **sealing) == expected
    assert decrypted(memory) == []


def test_offline_a_missing_model_is_told_in_one_sentence(
    laboratory: Laboratory, tmp_path: Path, source: SourceServer
) -> None:
    model_dir = tmp_path / "models"
    tiny_models.list_demucs(model_dir, "tiny.yaml", "tiny.th", source.url(""))
    refusal = laboratory.call(experiments.load, model_dir, tmp_path, "tiny.yaml", offline=True)
    assert refusal == Refusal(
        ErrorKind.TRANSIENT,
        ErrorCode.MODEL_UNAVAILABLE,
        "the model tiny.yaml is not complete in MODEL_FILE_DIR and cannot be downloaded (MODEL_OFFLINE is set): put "
        "its files there, let MODEL_NAME name a model that is there, or allow the download",
    )
    assert source.connections == 0
