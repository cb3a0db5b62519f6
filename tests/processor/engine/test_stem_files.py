"""Stem files: at the song's level, complete or absent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.errors import ErrorCode, PermanentError
from pipeline.stem_name import normalise_stem_name
from processor.audio.wav import Samples
from processor.engine.stem_files import StemFiles
from processor.ipc import Separate, Stem
from processor.separation.stems import StemMissingError

FRAMES = 1000


def job(folder: Path, *, peak: float = 1.0, stems: tuple[str, ...] | None = None) -> Separate:
    return Separate(1, folder / "mixture.wav", peak, FRAMES, folder, "a model", stems)


def block(frames: int = FRAMES, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (frames, 2)).astype(np.float32)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Vocals", "vocals"),
        ("No Drums", "no_drums"),
        ("Wind/Inst.", "wind_inst"),
        ("../", "stem"),
        ("人声", "人声"),
        ("ＶＯＣＡＬＳ", "vocals"),
    ],
)
def test_stem_names_are_normalised(name: str, key: str) -> None:
    assert normalise_stem_name(name) == key


def written(work: Separate, *blocks: tuple[str, Samples], expected: Iterable[str] = ()) -> tuple[Stem, ...]:
    """Write these blocks and return the stems."""
    with StemFiles(work) as files:
        for name, samples in blocks:
            files.write(name, samples)
        return files.finish(expected)


def test_blocks_are_written_at_the_level_of_the_song(tmp_path: Path) -> None:
    whole = block()
    (stem,) = written(job(tmp_path, peak=0.25), ("vocals", whole[:300]), ("vocals", whole[300:]))

    content = stem.path.read_bytes()
    np.testing.assert_array_equal(soundfile.read(stem.path, dtype="float32")[0], whole * np.float32(0.25))
    assert (stem.name, stem.frames, stem.channels, stem.sample_rate) == ("vocals", FRAMES, 2, 44_100)
    assert (stem.bytes, stem.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert stem.peak == np.max(np.abs(whole)) * np.float32(0.25)


def test_only_wanted_stems_are_written_in_their_order(tmp_path: Path) -> None:
    given = [(name, block()) for name in ("vocals", "bass", "drums")]
    stems = written(job(tmp_path, stems=("drums", "vocals")), *given, expected=["vocals", "bass", "drums"])
    assert [stem.name for stem in stems] == ["drums", "vocals"]
    assert files_in(tmp_path) == {"drums.wav", "vocals.wav"}


def test_missing_expected_stem_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StemMissingError) as caught:
        written(job(tmp_path), ("vocals", block()), expected=["vocals", "drums", "bass"])
    assert str(caught.value) == "the model gave no bass and no drums"
    assert files_in(tmp_path) == set()


def test_missing_wanted_stem_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        written(job(tmp_path, stems=("kazoo",)), ("vocals", block()))
    assert caught.value.code is ErrorCode.STEM_UNKNOWN
    assert caught.value.message == "the model has no stem named kazoo; it has vocals"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_an_error(tmp_path: Path, number: float) -> None:
    broken = block()
    broken[FRAMES // 2, 1] = number
    with pytest.raises(StemMissingError) as caught:
        written(job(tmp_path), ("bass", block()), ("vocals", broken))
    assert str(caught.value) == "vocals has samples that are no numbers"
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("frames", [FRAMES - 1, FRAMES + 1])
def test_stem_of_another_length_is_an_error(tmp_path: Path, frames: int) -> None:
    with pytest.raises(StemMissingError) as caught:
        written(job(tmp_path), ("bass", block()), ("vocals", block(frames)))
    assert str(caught.value) == f"vocals has {frames} samples, the song has {FRAMES}"
    assert files_in(tmp_path) == set()


def test_interrupted_work_leaves_no_files(tmp_path: Path) -> None:
    files = StemFiles(job(tmp_path))
    with suppress(KeyboardInterrupt), files:
        files.write("vocals", block(10))
        assert files_in(tmp_path) == {"vocals.wav"}
        raise KeyboardInterrupt
    assert files_in(tmp_path) == set()


def test_full_disk_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "vocals.wav").symlink_to("/dev/full")
    with pytest.raises(OSError, match="the disk is full"):
        written(job(tmp_path), ("bass", block()), ("vocals", block()))
    assert files_in(tmp_path) == set()
